"""Readers of models and of what a run writes: checkpoints, exported models, base models, caches, jobs."""

import io
import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from lumen.engine.work_folder import was_evaluated
from lumen.errors import CheckpointError
from lumen.inference.labelling.job import Job, open_job, survey, write_part
from lumen.inference.labelling.merge import merge_parts
from lumen.inference.labelling.pictures import Picture
from lumen.inference.predictor import LumenPredictor
from lumen.inference.pretrained import from_pretrained
from lumen.lmm.adapter import HFAdapter
from lumen.metrics.refer_answers import Answers
from lumen.serialization.checkpoint import find_checkpoint, load_checkpoint, load_newest, save_checkpoint
from lumen.serialization.feature_cache import MANIFEST, CacheWriter, FeatureCache, shard_name
from lumen.structures import PerceptionSample, Prompt
from soaking._model import save_tiny_model
from soaking._mutate import mutated_bytes, mutated_json, mutated_tree
from soaking._reader import Read, Reader, file_reader, tree_reader

CHECKPOINT = {
    "state_dict": {"head.weight": [1.0, 2.0], "head.bias": [0.5]},
    "meta": {"iter": 3, "epoch": 0, "seed": 0, "config": "a = 1", "model": {"base": "tiny"}, "absent": ["base"]},
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    "param_schedulers": [{"last_step": 3}],
    "rng": [{"torch": [1, 2, 3]}],
    "hooks": {"checkpoint": {"best": 0.5, "metric": "toy/mean"}},
}
QUESTION = {"phrases": ["star", "red ring"], "task": "detection", "score_threshold": 0.1}


def model_readers() -> list[Reader]:
    """Return the readers; a tiny model is made and saved once."""
    return [*_checkpoint_readers(), *_folder_readers(), *_job_readers(), *_model_readers()]


def _with_tensors(node: Any) -> Any:
    """Return a tree with tensors in place of lists of numbers."""
    if isinstance(node, dict):
        return {str(key): _with_tensors(value) for key, value in node.items()}
    if isinstance(node, list) and node and all(isinstance(value, float) for value in node):
        return torch.tensor(node)
    return [_with_tensors(value) for value in node] if isinstance(node, list) else node


def _torch_file(tree: Any) -> bytes:
    file = io.BytesIO()
    torch.save(_with_tensors(tree), file)
    return file.getvalue()


def _mutated_checkpoint(rng: random.Random) -> bytes:
    """Return a whole file with wrong content, or a right one with wrong bytes."""
    if rng.random() < 0.5:
        return _torch_file(mutated_tree(CHECKPOINT, rng))
    return mutated_bytes(_torch_file(CHECKPOINT), rng)


def _checkpoint_readers() -> list[Reader]:
    def newest(folder: Path) -> Read:
        save_checkpoint(folder / "iter_1.pth", {"state_dict": {}, "meta": {}})

        def read(content: bytes) -> Any:
            (folder / "iter_2.pth").write_bytes(content)
            return load_newest(folder, lambda warning: None)

        return read

    def prepare(folder: Path) -> Read:
        return lambda content: ((folder / "a.pth").write_bytes(content), load_checkpoint(folder / "a.pth"))

    def pointer(path: Path) -> Any:
        (path.parent / "iter_1.pth").touch()
        return find_checkpoint(path.parent)

    return [
        Reader("checkpoints", 20, _mutated_checkpoint, prepare),
        Reader("checkpoints, newest of a folder", 10, _mutated_checkpoint, newest),
        file_reader("checkpoints, pointer", 30, [b"iter_1.pth"], pointer, file="last_checkpoint"),
        file_reader(
            "last evaluation", 30, [b"20\n"], lambda path: was_evaluated(path.parent, 20), file="last_evaluation"
        ),
    ]


