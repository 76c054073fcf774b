import dataclasses
import math

import pytest
import torch
from helpers import make_images, make_instances, make_sample, make_shared

from lumen.aligners.dense import DenseAligner
from lumen.decoders.pose import PoseDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.structures import Prompt

NAMES = ("head", "left hand", "right hand")


def person(number=3, **fields):
    """Return a sample that is asked for ``number`` keypoints."""
    sample = make_sample([Prompt(name, task="pose", label=at) for at, name in enumerate(NAMES[:number])], **fields)
    sample.set_metainfo({"box_score": 0.5})
    return sample


def heat(shared, peaks):
    """Set the probability of cells, given as (pair, row, col, probability)."""
    logits = shared.heat_logits.detach().clone()
    for pair, row, col, probability in peaks:
        logits[pair, 0, row, col] = math.log(probability / (1 - probability))
    return dataclasses.replace(shared, heat_logits=logits)


def fixed_offset(decoder, x, y):
    with torch.no_grad():
        decoder.head.last.bias.copy_(torch.tensor([x, y]))
    return decoder.eval()


@pytest.mark.parametrize("offset_head", [True, False])
def test_the_best_peak_of_each_prompt_is_its_keypoint(offset_head):
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 1, 2, 0.8), (0, 3, 5, 0.6), (1, 0, 0, 0.4)])
    (answer,) = PoseDecoder(32, offset_head=offset_head).eval().predict(shared, [person(2)])
    # cell (row 1, col 2) of 16 pixels has its middle at (40, 24); neighbours are equally cold on both sides
    torch.testing.assert_close(answer.keypoints, torch.tensor([[[40.0, 24.0], [8.0, 8.0]]]))
    torch.testing.assert_close(answer.keypoint_scores, torch.tensor([[0.8, 0.4]]))
    assert answer.scores.tolist() == pytest.approx([0.5 * (0.8 + 0.4) / 2], abs=1e-6)


def test_columns_are_in_the_order_of_the_prompts():
    shared = heat(make_shared([0, 1, 0], [1, 0, 0], num_images=2), [(0, 0, 0, 0.9), (1, 1, 1, 0.9), (2, 2, 2, 0.9)])
    first, second = PoseDecoder(32).eval().predict(shared, [person(2), person(1)])
    assert first.keypoints.tolist() == [[[40, 40], [8, 8]]]
    assert second.keypoints.tolist() == [[[24, 24]]]


def test_the_head_moves_the_point_by_at_most_one_and_a_half_cells():
    shared = heat(make_shared([0], [0]), [(0, 1, 2, 0.8)])
    (answer,) = fixed_offset(PoseDecoder(32), 0.25, -9.0).predict(shared, [person(1)])
    torch.testing.assert_close(answer.keypoints, torch.tensor([[[44.0, 0.0]]]))


def test_without_a_head_neighbours_move_the_point():
    # a Gaussian of one cell width around (2.25, 1) cells, that is 0.25 of 16 pixels right of the middle (40, 24)
    bump = torch.exp(-((torch.arange(6) - 2.25) ** 2)[None] / 2 - ((torch.arange(4) - 1.0) ** 2)[:, None] / 2) * 0.9
    shared = dataclasses.replace(make_shared([0], [0]), heat_logits=torch.logit(bump)[None, None])
    (answer,) = PoseDecoder(32, offset_head=False).predict(shared, [person(1)])
    torch.testing.assert_close(answer.keypoints, torch.tensor([[[44.0, 24.0]]]), atol=1e-2, rtol=0)


def test_a_flat_map_still_gives_a_point_with_its_low_score():
    (answer,) = PoseDecoder(32).eval().predict(make_shared([0], [0]), [person(1)])
    assert answer.keypoints.tolist() == [[[8, 8]]]
    assert answer.keypoint_scores.item() < 1e-6
    assert answer.scores.item() == 0


def test_keypoints_of_low_score_leave_the_score_of_the_sample():
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 1, 2, 0.8), (1, 0, 0, 0.1)])
    (answer,) = PoseDecoder(32, min_score=0.2).eval().predict(shared, [person(2)])
    assert answer.scores.tolist() == pytest.approx([0.4], abs=1e-6)


def test_a_sample_without_a_box_score_counts_as_annotated():
    shared = heat(make_shared([0], [0]), [(0, 1, 2, 0.8)])
    (answer,) = PoseDecoder(32).eval().predict(shared, [make_sample([Prompt("head", task="pose", label=0)])])
    assert answer.scores.tolist() == pytest.approx([0.8], abs=1e-6)


