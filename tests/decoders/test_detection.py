import dataclasses
import math

import pytest
import torch
from decoder_cases import fixed_distances, heat
from helpers import make_sample, make_shared

from lumen.decoders.boxes import boxes_at
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.detection_paper import PaperDetectionDecoder
from lumen.decoders.peaks import BoxLimits, best_boxes, pick_peaks
from lumen.ops.heatmap import cells_around
from lumen.structures import InstanceData, Prompt


@pytest.fixture
def box_decoder():
    return fixed_distances(DetectionDecoder(32), 0.5, 0.25, 1.0, 2.0)


def test_distances_at_a_peak_make_the_box(box_decoder):
    shared = heat(make_shared([0], [0]), [(0, 1, 2, 0.8)])
    (answer,) = box_decoder.predict(shared, [make_sample(["cat"])])
    # the cell's centre is (2.5, 1.5) * 16 = (40, 24)
    torch.testing.assert_close(answer.bboxes, torch.tensor([[32.0, 20.0, 56.0, 56.0]]))
    assert answer.scores.tolist() == pytest.approx([0.8], abs=1e-5)
    assert answer.labels.tolist() == [0]
    assert answer.prompt_index.tolist() == [0]


def test_sizes_at_a_peak_make_the_papers_box():
    shared = heat(make_shared([0], [0], num_maps=2), [(0, 1, 2, 0.8)])
    maps = shared.maps.detach().clone()
    maps[0, :, 1, 2] = torch.tensor([0.5, 2.0])  # height and width, in cells
    (answer,) = PaperDetectionDecoder(32).predict(dataclasses.replace(shared, maps=maps), [make_sample(["cat"])])
    torch.testing.assert_close(answer.bboxes, torch.tensor([[24.0, 20.0, 56.0, 28.0]]))


def test_a_negative_size_is_an_empty_box():
    shared = heat(make_shared([0], [0], num_maps=2), [(0, 1, 2, 0.8)])
    shared = dataclasses.replace(shared, maps=torch.full_like(shared.maps, -3.0))
    (answer,) = PaperDetectionDecoder(32).predict(shared, [make_sample(["cat"])])
    assert answer.bboxes.tolist() == [[40, 24, 40, 24]]


def test_the_score_is_presence_times_peak(box_decoder):
    shared = heat(make_shared([0], [0]), [(0, 1, 2, 0.8)])
    shared = dataclasses.replace(shared, presence_logits=torch.tensor([math.log(0.25 / 0.75)]))
    (answer,) = box_decoder.predict(shared, [make_sample(["cat"])])
    assert answer.scores.tolist() == pytest.approx([0.2], abs=1e-5)
    assert answer.peak_scores.tolist() == pytest.approx([0.8], abs=1e-5)


def test_weak_peaks_are_dropped():
    shared = heat(make_shared([0], [0]), [(0, 0, 0, 0.3), (0, 2, 2, 0.1)])
    pair, cells_xy, _, _ = pick_peaks(shared, num_peaks=9, min_score=0.2)
    assert pair.tolist() == [0]
    assert cells_xy.tolist() == [[0, 0]]


def test_each_pair_has_its_own_peaks():
    shared = heat(make_shared([0, 0], [0, 1]), [(0, 0, 0, 0.3), (1, 2, 4, 0.6), (1, 0, 0, 0.5)])
    pair, cells_xy, scores, _ = pick_peaks(shared, num_peaks=1, min_score=0.2)
    assert pair.tolist() == [0, 1]
    assert cells_xy.tolist() == [[0, 0], [4, 2]]
    assert scores.tolist() == pytest.approx([0.3, 0.6], abs=1e-5)


def test_the_best_of_an_image_are_kept_over_all_prompts(box_decoder):
    box_decoder.limits = BoxLimits(max_per_image=3)
    peaks = [(pair, 0, col, 0.1 + 0.1 * pair + 0.01 * col) for pair in range(3) for col in (0, 2, 4)]
    shared = heat(make_shared([0, 0, 0], [0, 1, 2]), peaks)
    (answer,) = box_decoder.predict(shared, [make_sample(["cat", "dog", "cow"])])
    assert answer.labels.tolist() == [2, 2, 2]
    assert answer.scores.tolist() == sorted(answer.scores.tolist(), reverse=True)


def test_two_wordings_of_a_class_give_its_boxes_once(box_decoder):
    prompts = [Prompt("tv", label=4), Prompt("television", label=4), Prompt("cat", label=1)]
    shared = heat(make_shared([0, 0, 0], [0, 1, 2]), [(0, 1, 2, 0.7), (1, 1, 2, 0.9), (2, 1, 2, 0.5)])
    (answer,) = box_decoder.predict(shared, [make_sample(prompts)])
    assert answer.labels.tolist() == [4, 1]
    assert answer.prompt_index.tolist() == [1, 2]


def test_free_phrases_do_not_suppress_each_other(box_decoder):
    prompts = [Prompt("the left cat"), Prompt("the cat"), Prompt("cat", label=0)]
    shared = heat(make_shared([0, 0, 0], [0, 1, 2]), [(pair, 1, 2, 0.7) for pair in range(3)])
    (answer,) = box_decoder.predict(shared, [make_sample(prompts)])
    assert sorted(answer.prompt_index.tolist()) == [0, 1, 2]
    assert sorted(answer.labels.tolist()) == [-1, -1, 0]


