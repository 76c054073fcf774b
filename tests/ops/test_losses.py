import math

import pytest
import torch
from helpers import make_sample

from lumen.ops.losses import NOTHING_WEIGHT, binary_cross_entropy, dice_loss, giou_loss, naming_loss
from lumen.structures import LocFeatures, NameScores


def test_giou_loss_by_hand():
    pred = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    target = torch.tensor([[0.0, 0.0, 2.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    assert torch.allclose(giou_loss(pred, target), torch.tensor([0, 4 / 3]))


def test_dice_loss_by_hand():
    target = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    logits = torch.tensor([[[50.0, -50.0]], [[50.0, -50.0]], [[-50.0, -50.0]]])
    assert torch.allclose(dice_loss(logits, target), torch.tensor([0, 1 - 3 / 4, 0]), atol=1e-6)


def test_cross_entropy_is_averaged_over_one_item():
    assert torch.allclose(binary_cross_entropy(torch.zeros(2, 3, 3), torch.ones(2, 3, 3)), torch.tensor(math.log(2)))
    values = binary_cross_entropy(torch.tensor([0.0, 100.0]), torch.zeros(2))
    assert torch.allclose(values, torch.tensor([math.log(2), 100.0]))


@pytest.mark.parametrize(
    ("loss", "shape"), [(giou_loss, (0, 4)), (dice_loss, (0, 3, 3)), (binary_cross_entropy, (0, 3, 3))]
)
def test_no_items_give_a_connected_sum(loss, shape):
    pred = torch.zeros(shape, requires_grad=True)
    values = loss(pred, torch.zeros(shape))
    values.sum().backward()
    assert values.shape == (0,)
    assert pred.grad is not None


@pytest.mark.parametrize(
    ("loss", "shape"), [(giou_loss, (2, 4)), (dice_loss, (2, 3, 3)), (binary_cross_entropy, (2, 3, 3))]
)
def test_half_precision_is_computed_in_float32(loss, shape):
    assert loss(torch.ones(shape, dtype=torch.bfloat16), torch.ones(shape)).dtype == torch.float32


@pytest.mark.parametrize("loss", [dice_loss, binary_cross_entropy])
def test_mask_losses_have_the_right_gradient(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 3, 4, generator=generator) > 0.5).double()
    assert torch.autograd.gradcheck(loss, (logits, target))


def named(samples, image_index, prompt_index):
    """Return features of 2 x 2 image tokens of 32 pixels, twice the cells of the grid."""
    pairs, images = len(image_index), len(samples)
    names = NameScores(torch.arange(-4.0 * pairs, 0.0).view(pairs, 2, 2), torch.full((images, 2, 2), -10.0))
    return LocFeatures(
        query=torch.zeros(pairs, 8),
        grid=torch.zeros(images, 8, 4, 4),
        laterals=(),
        stride=16,
        image_index=torch.tensor(image_index),
        prompt_index=torch.tensor(prompt_index),
        names=names,
    )


def test_names_are_read_in_the_cells_of_objects_and_nothing_elsewhere():
    # a small box in cell (0, 0), and one that covers the centres of both lower cells; the second image asks in vain
    samples = [make_sample(["cat", "dog"], [[0, 0, 10, 10], [4, 40, 60, 60]], [1, 1]), make_sample(["cat"])]
    features = named(samples, [0, 0, 1], [0, 1, 0])
    phrases = features.names.phrases
    wanted = -(phrases[1, 0, 0] + phrases[1, 1].mean()) + NOTHING_WEIGHT * 10  # only cell (0, 1) is empty
    torch.testing.assert_close(naming_loss(features, samples), wanted)
    assert naming_loss(features, [make_sample(["cat", "dog"]), make_sample(["cat"])]) == 0


def test_what_is_ignored_and_what_surrounds_points_is_not_nothing():
    ignored = [make_sample(["cat"], [[0, 0, 10, 10]], [0], ignored=[[32, 0, 64, 64]], ignored_index=[0])]
    features = named(ignored, [0], [0])
    torch.testing.assert_close(naming_loss(features, ignored), -features.names.phrases[0, 0, 0] + NOTHING_WEIGHT * 10)
    point = [make_sample(["nose"], [[40, 8, 40, 8]], [0])]
    torch.testing.assert_close(naming_loss(features, point), -features.names.phrases[0, 0, 1])
