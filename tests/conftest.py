import gc
import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read once, by torch and by processes of tests
sys.path.insert(0, str(Path(__file__).parent / "lmm"))  # the package ``zoo`` of tiny models, for all tests

import pytest
import torch
import zoo
from helpers import TINY, adapter_options
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano import efficientnet
from lumen.lmm.nano.model import NanoSizes, make_nano
from lumen.model import Lumen

torch.set_num_threads(1)  # a second thread of a tiny model only spins


def pytest_collection_finish():
    """Take all that is imported out of garbage collection: MMEngine collects each time it has read a data set."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _end_runs():
    """End what runners of a test leave in this process: their scope of names, and log files that would stay open."""
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            handler.close()
    for kind in (MMLogger, MessageHub, DefaultScope):
        kind._instance_dict.clear()


@pytest.fixture(scope="session")
def tiny_nano(tmp_path_factory):
    """Return the folder of a two-layer nano model with random weights."""
    return make_nano(tmp_path_factory.mktemp("nano"), sizes=TINY, seed=0)


@pytest.fixture(scope="session")
def tiny_seeing(tmp_path_factory):
    """Return the folder of a two-layer nano model with the fine level and the words of one that is pretrained."""
    return make_nano(tmp_path_factory.mktemp("seeing"), sizes=replace(TINY, tied=True, seeing=True))


@pytest.fixture(scope="session")
def repositories(tmp_path_factory):
    """Return a function that saves the tiny model of a family once and gives its folder."""
    return cache(lambda family: zoo.save(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="session")
def tiny_photo(tmp_path_factory):
    """Return the folder of a small photo base; the weights of its tower, which lie in a package, are random."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "load_imagenet_weights", lambda network: None)
        sizes = NanoSizes(width=32, vision_layers=1, tower="efficientnet-lite0")
        return make_nano(tmp_path_factory.mktemp("photo"), sizes=sizes)


@pytest.fixture
def tiny_lumen(tiny_nano):
    """Return a whole tiny model with the box decoder, in evaluation mode."""
    torch.manual_seed(0)
    return Lumen(
        lmm={
            "type": HFAdapter,
            "name_or_path": str(tiny_nano),
            "base": {"attention": "eager"},
            "readout": {"add_phrase_state": True, "phrase_reconstruction": True},
        },
        aligner={"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        decoders=[{"type": DetectionDecoder}],
    ).eval()


@pytest.fixture
def make_adapter(tiny_nano):
    """Return a function that loads the tiny nano model; eager attention and the compact template unless told.

    Options of all groups are given by name alone, since no name is in two groups.
    """

    def make(**options):
        torch.manual_seed(0)
        return HFAdapter(str(tiny_nano), **adapter_options(**({"attention": "eager"} | options))).eval()

    return make
