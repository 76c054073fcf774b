"""Writing a feature cache: the LMM once over a data set with fixed prompts and plain images."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.registry import DefaultScope
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from lumen.data.pipelines import fill_pipelines
from lumen.engine.model_inputs import inputs_of_config
from lumen.engine.reproducible import seeded_cpu_rng
from lumen.errors import ConfigError, DataError
from lumen.registry import DATASETS, MODELS
from lumen.serialization.checkpoint import load_checkpoint, load_trained_state
from lumen.serialization.feature_cache import CacheWriter
from lumen.serialization.fingerprint import describe_settings, digest_tensors
from lumen.structures import LocFeatures, PerceptionSample

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PREFIX = "lmm."
_SHARD_BYTES = 2**28
_HEADER_BYTES = 2048  # names of tensors and the sample's metainfo, about
_TRIED_IMAGES, _TRIED_SEEDS = 4, 6
_CHANCES = ("flip_probability", "vertical_flip_probability")


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """How a cache is written.

    Args:
        dtype: ``float32`` or ``bfloat16``, of all floating-point features.
        extras: Further features per image: ``images`` (the uint8 input), or what the adapter gives by that name.
        batch_size: Images that the LMM takes at once.
        seed: Seed of the prompts' draw, where the pipeline draws any.
        device: Where the LMM computes.
        amp: Compute in bfloat16.
    """

    dtype: str = "float32"
    extras: tuple[str, ...] = ()
    batch_size: int = 4
    seed: int = 0
    device: str = "cpu"
    amp: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {sorted(DTYPES)}, got {self.dtype!r}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")


def write_cache(config: Config, checkpoint: Path, split: str, out: Path, options: CacheOptions) -> None:
    """Write the features of one split, as the LMM of a checkpoint gives them.

    Args:
        config: A whole config; its model and ``<split>_dataloader.dataset`` are used.
        checkpoint: Its trained weights; for a model of which nothing was trained there is none to cache.
        split: ``train``, ``val`` or ``test``.
        out: Folder to make.
        options: See there.

    Raises:
        ConfigError: The config has no such split, its pipeline augments images, or an extra is unknown.
        CheckpointError: The checkpoint does not fit.
        DataError: The folder exists, or the disk is too small.
    """
    loader = config.get(f"{split}_dataloader")
    if loader is None:
        raise ConfigError(f"the config has no {split}_dataloader")
    settings = fill_pipelines(loader["dataset"], inputs_of_config(config))
    refuse_augmentation(settings)
    data = {"dataset": describe_settings(settings)}
    with DefaultScope.overwrite_default_scope("lumen"):
        adapter = MODELS.build(config["model"]["lmm"]).to(options.device).eval()
        dataset = DATASETS.build(settings)
    weights, absent = load_adapter(adapter, checkpoint)
    # The settings looked plain; a transform of a plug-in may still draw at random.
    refuse_chance(dataset, options.seed)
    # A full disk would end hours of computing: the size is known before the first shard.
    bytes_per_image, stride = _measure(adapter, dataset, options)
    require_room(out.parent, len(dataset) * bytes_per_image + sum(tensor.nbytes for tensor in weights.values()))
    # Digests tie the cache to these weights and settings; a decoder that is trained from it is refused by others.
    model = {"settings": describe_settings(config["model"]["lmm"]), "weights": digest_tensors(adapter.state_dict())}
    with CacheWriter(out, images_per_shard=max(1, _SHARD_BYTES // bytes_per_image)) as writer:
        for start in track(range(0, len(dataset), options.batch_size), description="caching"):
            indices = range(start, min(start + options.batch_size, len(dataset)))
            features, samples = encode(adapter, dataset, indices, options)
            for image, sample in enumerate(samples):
                writer.add(tensors_of(features, image, DTYPES[options.dtype]), sample)
        writer.finish(
            weights=weights,
            data=data,
            model={**adapter.describe(), **model},
            describe=adapter.describe(),
            absent=absent,
            metainfo=dict(dataset.metainfo),
            stride=stride,
            dim=adapter.dim,
            vision_dim=adapter.vision_dim,
            lateral_channels=list(adapter.lateral_channels),
        )


def load_adapter(adapter: nn.Module, checkpoint: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Load the LMM's part of a checkpoint.

    Returns:
        The weights that were loaded, and the names that the checkpoint leaves to the base model, as the adapter names
        them.

    Raises:
        CheckpointError: It does not fit.
    """
    origin = load_checkpoint(checkpoint)
    # Aligner and decoders of the checkpoint take no part in what is cached.
    weights = {name: value for name, value in origin["state_dict"].items() if name.startswith(_PREFIX)}
    load_trained_state(nn.ModuleDict({"lmm": adapter}), {**origin, "state_dict": weights})
    absent = [name for name in origin["meta"].get("absent", ()) if name.startswith(_PREFIX)]
    return {name.removeprefix(_PREFIX): v for name, v in weights.items()}, [n.removeprefix(_PREFIX) for n in absent]


