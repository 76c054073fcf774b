"""What writes files: checkpoints, exported models, caches, data sets, answers, jobs of labelling."""

from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.shapes import make_shapes
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views
from lumen.inference.labelling.merge import merge_parts
from lumen.inference.labelling.run import Effort
from lumen.inference.labelling.start import label_source
from lumen.inference.predictor import LumenPredictor
from lumen.inference.pretrained import save_pretrained
from lumen.inference.reports import Request, write_json
from lumen.lmm.nano.model import make_nano
from lumen.metrics.refer_answers import Answers
from lumen.serialization.atomic import publish_folder, temporary_folder
from lumen.serialization.checkpoint import save_checkpoint, write_pointer
from lumen.serialization.feature_cache import CacheWriter
from lumen.structures import PerceptionSample, Prompt
from soaking._disk import Writer
from soaking._model import INPUT_HW, SIZES, config_of, save_tiny_model


def all_writers() -> list[Writer]:
    """Return them; a tiny model and a few pictures are made once."""
    place = Path(mkdtemp())
    predictor = LumenPredictor.from_pretrained(save_tiny_model(place)[0], device="cpu")
    photos = place / "photos"
    photos.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    return [
        Writer("checkpoint", _checkpoint),
        Writer("checkpoint, pointer", lambda folder, version: write_pointer(folder / f"iter_{version}.pth")),
        Writer("feature cache", _cache),
        Writer("answers of an evaluation", _answers),
        Writer("lumen predict --json", lambda f, version: write_json(f / "a.json", {"rows": [version] * 3000})),
        Writer("shapes", lambda folder, version: _shapes(folder / "shapes", version)),
        Writer("nano", lambda folder, version: _nano(folder, version)),
        Writer(
            "exported model", lambda folder, version: _export(predictor, place / "base", folder / f"model-{version}")
        ),
        Writer("lumen label", lambda folder, version: _label(predictor, photos, folder / f"labels-{version}")),
    ]


def _checkpoint(folder: Path, version: int) -> None:
    save_checkpoint(folder / "best.pth", {"state_dict": {"a": torch.full((20_000,), version)}, "meta": {}})


def _cache(folder: Path, version: int) -> None:
    with CacheWriter(folder / f"cache-{version}", images_per_shard=2) as writer:
        for number in range(5):
            sample = PerceptionSample(metainfo={"prompts": (Prompt("star"),), "img_id": number})
            writer.add({"dense": torch.full((20, 100), version)}, sample)
        writer.finish(weights={"a": torch.ones(100)}, data={"b": "c"}, model={"base": "tiny"})


def _answers(folder: Path, version: int) -> None:
    rows = 500
    noise = np.random.default_rng(version)
    boxes, reals, numbers = noise.random((rows, 4)), noise.random(rows), np.arange(rows)
    kinds = np.full(rows, "plain")
    Answers(numbers, numbers, kinds, reals, boxes, boxes, reals, reals).save(folder / "answers.npz")


def _shapes(folder: Path, version: int) -> None:
    make_shapes(folder, 4, 2, version, workers=1, num_test=1, force=version > 1)


def _nano(folder: Path, version: int) -> None:
    with temporary_folder(folder / "nano") as temporary:  # as tools/make_nano.py does
        make_nano(temporary, sizes=SIZES, seed=version)
        publish_folder(temporary, folder / "nano", replace=True)


def _export(predictor: LumenPredictor, base: Path, folder: Path) -> None:
    views = Views(ResizeToInput(input_hw=INPUT_HW), CropInstance(input_hw=INPUT_HW), AskKeypoints())
    save_pretrained(predictor.model, folder, config=config_of(base), views=views)


def _label(predictor: LumenPredictor, photos: Path, folder: Path) -> None:
    request, opened = Request(("star", "red ring"), "detection", 0.0), SimpleNamespace(open=lambda: predictor)
    options: dict[str, Any] = {"formats": ("coco",), "part_size": 1, "effort": Effort(batch_size=1, workers=1)}
    label_source((photos, None), request, opened, folder, **options)
    merge_parts(folder, ("coco",))
