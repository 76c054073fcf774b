import pytest

from lumen.data.keypoint_transforms import CropInstance
from lumen.data.pipelines import ModelInputs, fill_pipelines
from lumen.data.refer import AskSentences
from lumen.data.transforms import AskClasses, LoadImage, ResizeToInput
from lumen.errors import ConfigError

INPUTS = ModelInputs((32, 64), "pointing")


def test_size_and_task_are_filled_in_where_they_are_left_out():
    steps = [{"type": LoadImage}, {"type": "ResizeToInput"}, {"type": CropInstance}, {"type": AskClasses}]
    filled = fill_pipelines({"dataset": {"pipeline": steps}}, INPUTS)["dataset"]["pipeline"]
    assert [step.get("input_hw") for step in filled] == [None, (32, 64), (32, 64), None]
    assert [step.get("task") for step in filled] == [None, None, None, "pointing"]
    assert "input_hw" not in steps[1]


def test_what_the_config_names_stays_and_built_transforms_too():
    built = ResizeToInput(input_hw=(8, 8))
    steps = [built, {"type": ResizeToInput, "input_hw": (16, 16)}, {"type": AskSentences, "task": "grounding"}]
    assert fill_pipelines({"pipeline": steps}, INPUTS)["pipeline"] == steps


def test_data_sets_inside_data_sets_are_filled():
    inner = {"pipeline": [{"type": ResizeToInput}]}
    node = {"datasets": [inner, {"dataset": inner}], "further": {"a": {"dataset": inner}}, "weights": (1, 2)}
    filled = fill_pipelines(node, INPUTS)
    expected = {"pipeline": [{"type": ResizeToInput, "input_hw": (32, 64)}]}
    assert filled["datasets"] == [expected, {"dataset": expected}]
    assert filled["further"]["a"]["dataset"] == expected
    assert filled["weights"] == (1, 2)


def test_a_model_with_several_tasks_leaves_each_step_its_own():
    filled = fill_pipelines({"pipeline": [{"type": AskSentences}]}, ModelInputs((8, 8), None))
    assert filled["pipeline"] == [{"type": AskSentences}]


def test_a_size_that_nobody_names_is_an_error():
    with pytest.raises(ConfigError, match="ResizeToInput has no input_hw, and the model names none"):
        fill_pipelines({"pipeline": [{"type": ResizeToInput}]}, ModelInputs())
    for given in (None, (8,), (0, 8)):
        with pytest.raises(ConfigError, match=r"CropInstance needs input_hw=\(height, width\)"):
            CropInstance(input_hw=given)
    with pytest.raises(ConfigError, match="no transform 'NoSuchStep'"):
        fill_pipelines({"pipeline": [{"type": "NoSuchStep"}]}, INPUTS)