def test_samples_of_other_tasks_get_an_empty_table():
    shared = heat(make_shared([1], [0], num_images=3), [(0, 1, 2, 0.8)])
    first, second, third = PoseDecoder(32).eval().predict(shared, [make_sample(["cat"]), person(1), make_sample()])
    assert [len(answer) for answer in (first, second, third)] == [0, 1, 0]
    assert first.keypoints.shape == (0, 0, 2)
    assert first.keypoint_scores.shape == (0, 0)


def test_a_batch_gives_what_single_samples_give():
    torch.manual_seed(0)
    decoder = PoseDecoder(32)
    torch.nn.init.normal_(decoder.head.last.weight)
    decoder.eval()
    batch = make_shared([0, 0, 1], [0, 1, 0], num_images=2)
    batch = dataclasses.replace(
        batch, heat_logits=torch.randn(3, 1, 4, 6), dense=torch.randn(2, 32, 4, 6), query=torch.randn(3, 32)
    )
    single = dataclasses.replace(
        make_shared([0], [0]), heat_logits=batch.heat_logits[2:], dense=batch.dense[1:], query=batch.query[2:]
    )
    _, second = decoder.predict(batch, [person(2), person(1)])
    (alone,) = decoder.predict(single, [person(1)])
    torch.testing.assert_close(second.keypoints, alone.keypoints)


def test_the_loss_is_the_l1_distance_of_the_cells_around():
    # the keypoint lies in the middle of a corner cell: itself and three neighbours learn, a quarter each.
    # Untrained offsets are 0, so they are off by 0, 1, 1 and 2 cells.
    sample = person(1, boxes=[[8, 8, 8, 8]], prompt_index=[0])
    loss = PoseDecoder(32).loss(make_shared([0], [0]), [sample])["loss_offset"]
    assert loss.item() == pytest.approx((0 + 1 + 1 + 2) / 4)


def test_offsets_of_the_cell_itself_and_of_neighbours_lead_to_the_keypoint():
    torch.manual_seed(0)
    decoder = PoseDecoder(32)
    shared = dataclasses.replace(make_shared([0], [0]), dense=torch.randn(1, 32, 4, 6), query=torch.randn(1, 32))
    sample = person(1, boxes=[[44, 27, 44, 27]], prompt_index=[0])
    optimizer = torch.optim.Adam(decoder.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = decoder.loss(shared, [sample])["loss_offset"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    for row, col in ((1, 2), (2, 2), (1, 3)):
        (answer,) = decoder.predict(heat(shared, [(0, row, col, 0.8)]), [sample])  # still in training mode: same norm
        torch.testing.assert_close(answer.keypoints, torch.tensor([[[44.0, 27.0]]]), atol=4, rtol=0)


def test_the_loss_is_zero_without_a_head_and_without_keypoints():
    sample = person(1, boxes=[[8, 8, 8, 8]], prompt_index=[0])
    assert PoseDecoder(32, offset_head=False).loss(make_shared([0], [0]), [sample])["loss_offset"].item() == 0
    assert PoseDecoder(32).loss(make_shared([0], [0]), [person(1)])["loss_offset"].item() == 0


def test_a_model_trains_on_people_and_answers_in_original_pixels(tiny_nano):
    model = Lumen(
        lmm={"type": HFAdapter, "name_or_path": str(tiny_nano), "base": {"attention": "eager"}},
        aligner={"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        decoders=[{"type": PoseDecoder}],
    )
    frame = InputTransform.crop((200, 300), (100, 50, 200, 150), (64, 64))
    sample = person(3, boxes=[[8, 8, 8, 8], [63.9, 0, 63.9, 0]], prompt_index=[0, 2], frame=frame)
    sample.ignored_instances = make_instances([[0, 0, 64, 64]], [1])
    images = make_images(1, (64, 64))
    losses = model(images, [sample], "loss")
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert all(p.grad is not None for p in model.decoders["pose"].parameters() if p.numel())
    with torch.no_grad():
        (answered,) = model.eval()(images, [sample], "predict")
    points = answered.pred_instances.keypoints
    assert points.shape == (1, 3, 2)
    reach = 1.5 * 8 * 100 / 64  # an offset may lead out of the crop
    assert bool(
        (points >= torch.tensor([100.0, 50]) - reach).all() and (points <= torch.tensor([200.0, 150]) + reach).all()
    )
