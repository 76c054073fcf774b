import pytest
import torch
from serving_cases import png_of, running

from lumen.aligners.dense import DenseAligner
from lumen.decoders.counting import CountingDecoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.text import CaptionDecoder, VqaDecoder
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.serving.limits import Limits

DECODERS = (DetectionDecoder, SegmentationDecoder, CountingDecoder, PoseDecoder, VqaDecoder, CaptionDecoder)


@pytest.fixture(scope="session")
def predictor(tiny_nano):
    """Return a predictor with decoders of random weights."""
    torch.manual_seed(0)
    adapter = HFAdapter(str(tiny_nano), generation={"max_new_tokens": 4})
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    return LumenPredictor(Lumen(adapter, aligner, [{"type": kind} for kind in DECODERS]), input_hw=(64, 64))


@pytest.fixture(scope="session")
def served(predictor, tmp_path_factory):
    """Return the service of a running server, and a client."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "a.png").write_bytes(png_of())
    limits = Limits(body_bytes=200_000, pixels=40_000, phrases=5, body_seconds=1.0)
    with running(predictor, limits, images=folder) as (server, client):
        yield server.config.app.state.service, client
