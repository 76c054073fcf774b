"""A tiny model with random weights, for what depends on files and threads and not on what is learned."""

from pathlib import Path
from typing import Any

import torch

from lumen.aligners.dense import DenseAligner
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views
from lumen.decoders.detection import DetectionDecoder
from lumen.inference.pretrained import save_pretrained
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.model import NanoSizes, make_nano
from lumen.registry import MODELS

SIZES = NanoSizes(width=32, llm_layers=2, vision_layers=1, stem_channels=(16, 16, 32), stem_depths=(0, 0, 1))
INPUT_HW = (64, 64)


def save_tiny_model(folder: Path) -> tuple[Path, Path]:
    """Write a base model and a model that finds boxes with it; return the folder of the latter and of the base."""
    base = make_nano(folder / "base", sizes=SIZES, seed=0)
    config = config_of(base)
    torch.manual_seed(0)
    model = MODELS.build(config).eval()
    views = Views(ResizeToInput(input_hw=INPUT_HW), CropInstance(input_hw=INPUT_HW), AskKeypoints())
    return save_pretrained(model, folder / "model", config=config, views=views, classes=["star", "ring"]), base


def config_of(base: Path) -> dict[str, Any]:
    """Return the config of a model with a base model."""
    return {
        "type": "Lumen",
        "lmm": {"type": HFAdapter, "name_or_path": str(base), "base": {"attention": "eager"}},
        "aligner": {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        "decoders": [{"type": DetectionDecoder}],
    }