def test_boxes_of_one_phrase_suppress_each_other():
    shared = make_shared([0], [0])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
    table = InstanceData(
        bboxes=boxes, scores=torch.tensor([0.5, 0.6, 0.4]), pair_index=torch.zeros(3, dtype=torch.long)
    )
    (answer,) = best_boxes(table, [make_sample([Prompt("it")])], shared, BoxLimits(max_per_image=9))
    assert answer.scores.tolist() == pytest.approx([0.6, 0.4])


def test_images_do_not_mix(box_decoder):
    shared = heat(make_shared([1, 0], [0, 0], num_images=3), [(0, 1, 2, 0.7), (1, 0, 0, 0.9)])
    first, second, third = box_decoder.predict(shared, [make_sample(["a"]), make_sample(["b"]), make_sample()])
    assert first.scores.tolist() == pytest.approx([0.9], abs=1e-5)
    assert second.scores.tolist() == pytest.approx([0.7], abs=1e-5)
    assert len(third) == 0


def test_a_box_teaches_its_centre_cell_and_the_neighbours_inside_it():
    # 40 x 16 pixels around (40, 24), cells of 16: the middle cell, and those left and right of it
    owner, cells_xy, weight = cells_around(torch.tensor([[20.0, 16.0, 60.0, 32.0]]), (4, 6), 16)
    assert owner.tolist() == [0, 0, 0]
    assert sorted(cells_xy.tolist()) == [[1, 1], [2, 1], [3, 1]]
    assert weight.tolist() == pytest.approx([1 / 3] * 3)


def test_a_tiny_box_teaches_one_cell():
    owner, cells_xy, weight = cells_around(torch.tensor([[1.0, 1.0, 2.0, 2.0]]), (4, 6), 16)
    assert (owner.tolist(), cells_xy.tolist(), weight.tolist()) == ([0], [[0, 0]], [1.0])


def test_cells_beyond_the_border_are_not_taught():
    _, cells_xy, weight = cells_around(torch.tensor([[0.0, 0.0, 30.0, 30.0], [80.0, 40.0, 96.0, 64.0]]), (4, 6), 16)
    assert bool((cells_xy >= 0).all())
    assert bool((cells_xy < torch.tensor([6, 4])).all())
    assert float(weight.sum()) == pytest.approx(2)


def test_no_boxes_teach_no_cells():
    owner, cells_xy, weight = cells_around(torch.zeros(0, 4), (4, 6), 16)
    assert (owner.shape, cells_xy.shape, weight.shape) == ((0,), (0, 2), (0,))


def test_distances_read_back_give_the_box_they_were_measured_from():
    box = torch.tensor([[20.0, 10.0, 60.0, 32.0]])
    _, cells_xy, _ = cells_around(box, (4, 6), 16)
    centre = (cells_xy + 0.5) * 16
    distances = torch.zeros(1, 4, 4, 6)
    distances[0, :, cells_xy[:, 1], cells_xy[:, 0]] = torch.cat([centre - box[:, :2], box[:, 2:] - centre], 1).T
    read = boxes_at(distances, torch.zeros(len(cells_xy), dtype=torch.long), cells_xy, 16)
    torch.testing.assert_close(read, box.expand_as(read))


def test_right_boxes_cost_nothing(box_decoder):
    sample = make_sample(["cat"], [[32.0, 20.0, 56.0, 56.0]], [0])
    box_decoder = fixed_distances(box_decoder, 0.5, 0.25, 1.0, 2.0)
    owner, _, _ = cells_around(sample.gt_instances.bboxes, (4, 6), 16)
    wrong_neighbours = len(owner) - 1
    loss = box_decoder.loss(make_shared([0], [0]), [sample])["loss_box"]
    # the centre of the box is (44, 38): its cell predicts another box, so the loss is above 0 but below 2
    assert 0 < loss.item() < 2
    assert wrong_neighbours >= 1
    exact = make_sample(["cat"], [[32.0, 20.0, 40.0 + 8, 24.0 + 4]], [0])
    right = fixed_distances(DetectionDecoder(32), 0.5, 0.25, 0.5, 0.25)
    assert right.loss(make_shared([0], [0]), [exact])["loss_box"].item() == pytest.approx(0, abs=1e-6)


def test_the_papers_loss_is_the_l1_distance_in_cells():
    shared = make_shared([0, 0], [0, 1], num_maps=2)
    # 32 x 48 pixels are 2 x 3 cells of 16; the maps say 0
    loss = PaperDetectionDecoder(32).loss(shared, [make_sample(["a", "b"], [[0, 0, 32, 48]], [1])])["loss_size"]
    assert loss.item() == pytest.approx(5)
    loss.backward()
    assert shared.maps.grad[1, :, 1, 1].tolist() == [-1, -1]
    assert shared.maps.grad.abs().sum().item() == 2


def test_boxes_of_two_prompts_count_twice(box_decoder):
    boxes = [[0, 0, 32, 48], [0, 0, 32, 48]]
    once = box_decoder.loss(make_shared([0], [0]), [make_sample(["a"], boxes[:1], [0])])["loss_box"]
    twice = box_decoder.loss(make_shared([0, 0], [0, 1]), [make_sample(["a", "b"], boxes, [0, 1])])["loss_box"]
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-5)
