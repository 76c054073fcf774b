import pytest
import torch
from helpers import make_instances, make_sample, make_shared
from mmengine.structures import InstanceData

from lumen.routing import pairs_of_task, select_pairs
from lumen.structures import Field, Prompt, TaskSpec, gather_pairs, targets_per_pair


def spec(**changes):
    values = {
        "name": "count",
        "targets": frozenset(),
        "predictions": frozenset(),
        "headline": "count/error",
        "losses": {"loss_count": "pairs"},
    }
    return TaskSpec(**(values | changes))


def test_a_spec_names_losses_that_start_with_loss():
    with pytest.raises(ValueError, match="must start with 'loss_'"):
        spec(losses={"error": "pairs"})


def test_a_spec_divides_losses_by_pairs_or_objects():
    with pytest.raises(ValueError, match="divided by one of"):
        spec(losses={"loss_count": "images"})


def test_a_field_that_nobody_knows_must_be_declared():
    with pytest.raises(ValueError, match=r"no kind is declared for \['heading'\].*fields=\{'heading': Field"):
        spec(targets=frozenset({"bboxes", "heading"}))
    with pytest.raises(ValueError, match="declared for \\['speed'\\]"):
        spec(predictions=frozenset({"scores", "speed"}))
    declared = spec(targets=frozenset({"heading"}), fields={"heading": Field("directions")})
    assert declared.kinds == {"heading": "directions"}


@pytest.mark.parametrize("name", ["bboxes", "heading"])
def test_a_field_is_declared_only_where_it_is_used_and_new(name):
    with pytest.raises(ValueError, match=f"fields declares .*{name}"):
        spec(targets=frozenset({"bboxes"}), fields={name: Field("numbers")})


def test_a_field_knows_its_shape_and_type():
    assert (Field("points").shape, Field("points").dtype) == ((2,), torch.float32)
    assert (Field("classes").shape, Field("classes").dtype) == ((), torch.int64)
    assert Field("points", (5, 2)).example(3).shape == (3, 5, 2)
    assert Field("directions").example(2).tolist() == [[1, 0], [1, 0]]
    with pytest.raises(ValueError, match="must be one of"):
        Field("colours")
    with pytest.raises(ValueError, match="must end in 2"):
        Field("points", (3,))


def test_a_table_without_rows_has_the_fields_of_its_reader():
    targets = targets_per_pair([make_sample(["cat"])], make_shared([0], [0]), fields={"heading": Field("directions")})
    assert targets.heading.shape == (0, 2) and targets.bboxes.shape == (0, 4)


def test_pairs_of_a_task_keep_their_order():
    samples = [
        make_sample([Prompt("a", task="pose"), Prompt("b")]),
        make_sample([]),
        make_sample([Prompt("c"), Prompt("d", task="pose")]),
    ]
    shared = make_shared([0, 0, 2, 2], [0, 1, 0, 1], num_images=3)
    assert pairs_of_task(samples, shared, "pose").tolist() == [0, 3]
    assert pairs_of_task(samples, shared, "detection").tolist() == [1, 2]
    assert pairs_of_task(samples, shared, "segmentation").tolist() == []


def test_no_pairs_have_no_task():
    assert pairs_of_task([make_sample([])], make_shared(), "detection").tolist() == []


def test_selected_pairs_take_their_rows_and_their_maps_and_all_images():
    shared = make_shared([0, 1, 1], [0, 0, 1], num_images=2, num_maps=3)
    own = select_pairs(shared, torch.tensor([2, 0]), slice(1, 3))
    assert own.image_index.tolist() == [1, 0]
    assert own.prompt_index.tolist() == [1, 0]
    assert own.maps.shape == (2, 2, 4, 6)
    assert own.dense is shared.dense
    assert own.num_pairs == 2


def test_targets_follow_the_order_of_samples_and_name_their_pair():
    samples = [
        make_sample(["cat", "dog"], [[0, 0, 8, 8], [8, 0, 16, 8]], [1, 0]),
        make_sample(["cat"], [[0, 0, 4, 4]], [0]),
    ]
    shared = make_shared([1, 0, 0], [0, 1, 0], num_images=2)
    targets = targets_per_pair(samples, shared)
    assert targets.pair_index.tolist() == [1, 2, 0]
    assert targets.bboxes[:, 2].tolist() == [8, 16, 4]


