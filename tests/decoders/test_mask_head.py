import pytest
import torch
from decoder_cases import random_shared, with_masks
from helpers import make_sample, make_shared

from lumen.decoders.masks import (
    MaskHead,
    centre_cells,
    cover,
    inside_boxes,
    kernel_size,
    mask_losses,
    mask_out,
    mask_probabilities,
    place_in_boxes,
    run_kernels,
)
from lumen.ops.losses import binary_cross_entropy, dice_loss
from lumen.structures import targets_per_pair


def losses_of(boxes, *, max_objects=64, head=None):
    """Return the mask losses of some boxes of one phrase."""
    torch.manual_seed(0)
    head = (head or MaskHead(32)).eval()
    shared = random_shared(make_shared([0], [0]))
    targets = targets_per_pair([with_masks(make_sample(["cat"], boxes, [0] * len(boxes)))], shared)
    return mask_losses(head, targets, shared, max_objects=max_objects)


def test_a_kernel_is_a_hidden_layer_and_a_last_one():
    kernel = torch.zeros(1, kernel_size(2))
    hidden = kernel[0, :16].view(8, 2)
    hidden[0] = torch.tensor([1.0, -2.0])
    hidden[1, 0] = 1.0
    kernel[0, 16] = 0.5  # bias of the first hidden number
    kernel[0, 24:26] = torch.tensor([3.0, 10.0])
    kernel[0, 32] = -1.0
    inputs = torch.tensor([[[[1.0, -2.0]], [[0.25, 1.0]]]])
    # first cell: 3 * (1 - 0.5 + 0.5) + 10 * 1 - 1; second: both hidden numbers are below 0
    assert run_kernels(inputs, kernel).tolist() == [[[12.0, -1.0]]]


def test_the_centre_of_a_box_names_its_cell_and_stays_on_the_grid():
    boxes = torch.tensor([[0.0, 0, 31, 33], [-100, 10, 0, 20], [90, 60, 120, 90]])
    assert centre_cells(boxes, (4, 6), 16).tolist() == [[0, 1], [0, 0], [5, 3]]


def test_places_count_from_the_middle_of_a_box_to_its_sides():
    place = place_in_boxes(torch.tensor([[0.0, 0.0, 8.0, 16.0]]), (4, 8), 4.0)
    assert place[0, 0, 0].tolist() == [-0.5, 0.5, 1.5, 2.5, 3, 3, 3, 3]
    assert place[0, 1, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_a_box_without_extent_has_finite_places():
    assert bool(place_in_boxes(torch.tensor([[4.0, 4, 4, 4]]), (4, 8), 4.0).isfinite().all())


def test_the_inside_of_a_box_is_larger_by_the_margin_and_one_cell():
    inside = inside_boxes(torch.tensor([[8.0, 8, 16, 12]]), (8, 8), 2.0, margin=0.25)
    # from 8 - 2 - 2 to 16 + 2 + 2, and from 8 - 1 - 2 to 12 + 1 + 2; the cells' middles are 1, 3, .., 15
    assert inside[0].any(0).nonzero()[:, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert inside[0].any(1).nonzero()[:, 0].tolist() == [3, 4, 5, 6]


def test_a_cell_is_covered_by_the_share_of_its_pixels():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, :3] = True
    assert cover(mask, (2, 2)).tolist() == [[[1.0, 0.5], [0.0, 0.0]]]


def test_an_excluded_cell_has_neither_loss_nor_gradient():
    logits = torch.tensor([[[5.0, 5.0]]], requires_grad=True)
    cut, target = mask_out(logits, torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[True, False]]]))
    assert binary_cross_entropy(cut, target).item() == pytest.approx(5.0067 / 2, abs=1e-4)
    (binary_cross_entropy(cut, target) + dice_loss(cut, target)).sum().backward()
    assert logits.grad[0, 0, 1].item() == 0
    assert logits.grad[0, 0, 0].item() != 0


def test_a_head_that_predicts_nothing_pays_for_even_chances_inside_the_margin():
    head = MaskHead(32)
    for layer in (head.kernel_of_cell, head.kernel_of_query):
        torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(head.kernel_of_cell.bias)
    losses = losses_of([[32, 16, 64, 48]], head=head)
    assert losses["loss_mask"].item() == pytest.approx(0.693147, abs=1e-5)
    # fine cells of 4 pixels: 8 x 8 in the object; valid are 18 columns and, cut at the border, 16 rows
    assert losses["loss_dice"].item() == pytest.approx(1 - (2 * 32 + 1) / (18 * 16 / 2 + 64 + 1), abs=1e-5)


def test_losses_are_sums_over_objects():
    first, second = [8, 8, 40, 40], [60, 20, 90, 60]
    both = losses_of([first, second])
    one = losses_of([first])
    other = losses_of([second])
    for name, loss in both.items():
        assert loss.item() == pytest.approx(one[name].item() + other[name].item(), rel=1e-5)


def test_capped_objects_stand_for_all():
    whole = losses_of([[8, 8, 40, 40]] * 6)
    capped = losses_of([[8, 8, 40, 40]] * 6, max_objects=2)
    for name, loss in whole.items():
        assert capped[name].item() == pytest.approx(loss.item(), rel=1e-5)


def test_points_have_no_mask_to_learn():
    with_point = losses_of([[8, 8, 40, 40], [50, 50, 50, 50]])
    without = losses_of([[8, 8, 40, 40]])
    assert with_point["loss_mask"].item() == pytest.approx(without["loss_mask"].item(), rel=1e-5)


def test_many_masks_equal_single_ones():
    shared = random_shared(make_shared([0, 1], [0, 0], num_images=2))
    torch.manual_seed(0)
    head = MaskHead(32).eval()
    pair_index = torch.arange(70) % 2
    corner = torch.rand(70, 2, generator=torch.Generator().manual_seed(1)) * 50
    boxes = torch.cat([corner, corner + 30], 1)
    masks = mask_probabilities(head, shared, pair_index, boxes)
    single = torch.cat(
        [mask_probabilities(head, shared, pair_index[at : at + 1], boxes[at : at + 1]) for at in (0, 69)]
    )
    assert masks.shape == (70, 16, 24)
    torch.testing.assert_close(masks[[0, 69]], single)


def test_no_boxes_give_no_masks():
    shared = make_shared([0], [0])
    assert mask_probabilities(MaskHead(32), shared, torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)).shape[0] == 0


def test_the_query_decides_the_mask_too():
    shared = random_shared(make_shared([0, 0], [0, 1]))
    torch.manual_seed(0)
    boxes = torch.tensor([[8.0, 8, 40, 40]] * 2)
    first, second = mask_probabilities(MaskHead(32).eval(), shared, torch.tensor([0, 1]), boxes)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("upsample", [1, 2, 3])
def test_any_factor_gives_a_grid_over_the_whole_input(upsample):
    shared = random_shared(make_shared([0], [0]))
    head = MaskHead(32, upsample=upsample)
    boxes = torch.tensor([[0.0, 0, 96, 64]])
    assert mask_probabilities(head, shared, torch.tensor([0]), boxes).shape == (1, 4 * upsample, 6 * upsample)
