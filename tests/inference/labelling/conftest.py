import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from lumen.aligners.dense import DenseAligner
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.text import CaptionDecoder
from lumen.inference.predictor import LumenPredictor
from lumen.inference.pretrained import save_pretrained
from lumen.lmm.adapter import HFAdapter
from lumen.registry import MODELS


@pytest.fixture(scope="session")
def exported(tiny_nano, tmp_path_factory):
    """Return the folder of an exported model that answers with boxes and masks."""
    config = {
        "type": "Lumen",
        "lmm": {"type": HFAdapter, "name_or_path": str(tiny_nano), "base": {"attention": "eager"}},
        "aligner": {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64},
        "decoders": [{"type": kind} for kind in (DetectionDecoder, SegmentationDecoder, CaptionDecoder)],
    }
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(config)
    views = Views(ResizeToInput(input_hw=(32, 32)), CropInstance(input_hw=(32, 32)), AskKeypoints())
    return save_pretrained(model, tmp_path_factory.mktemp("exported") / "model", config=config, views=views)


@pytest.fixture(scope="session")
def predictor(exported):
    return LumenPredictor.from_pretrained(exported, device="cpu")


@pytest.fixture
def photos(tmp_path):
    """Return a folder of seven pictures of two sizes, some of them in a folder below it."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = ("a.png", "b.jpg", "c.png", "sub/a.png", "sub/b.png", "x.png", "y.png")
    for number, name in enumerate(names):
        pixels = rng.integers(0, 256, (40, 50 + 10 * (number % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder
