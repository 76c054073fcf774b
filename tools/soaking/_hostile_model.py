"""Hostile models and requests: checkpoints, archives, base folders, chat templates, what is sent to a server."""

import base64
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from lumen.data.image import decode_image
from lumen.inference.labelling.job import read_job
from lumen.inference.pretrained import from_pretrained
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.tokens.templates import find_template
from lumen.metrics.refer_answers import Answers
from lumen.serialization.checkpoint import find_checkpoint, load_checkpoint
from lumen.serialization.feature_cache import FeatureCache
from lumen.serving.bodies import Fields, from_base64, make_request, read_fields
from lumen.serving.label_studio import read_labels, read_source
from lumen.serving.limits import Limits
from soaking._hostile import Hostile
from soaking._hostile_data import Payload, linked, made, pipe, written
from soaking._model import save_tiny_model
from soaking._readers_text import LABELS


def checkpoint_files() -> list[Hostile]:
    """Return checkpoints."""

    def runs(call: Callable[..., Any], *, is_zip: bool) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            content = {"state_dict": {}, "meta": Payload(folder, call)}
            torch.save(content, folder / "a.pth", _use_new_zipfile_serialization=is_zip)
            return folder / "a.pth"

        return build

    def whole(content: Any) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            torch.save(content, folder / "a.pth")
            return folder / "a.pth"

        return build

    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    wide = torch.zeros(1).expand(2**40)
    doubled: list[Any] = [1]
    for _ in range(40):
        doubled = [doubled, doubled]
    config = {"config": "__import__('os').system('touch canary')"}
    builds = {
        "calls os.system": runs(__import__("os").system, is_zip=True),
        "calls eval": runs(eval, is_zip=True),
        "calls exec, old format": runs(exec, is_zip=False),
        "is a plain pickle": written("a.pth", pickle.dumps({"state_dict": {}, "meta": {}})),
        "a config that is code": whole({"state_dict": {}, "meta": config}),
        "a tensor of 2^40 numbers over one": whole({"state_dict": {"a": wide}, "meta": {}}),
        "dicts in dicts, 300 deep": whole({"state_dict": {}, "meta": deep}),
        "a list that doubles 40 times": whole({"state_dict": {}, "meta": {"a": doubled}}),
        "a sparse tensor": whole({"state_dict": {"a": torch.eye(3).to_sparse()}, "meta": {}}),
        "1 GB of zeros, compressed": made("a.pth", lambda: _zip({"a/data.pkl": bytes(2**30)}, zipfile.ZIP_DEFLATED)),
        "100,000 parts": made("a.pth", lambda: _zip({f"a/data/{n}": b"" for n in range(100_000)})),
        "a part outside": written("a.pth", _zip({"../../a/data.pkl": pickle.dumps({})})),
        "pipe": pipe("a.pth"),
        "link to /dev/zero": linked("a.pth", "/dev/zero"),
    }
    files = [Hostile(f"checkpoint, {name}", build, load_checkpoint) for name, build in builds.items()]
    pointer = written("last_checkpoint", b"../../../../etc/passwd")
    return [*files, Hostile("checkpoint, pointer outside", pointer, lambda path: find_checkpoint(path.parent))]


def archive_files() -> list[Hostile]:
    """Return saved answers, feature caches and jobs."""

    def objects(folder: Path) -> Path:
        np.savez(folder / "a.npz", images=np.array([Payload(folder)], dtype=object))
        return folder / "a.npz"

    def cache(folder: Path) -> Path:
        content = {"format": 1, "num_images": 2**62, "images_per_shard": 1, "files": {"../../etc/passwd": 1}}
        (folder / "cache.json").write_text(json.dumps(content))
        return folder

    def job(folder: Path) -> Path:
        (folder / "job.json").write_text('{"version": ' + "[" * 200_000 + "}")
        return folder

    def bomb() -> bytes:
        return _zip({"images.npy": _npy_header(2**31) + bytes(2**28)}, zipfile.ZIP_DEFLATED)

    return [
        Hostile("answers, a pickle inside", objects, Answers.load),
        Hostile("answers, 16 GB that are only stated", made("a.npz", bomb), Answers.load),
        Hostile("feature cache, files outside", cache, FeatureCache),
        Hostile("lumen label, job of lists in lists", job, read_job),
    ]