def test_targets_of_prompts_that_are_not_among_the_pairs_are_left_out():
    samples = [make_sample(["cat", "dog"], [[0, 0, 8, 8], [8, 0, 16, 8]], [1, 0])]
    targets = targets_per_pair(samples, make_shared([0], [1]))
    assert targets.bboxes[:, 0].tolist() == [0]
    assert targets.pair_index.tolist() == [0]


def test_one_object_that_two_prompts_ask_for_gives_two_rows():
    samples = [make_sample(["cat", "cat"], [[0, 0, 8, 8], [0, 0, 8, 8]], [0, 1])]
    assert targets_per_pair(samples, make_shared([0, 0], [0, 1])).pair_index.tolist() == [0, 1]


def test_targets_without_objects_are_an_empty_table():
    targets = targets_per_pair([make_sample(["cat"])], make_shared([0], [0]))
    assert len(targets) == 0
    assert targets.bboxes.shape == (0, 4)
    assert targets.pair_index.dtype == torch.long


def test_targets_without_objects_keep_the_fields_of_their_data_set():
    sample = make_sample(["cat"])
    sample.gt_instances = make_instances(keypoints=torch.zeros(0, 17, 2))
    assert targets_per_pair([sample], make_shared([0], [0])).keypoints.shape == (0, 17, 2)


def test_samples_of_another_task_may_lack_fields():
    pose, boxes = make_sample([Prompt("cat", task="pose")]), make_sample(["dog"], [[0, 0, 8, 8]], [0])
    pose.gt_instances = make_instances([[0, 0, 4, 4]], [0], keypoints=torch.ones(1, 2, 2))
    samples = [pose, boxes]
    assert targets_per_pair(samples, make_shared([0], [0], num_images=2)).keypoints.shape == (1, 2, 2)
    both = targets_per_pair(samples, make_shared([0, 1], [0, 0], num_images=2))
    assert both.bboxes.shape == (2, 4)
    assert "keypoints" not in both


def test_targets_leave_the_sample_as_it_was():
    sample = make_sample(["cat"], [[0, 0, 8, 8]], [0])
    targets_per_pair([sample], make_shared([0], [0]))
    assert set(sample.gt_instances.keys()) == {"bboxes", "labels", "prompt_index"}


def test_ignored_regions_have_a_table_of_their_own():
    sample = make_sample(["cat", "dog"], ignored=[[0, 0, 9, 9]], ignored_index=[1])
    shared = make_shared([0, 0], [0, 1])
    assert targets_per_pair([sample], shared, "ignored_instances").pair_index.tolist() == [1]
    del sample.ignored_instances
    assert len(targets_per_pair([sample], shared, "ignored_instances")) == 0


def test_gathered_answers_carry_the_label_of_their_prompt():
    samples = [make_sample(["cat", "dog"]), make_sample([]), make_sample([Prompt("a red thing")])]
    shared = make_shared([0, 0, 2], [0, 1, 0], num_images=3)
    table = InstanceData(scores=torch.tensor([0.1, 0.2, 0.3, 0.4]), pair_index=torch.tensor([2, 1, 0, 1]))
    first, second, third = gather_pairs(table, samples, shared)
    assert first.labels.tolist() == [1, 0, 1]
    assert first.prompt_index.tolist() == [1, 0, 1]
    assert first.scores.tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert len(second) == 0
    assert third.labels.tolist() == [-1]
    assert "pair_index" not in first


def test_gathering_no_answers_gives_an_empty_table_per_sample():
    table = InstanceData(scores=torch.zeros(0), pair_index=torch.zeros(0, dtype=torch.long))
    answers = gather_pairs(table, [make_sample(["cat"]), make_sample([])], make_shared([0], [0], num_images=2))
    assert [len(answer) for answer in answers] == [0, 0]
    assert all({"scores", "labels", "prompt_index"} == set(answer.keys()) for answer in answers)
