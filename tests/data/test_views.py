import pytest
from mmengine import Config

from lumen.data.keypoint_transforms import CropInstance
from lumen.data.transforms import ResizeToInput
from lumen.data.views import find_views
from lumen.errors import ConfigError


def loader(*steps):
    return {"dataset": {"pipeline": list(steps)}}


def config(**loaders):
    return Config({f"{name}_dataloader": given for name, given in loaders.items()})


@pytest.mark.parametrize("kind", ["ResizeToInput", "lumen.data.transforms.ResizeToInput", ResizeToInput])
def test_the_test_pipeline_counts_first(kind):
    views = find_views(
        config(
            val=loader({"type": kind, "input_hw": (32, 32)}),
            test=loader({"type": "LoadImage"}, {"type": kind, "input_hw": (64, 96), "mode": "stretch", "pad_value": 3}),
        )
    )
    assert (views.whole.input_hw, views.whole.mode, views.whole.pad_value) == ((64, 96), "stretch", 3)
    assert (views.crop.input_hw, views.crop.padding, views.crop.pad_value) == ((64, 96), 1.25, 3)


def test_a_built_transform_is_found():
    assert find_views(config(val=loader(ResizeToInput(input_hw=(32, 64))))).whole.input_hw == (32, 64)


def test_a_pose_config_gives_the_view_of_images_too():
    crop = {"type": CropInstance, "input_hw": (64, 48), "padding": 1.5}
    asked = {"type": "AskKeypoints", "wording": "the {keypoint}"}
    views = find_views(config(test=loader(crop, asked)))
    assert views.whole.input_hw == views.crop.input_hw == (64, 48)
    assert views.crop.padding == 1.5
    assert views.ask.phrases(["left_eye"], "person") == ["the left eye"]


def test_a_mixture_for_training_gives_what_testing_lacks_without_augmentation():
    crop = {"type": "CropInstance", "input_hw": (64, 48), "padding": 1.1, "flip_probability": 1.0, "max_shift": 0.5}
    mixture = {"dataset": {"datasets": [loader(crop)["dataset"], {"dataset": loader(ResizeToInput(input_hw=(8, 8)))}]}}
    views = find_views(config(train=mixture, test=loader({"type": "ResizeToInput", "input_hw": (32, 32)})))
    assert views.whole.input_hw == (32, 32)
    assert (views.crop.padding, views.crop.flip_probability, views.crop.max_shift) == (1.1, 0.0, 0.0)


@pytest.mark.parametrize("loaders", [{}, {"test": None}, {"test": loader()}, {"test": {"dataset": {}}}])
def test_a_config_without_a_view_is_an_error(loaders):
    with pytest.raises(ConfigError, match="ResizeToInput or CropInstance"):
        find_views(config(**loaders))