def base_folders() -> list[Hostile]:
    """Return base models and exported models: folders that were handed on."""
    model, base = save_tiny_model(Path(mkdtemp()))
    code = {"AutoConfig": "code.Own", "AutoModelForImageTextToText": "code.Own", "AutoTokenizer": ["code.Own", None]}

    def changed(source: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            copy = folder / "copy"
            shutil.copytree(source, copy)
            for name in ("code.py", "custom_generate/generate.py"):
                (copy / name).parent.mkdir(exist_ok=True)
                (copy / name).write_text(f"open({str(folder / 'canary')!r}, 'w')\nclass Own: pass\n")
            content = json.loads((copy / file).read_text()) if (copy / file).exists() else {}
            change(content)
            (copy / file).write_text(json.dumps(content))
            return copy

        return build

    def pickled(folder: Path) -> Path:
        copy = Path(shutil.copytree(base, folder / "copy"))
        (copy / "model.safetensors").unlink()
        torch.save({"a": Payload(folder)}, copy / "pytorch_model.bin")
        return copy

    changes: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
        "auto_map in config.json": ("config.json", lambda c: c.update(auto_map=code, model_type="own")),
        "auto_map beside a known type": ("config.json", lambda c: c.update(auto_map=code)),
        "auto_map of the vision tower": ("config.json", lambda c: c["vision_config"].update(auto_map=code)),
        "auto_map of the LLM": ("config.json", lambda c: c["text_config"].update(auto_map=code)),
        "auto_map of the tokenizer": ("tokenizer_config.json", lambda c: c.update(auto_map=code)),
        "auto_map of the processor": ("processor_config.json", lambda c: c.update(auto_map=code)),
        "attention from a repository": ("config.json", lambda c: c.update(_attn_implementation="someone/kernel")),
        "hidden size of 10^9": ("config.json", lambda c: c["text_config"].update(hidden_size=10**9)),
        "an LLM of 10^6 layers": ("config.json", lambda c: c["text_config"].update(num_hidden_layers=10**6)),
        "a vocabulary of 10^9": ("config.json", lambda c: c["text_config"].update(vocab_size=10**9)),
    }  # fmt: skip
    files = [Hostile(f"base, {name}", changed(base, *change), _adapter) for name, change in changes.items()]
    models: dict[str, Callable[[dict[str, Any]], Any]] = {
        "a class that is os.system": lambda c: c["model"]["decoders"].append({"type": "os.system", "command": "x"}),
        "a base on the hub": lambda c: c["model"]["lmm"].update(name_or_path="someone/model"),
        "a decoder of a class of torch": lambda c: c["model"]["decoders"].append({"type": "torch.hub.load"}),
        "an aligner of 10^9 channels": lambda c: c["model"]["aligner"].update(channels=10**9),
        "a base that is /dev/zero": lambda c: c["model"]["lmm"].update(name_or_path="/dev/zero"),
    }
    return [
        *files,
        Hostile("base, weights as a pickle", pickled, _adapter),
        *(Hostile(f"model.json, {n}", changed(model, "model.json", c), from_pretrained) for n, c in models.items()),
    ]


def template_files() -> list[Hostile]:
    """Return chat templates, which are programs that come with a model."""
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(Path(mkdtemp()))[1], trust_remote_code=False)

    def find(path: Path) -> str:
        return find_template("tiny", tokenizer, placeholder="<image>", given=str(path))

    nest = "".join("{% for " + name + " in range(99999) %}" for name in "abc") + "x" + "{% endfor %}" * 3
    templates = {
        "a product": "{{ 'a' * 10**10 }}",
        "a width": "{{ '%99999999999d' % 1 }}",
        "a width from a text": "{{ 'a'.center('99999999999'|int) }}",
        "loops in loops": nest,
        "a text that doubles": "{% set n = namespace(t='a') %}"
        + "{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "a macro that calls itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "attributes of Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "globals": "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
        "an include": "{% include '/etc/passwd' %}",
        "5 MB": "{# #}" + "a" * 5_000_000,
    }
    files = [Hostile(f"template, {n}", written("a.jinja", text.encode()), find) for n, text in templates.items()]
    return [*files, Hostile("template, bytes that are no text", written("a.jinja", b"{{ \xff\xfe }}"), find)]


def request_files() -> list[Hostile]:
    """Return what is sent to a server."""
    laughs = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12))
    entity = LABELS.replace("star", "&x;")
    configs = {
        "entities that multiply": f'<!DOCTYPE a [<!ENTITY a0 "ha">{laughs}]><View>&a12;</View>',
        "an entity from a file": f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{entity}',
        "tags in tags": "<View>" * 10_000 + "</View>" * 10_000,
    }  # fmt: skip
    files = [
        Hostile(f"Label Studio, {name}", written("a.xml", text.encode()), lambda path: read_labels(path.read_text()))
        for name, text in configs.items()
    ]
    bomb = base64.b64encode(_bomb_png()).decode()
    fields = json.dumps({"phrases": ["a"] * 1_000_000}).encode()
    return [
        *files,
        Hostile("Label Studio, a path outside", written("a", b"/data/local-files/?d=..%2f..%2fetc/passwd"), _local),
        Hostile("Label Studio, a path of /", written("a", b"/data/local-files/?d=%2fetc%2fpasswd"), _local),
        Hostile("request, an image bomb in base64", written("a", bomb.encode()), _coded),
        Hostile("request, a million phrases", written("a.json", fields), _fields),
    ]


def _adapter(folder: Path) -> Any:
    return HFAdapter(str(folder), base={"attention": "eager"})


def _local(path: Path) -> Any:
    return read_source(path.read_text(), path.parent, Limits())


def _coded(path: Path) -> Any:
    return decode_image(from_base64(path.read_text()), "the image", max_pixels=Limits().pixels)


def _fields(path: Path) -> Any:
    return make_request(read_fields(Fields, json.loads(path.read_bytes())), Limits())


def _zip(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def _npy_header(length: int) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (length,)})
    return file.getvalue()


def _bomb_png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    return file.getvalue()
