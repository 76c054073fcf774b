"""Cached ``LocFeatures``: what the LMM gives for a data set with fixed prompts, written once, read by memory mapping.

A cache is a folder. ``cache.json`` describes what it was made from; ``shard_00000.safetensors`` and so on hold, for
each image, the dense maps once, the query of each pair, the extras, and the sample with its targets. Nothing in it is
code.
``lmm.safetensors`` holds the trained weights of the LMM, so that checkpoints of the cached stage are whole.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumen.errors import CheckpointError, DataError, named_faults
from lumen.ops.geometry import InputTransform
from lumen.paths import find_path
from lumen.serialization.atomic import publish_folder, temporary_folder
from lumen.serialization.fingerprint import digest_tensors, require_equal
from lumen.structures import PerceptionSample, Prompt

FORMAT = 2
_WRITE_AGAIN = "write the cache again"
_REMEDY = "Write the cache again, or name the one that fits"
MANIFEST = "cache.json"
WEIGHTS = "lmm.safetensors"


class CachedImage(BaseDataElement):
    """The features of one image as they stand in a batch: the input of ``CachedAdapter`` in place of an image.

    Data fields: ``grid`` (vision_dim, height, width), ``lateral_0`` and so on (finest first), ``query`` (pairs, dim),
    ``prompt_index`` (pairs), ``extra_<name>``. Metainfo: ``model``, the fingerprint of the LMM that made them.
    """


class FeatureCache:
    """A cache that is read image by image.

    Args:
        folder: The folder that ``tools/cache_features.py`` wrote; looked up by ``lumen.paths.find_path``.

    Raises:
        DataError: There is no cache, or it is not complete.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(find_path(folder))
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            raise DataError(
                f"{folder} is not a feature cache: it holds no {MANIFEST}; write one by tools/cache_features.py"
            )
        with named_faults(f"{manifest} cannot be read", DataError, remedy=_WRITE_AGAIN):
            self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
            _check_manifest(self.manifest, manifest)
            # Sizes are compared at once: a truncated shard would fail in the middle of an epoch.
            for name, size in self.manifest["files"].items():
                found = (self.folder / name).stat().st_size if (self.folder / name).is_file() else 0
                if found != size:
                    raise DataError(f"{self.folder / name} has {found} bytes, expected {size}: {_WRITE_AGAIN}")
        self._shards: dict[int, _Shard] = {}

    def __len__(self) -> int:
        return self.manifest["num_images"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # a loader's worker opens the files for itself

    @property
    def model(self) -> dict[str, str]:
        """Fingerprint of the LMM: its description, the digest of its weights, its settings."""
        return self.manifest["model"]

    def read(self, index: int) -> tuple[CachedImage, PerceptionSample]:
        """Return the features and the sample of one image.

        Raises:
            DataError: The shard is damaged: its digests are compared with what was written.
        """
        # `range` gives negative and out-of-range indices their usual meaning.
        number, place = divmod(range(len(self))[index], self.manifest["images_per_shard"])
        name = shard_name(number)
        with named_faults(f"{self.folder / name} cannot be read", DataError, remedy=_WRITE_AGAIN):
            if number not in self._shards:
                self._shards[number] = _Shard(self.folder / name, self.manifest["notes"][name])
            tensors, sample = self._shards[number].read(place)
        return CachedImage(metainfo={"model": self.model}, **tensors), sample

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights of the LMM by name, memory-mapped."""
        with _open(self.folder / WEIGHTS) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if digest_tensors(weights) != self.manifest["weights"]:
            raise DataError(f"{self.folder / WEIGHTS} does not hold the weights that {MANIFEST} names: {_WRITE_AGAIN}")
        return weights

    def require_model(self, other: Mapping[str, str], what: str) -> None:
        """Raise CheckpointError, naming what differs, unless ``other`` is the fingerprint of the LMM of this cache."""
        complaint = f"{self.folder} was made by another model than {what}"
        require_equal(self.model, other, complaint, remedy=_REMEDY, error=CheckpointError)

    def require_data(self, other: Mapping[str, str], what: str) -> None:
        """Raise DataError, naming what differs, unless ``other`` describes the data that this cache was made from."""
        complaint = f"{self.folder} was made from other data than {what}"
        require_equal(self.manifest["data"], other, complaint, remedy=_REMEDY, error=DataError)


class CacheWriter:
    """Writes a cache into a temporary folder; ``finish`` gives it its name. Without ``finish`` nothing is kept.

    Args:
        folder: Where the cache will be.
        images_per_shard: Images in one file.

    Raises:
        DataError: The folder exists.
    """

    def __init__(self, folder: Path, *, images_per_shard: int) -> None:
        if folder.exists():
            raise DataError(f"{folder} exists: remove it, or name another folder")
        self.folder = folder
        self.images_per_shard = images_per_shard
        self.num_images = 0
        self._tensors: dict[str, Tensor] = {}
        self._notes = _Notes()
        self._note_digests: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self._scratch = temporary_folder(folder)

    def __enter__(self) -> "CacheWriter":
        self.temporary = self._scratch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._scratch.__exit__(*error)

    def add(self, tensors: Mapping[str, Tensor], sample: PerceptionSample) -> None:
        """Append one image.

        Args:
            tensors: The data fields of ``CachedImage``.
            sample: The sample with its targets, on the CPU.
        """
        # Some pipelines draw prompts at random, so their digest is stored beside that of the data.
        self._digest.update(json.dumps([asdict(prompt) for prompt in sample.prompts]).encode())
        # Tensors are named by the place of their image in the shard.
        place = self.num_images % self.images_per_shard
        targets = self._notes.add(sample)
        # Clones: a tensor may be a view of a batch, whose storage would be kept.
        named = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in {**{f"features/{k}": v for k, v in tensors.items()}, **targets}.items()
        }
        self._notes.digests.append(_digest(named))
        self._tensors |= {f"{place}/{name}": tensor for name, tensor in named.items()}
        self.num_images += 1
        if self.num_images % self.images_per_shard == 0:
            self._write_shard()

    def finish(self, *, weights: Mapping[str, Tensor], data: Mapping[str, str], **manifest: Any) -> None:
        """Write what remains and give the folder its name.

        Args:
            weights: The trained weights of the LMM.
            data: Fingerprint of the data; the digest of the prompts is added.
            **manifest: What else ``cache.json`` holds: strings, numbers, lists, dicts.
        """
        # The last shard may be shorter; an empty data set still gets one.
        if self._tensors or self.num_images == 0:
            self._write_shard()
        self._save(WEIGHTS, {name: tensor.cpu().contiguous().clone() for name, tensor in weights.items()})
        content = {
            "format": FORMAT,
            "num_images": self.num_images,
            "images_per_shard": self.images_per_shard,
            "data": dict(data),
            "prompts": self._digest.hexdigest(),
            "weights": digest_tensors(weights),
            "notes": self._note_digests,
            # Sizes let a reader notice an incomplete copy.
            "files": {path.name: path.stat().st_size for path in sorted(self.temporary.iterdir())},
            **manifest,
        }
        (self.temporary / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        publish_folder(self.temporary, self.folder)

    def _write_shard(self) -> None:
        number = max(0, self.num_images - 1) // self.images_per_shard
        name, texts = shard_name(number), self._notes.texts()
        self._save(name, self._tensors, texts)
        self._note_digests[name] = _digest_texts(texts)
        self._tensors, self._notes = {}, _Notes()

    def _save(self, name: str, tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> None:
        # safetensors has an error of its own for a full disk.
        with named_faults(f"{self.folder} cannot be written", DataError, remedy="make room, or name another folder"):
            save_file(dict(tensors), self.temporary / name, metadata=None if texts is None else dict(texts))


class _Notes:
    """What is not a tensor, as json: values that many samples share, such as class names, are written once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._samples: list[dict[str, Any]] = []
        self.digests: list[int] = []

    def add(self, sample: PerceptionSample) -> dict[str, Tensor]:
        """Note a sample; return its tensors by path."""
        tensors, tables = {}, {}
        for table, instances in sample.items():
            # Tensors go into the shard; everything else goes into its metadata as json.
            columns = tables[table] = {}
            for column, value in instances.items():
                if isinstance(value, Tensor):
                    tensors[f"{table}/{column}"] = value
                    columns[column] = None
                else:
                    columns[column] = self._place(f"{table}.{column}", value)
        metainfo = {key: self._place(key, _to_json(key, value)) for key, value in sample.metainfo_items()}
        self._samples.append({"tables": tables, "metainfo": metainfo})
        return tensors

    def texts(self) -> dict[str, str]:
        """Return the metadata of a shard."""
        lists = {"samples": self._samples, "values": list(self._places), "digests": self.digests}
        return {name: json.dumps(value) for name, value in lists.items()}

    def _place(self, name: str, value: Any) -> int:
        try:
            text = json.dumps(value)
        except TypeError as error:
            raise DataError(
                f"the sample's {name} cannot be cached ({error}): only text, numbers and lists can"
            ) from error
        # Equal values, such as class names, get one place.
        return self._places.setdefault(text, len(self._places))


class _Shard:
    """One file of a cache; ``notes_digest`` is that of its metadata, by the manifest."""

    def __init__(self, path: Path, notes_digest: int) -> None:
        self._path = path
        self._file = _open(path)
        notes = self._file.metadata()
        if _digest_texts(notes) != notes_digest:
            raise DataError(f"{path} is damaged: its metadata are not those that were written; {_WRITE_AGAIN}")
        self._digests = json.loads(notes["digests"])
        self._samples = json.loads(notes["samples"])
        self._values = [json.loads(text) for text in json.loads(notes["values"])]
        # Names of the features of each image, by its place in the shard.
        self._names: dict[int, list[str]] = {}
        for name in self._file.keys():  # noqa: SIM118 - not a dict
            place, _, name_inside = name.partition("/")
            if name_inside.startswith("features/"):
                self._names.setdefault(int(place), []).append(name_inside.removeprefix("features/"))

    def read(self, place: int) -> tuple[dict[str, Tensor], PerceptionSample]:
        notes = self._samples[place]
        names = [f"features/{name}" for name in self._names[place]]
        tables = notes["tables"].items()
        names += [f"{table}/{key}" for table, columns in tables for key, number in columns.items() if number is None]
        tensors = {name: self._file.get_tensor(f"{place}/{name}") for name in names}
        if _digest(tensors) != self._digests[place]:
            raise DataError(f"{self._path} is damaged: image {place} is not what was written; {_WRITE_AGAIN}")
        metainfo = {key: _from_json(key, self._values[number]) for key, number in notes["metainfo"].items()}
        sample = PerceptionSample()
        for key, value in metainfo.items():  # not by `set_metainfo`, which copies deeply: these are immutable
            sample.set_field(value, key, field_type="metainfo")
        for table, columns in tables:
            fields = {
                column: tensors[f"{table}/{column}"] if number is None else self._values[number]
                for column, number in columns.items()
            }
            sample.set_field(InstanceData(**fields), table)
        return {name: tensors[f"features/{name}"] for name in self._names[place]}, sample


def _digest(tensors: Mapping[str, Tensor]) -> int:
    """Return a check sum of named tensors: fast enough for each read, and changed by any damage to a file."""
    code = 0
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        code = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), code)
        # One element may have a stride of 0, which bytes cannot have.
        flat = tensor.as_strided((tensor.numel(),), (1,))
        code = zlib.crc32(flat.view(torch.uint8).numpy(), code)
    return code