def encode(
    adapter: nn.Module, dataset: Dataset, indices: Sequence[int], options: CacheOptions
) -> tuple[LocFeatures, list[PerceptionSample]]:
    """Run the LMM on a few samples; the features hold the extras that were asked for, and no others."""
    packed = [draw(dataset, index, options.seed) for index in indices]
    images = torch.stack([one["inputs"] for one in packed]).to(options.device)
    samples = [one["data_samples"] for one in packed]
    faults = [sample.fault for sample in samples if "fault" in sample]
    if faults:
        raise DataError(f"features are cached of images that can be used, got: {faults[0]}")
    device_type = torch.device(options.device).type
    with torch.inference_mode(), torch.autocast(device_type, torch.bfloat16, enabled=options.amp):
        # As when predicting: there are no text losses to compute, and forced answers give the same pairs.
        features = adapter(images, [sample.prompts for sample in samples], predicting=True)
    extras = _chosen_extras({"images": images, **features.extras}, options.extras, len(samples))
    return dataclasses.replace(features, extras=extras), samples


def tensors_of(features: LocFeatures, image: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what is stored of one image: the data fields of ``CachedImage``, floating-point tensors in ``dtype``."""
    # Pairs of all images stand in one table; an image keeps its own.
    pairs = features.image_index == image
    tensors = {"grid": features.grid[image], "query": features.query[pairs]}
    tensors["prompt_index"] = features.prompt_index[pairs]
    tensors |= {f"lateral_{level}": lateral[image] for level, lateral in enumerate(features.laterals)}
    tensors |= {f"extra_{name}": extra[image] for name, extra in features.extras.items()}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def draw(dataset: Dataset, index: int, seed: int) -> dict[str, Any]:
    """Return a sample whose random draws depend on its number and the seed alone."""
    with seeded_cpu_rng(seed, index):
        return dataset[index]


def refuse_augmentation(node: Any) -> None:
    """Look for random flips, zooms and colours in the config of a data set.

    Raises:
        ConfigError: There is one; features of one view would stand for all.
    """
    if isinstance(node, list | tuple):
        for entry in node:
            refuse_augmentation(entry)
    if not isinstance(node, Mapping):
        return
    kind = node.get("type", "")
    name = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
    chances = [key for key in _CHANCES if node.get(key)]
    # Zooms and shapes other than the image's own are random views, too.
    chances += ["scale_range"] if node.get("scale_range") is not None else []
    chances += ["aspect_range"] if tuple(node.get("aspect_range", (1, 1))) != (1, 1) else []
    if chances or name == "Photometric":
        raise ConfigError(
            f"{name}({', '.join(chances)}) changes images at random; cached features know one view of each image. "
            "Take it out of the pipeline that is cached, such as by --cfg-options "
            "train_dataloader.dataset.pipeline.1.flip_probability=0"
        )
    for value in node.values():
        refuse_augmentation(value)


def refuse_chance(dataset: Dataset, seed: int) -> None:
    """Draw a few images under several seeds: they must be equal, whatever transforms there are.

    Raises:
        ConfigError: They do not.
    """
    for index in range(min(_TRIED_IMAGES, len(dataset))):
        first, *others = [draw(dataset, index, seed + trial)["inputs"] for trial in range(_TRIED_SEEDS)]
        # Six draws miss a flip of one image in 32 times; four images make that one in a million.
        if not all(torch.equal(first, other) for other in others):
            raise ConfigError(
                f"the pipeline changes image {index} at random; cached features know one view of each image. Take the "
                "augmentation out of the pipeline that is cached"
            )


def require_room(folder: Path, num_bytes: int) -> None:
    """Print the size of what will be written.

    Raises:
        DataError: The disk has less free space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    print(f"the cache will take {_shown(num_bytes)}; {folder} has {_shown(free)} free")
    if num_bytes > free:
        raise DataError(
            f"{folder} has {_shown(free)} free, the cache needs {_shown(num_bytes)}: free some, name another disk, "
            "take --dtype bfloat16, or ask fewer prompts"
        )


def _measure(adapter: nn.Module, dataset: Dataset, options: CacheOptions) -> tuple[int, int]:
    """Return the bytes of one image, a mean of a few, and the stride of the grid."""
    if len(dataset) == 0:
        raise DataError("the data set is empty: there is nothing to cache")
    # Spread over the set: its images may be ordered by size or by number of objects.
    some = range(0, len(dataset), -(-len(dataset) // _TRIED_IMAGES))
    features, samples = encode(adapter, dataset, some, options)
    num_bytes = _HEADER_BYTES * len(samples)
    for image, sample in enumerate(samples):
        # Targets are stored beside the features.
        targets = [value for table in sample.values() for value in table.values() if isinstance(value, Tensor)]
        stored = tensors_of(features, image, DTYPES[options.dtype])
        num_bytes += sum(tensor.nbytes for tensor in [*stored.values(), *targets])
    return -(-num_bytes // len(samples)), features.stride


def _chosen_extras(known: Mapping[str, Any], names: Sequence[str], num_images: int) -> dict[str, Tensor]:
    # A row per image; what belongs to pairs or to the batch cannot be cut by image.
    cacheable = {name: v for name, v in known.items() if isinstance(v, Tensor) and len(v) == num_images}
    unknown = sorted(set(names) - set(cacheable))
    if unknown:
        raise ConfigError(f"extras {unknown} cannot be cached; this model gives {sorted(cacheable)} per image")
    return {name: cacheable[name] for name in names}


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / 10**9:.2f} GB" if num_bytes >= 10**8 else f"{num_bytes / 10**6:.2f} MB"
