import math

import pytest
import torch

from lumen.ops.losses import binary_cross_entropy, dice_loss, giou_loss


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