def _digest_texts(texts: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(dict(sorted(texts.items()))).encode())


def _check_manifest(content: Any, path: Path) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise DataError(f"{path} has format {found}, expected {FORMAT}; write it again")
    kinds = {"num_images": int, "images_per_shard": int, "files": dict, "notes": dict, "data": dict, "model": dict}
    kinds["weights"] = str
    wrong = [key for key, kind in kinds.items() if type(content.get(key)) is not kind]
    sizes = ["num_images", "images_per_shard"]
    if wrong or content["num_images"] < 0 or content["images_per_shard"] < 1:
        raise DataError(f"{path} is damaged: {wrong or sizes}; {_WRITE_AGAIN}")
    if content["num_images"] > content["images_per_shard"] * len(content["notes"]):
        raise DataError(f"{path} is damaged: {sizes} name more than {len(content['notes'])} shards; {_WRITE_AGAIN}")


def shard_name(number: int) -> str:
    """Return the name of a file of a cache."""
    return f"shard_{number:05d}.safetensors"


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}): write the cache again") from error


def _to_json(key: str, value: Any) -> Any:
    if key == "prompts":
        return [asdict(prompt) for prompt in value]
    return asdict(value) if isinstance(value, InputTransform) else value


def _from_json(key: str, value: Any) -> Any:
    if key == "prompts":
        return tuple(Prompt(**{name: _tuples(field) for name, field in fields.items()}) for fields in value)
    return InputTransform(**{name: tuple(pair) for name, pair in value.items()}) if key == "frame" else _tuples(value)


def _tuples(value: Any) -> Any:
    """Return json's lists as tuples: metainfo cannot change."""
    return tuple(map(_tuples, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