def _folder_readers() -> list[Reader]:
    """Return readers of a feature cache, whose manifest and whose shard are changed, and of saved answers."""

    def read_all(folder: Path) -> list[Any]:
        cache = FeatureCache(folder)
        return [cache.read(index) for index in range(len(cache))]

    def cached(folder: Path) -> Path:
        with CacheWriter(folder / "cache", images_per_shard=2) as writer:
            for number in range(3):
                sample = PerceptionSample(metainfo={"prompts": (Prompt("star"),), "img_id": number})
                writer.add({"dense": torch.ones(2, 2)}, sample)
            writer.finish(weights={"a": torch.ones(1)}, data={"b": "c"}, model={"base": "tiny"})
        return folder / "cache"

    def changing(name: str) -> Callable[[Path], Read]:
        def prepare(folder: Path) -> Read:
            written = cached(folder)
            return lambda content: ((written / name).write_bytes(content), read_all(written))

        return prepare

    @cache
    def content(name: str) -> bytes:
        folder = Path(mkdtemp())
        result = (cached(folder) / name).read_bytes()
        shutil.rmtree(folder)
        return result

    def manifest(rng: random.Random) -> bytes:
        return mutated_json(json.loads(content(MANIFEST)), rng)

    answers = io.BytesIO()
    numbers, kinds, boxes, reals = np.zeros(2, dtype=np.int64), np.array(["a", ""]), np.zeros((2, 4)), np.zeros(2)
    tables = {"images": numbers, "prompts": numbers, "kinds": kinds, "targets": boxes, "boxes": boxes}
    np.savez_compressed(answers, **tables, sides=reals, scores=reals, ious=reals)
    return [
        Reader("feature caches, manifest", 10, manifest, changing(MANIFEST)),
        Reader(
            "feature caches, shard", 5, lambda rng: mutated_bytes(content(shard_name(0)), rng), changing(shard_name(0))
        ),
        file_reader("answers of an evaluation", 15, [answers.getvalue()], Answers.load, file="answers.npz"),
    ]


def _job_readers() -> list[Reader]:
    pictures = survey(lambda: (Picture(name, name) for name in ("a.jpg", "b.jpg")), "photos")
    job = Job("photos", pictures, ("star",), "detection", 0.3, {"base": "tiny"}, has_masks=False, part_size=2)
    records = [
        {"file": "a.jpg", "height": 8, "width": 8, "labels": [0], "scores": [0.5], "bboxes": [[1.0, 1.0, 5.0, 5.0]]},
        {"file": "b.jpg", "fault": "cannot be read"},
    ]

    def prepare(name: str) -> Callable[[Path], Read]:
        def started(folder: Path) -> Read:
            open_job(folder / "job", job)
            write_part(folder / "job", 0, records)

            def read(content: bytes) -> Any:
                (folder / "job" / name).write_bytes(content)
                return merge_parts(folder / "job", ["coco"])

            return read

        return started

    @cache
    def content(name: str) -> bytes:
        folder = Path(mkdtemp())
        open_job(folder / "job", job)
        write_part(folder / "job", 0, records)
        result = (folder / "job" / name).read_bytes()
        shutil.rmtree(folder)
        return result

    part = "parts/000000.jsonl"
    return [
        Reader(
            "lumen label, job", 8, lambda rng: mutated_json(json.loads(content("job.json")), rng), prepare("job.json")
        ),
        Reader("lumen label, part", 8, lambda rng: mutated_bytes(content(part), rng), prepare(part)),
    ]


def _model_readers() -> list[Reader]:
    model_folder, base = save_tiny_model(Path(mkdtemp()))
    predictor = LumenPredictor.from_pretrained(model_folder, device="cpu")
    predictor.set_image(np.zeros((48, 64, 3), dtype=np.uint8))
    model_json = json.loads((model_folder / "model.json").read_text())
    base_json = json.loads((base / "config.json").read_text())

    def ask(tree: Any) -> Any:
        if not isinstance(tree, dict) or not set(tree) <= set(QUESTION):
            raise CheckpointError("not the arguments of predict")
        return predictor.predict(**{"phrases": None, **tree})

    def prepare(source: Path, name: str, read: Callable[[Path], Any]) -> Callable[[Path], Read]:
        def copied(folder: Path) -> Read:
            shutil.copytree(source, folder / "model")
            return lambda content: ((folder / "model" / name).write_bytes(content), read(folder / "model"))

        return copied

    def adapter(folder: Path) -> Any:
        return HFAdapter(str(folder), base={"attention": "eager"})

    return [
        tree_reader("predictor, arguments", 2, QUESTION, ask),
        Reader(
            "model.json",
            1,
            lambda rng: mutated_json(model_json, rng),
            prepare(model_folder, "model.json", from_pretrained),
        ),
        Reader(
            "config.json of a base", 1, lambda rng: mutated_json(base_json, rng), prepare(base, "config.json", adapter)
        ),
    ]
