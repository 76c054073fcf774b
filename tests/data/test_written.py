import pytest
import torch
from helpers import make_sample

from lumen.codecs import PointCodec
from lumen.data.written import WriteAnswers
from lumen.errors import ConfigError
from lumen.lmm.dialects.json_objects import QWEN3_VL
from lumen.ops.geometry import InputTransform
from lumen.structures import Prompt


def written(codec, prompts, boxes=(), index=()):
    sample = make_sample(prompts, boxes, index)
    results = {
        "prompts": sample.prompts,
        "gt_instances": dict(sample.gt_instances.items()),
        "frame": InputTransform.stretch((64, 96), (64, 96)),
    }
    return [prompt.answer for prompt in WriteAnswers(codec=codec)(results)["prompts"]]


def test_objects_become_answers_from_left_to_right_and_other_prompts_stay():
    prompts = [Prompt("cat", "written_boxes"), Prompt("dog", "written_boxes"), Prompt("why?", "vqa", answer="so")]
    boxes = [[48, 0, 96, 64], [0, 16, 24, 32], [0, 0, 96, 64]]
    answers = written({"style": "decimals", "digits": 2}, prompts, boxes, [0, 0, 2])
    assert answers == ["0.00,0.25,0.25,0.50; 0.50,0.00,1.00,1.00", "none", "so"]


def test_a_codec_of_an_lmm_writes_names():
    (answer,) = written(QWEN3_VL.codec, [Prompt(" cat ", "written_boxes")], [[0, 0, 48, 64]], [0])
    (place,) = QWEN3_VL.codec.decode(answer, (64, 96)).places
    assert (place.name, place.values) == ("cat", (0, 0, 48, 64))


def test_what_a_codec_does_not_take_is_an_error():
    with pytest.raises(ConfigError, match="style must be one of"):
        WriteAnswers(codec={"style": "roman"})
    with pytest.raises(ValueError, match="coordinates of a point"):
        written(PointCodec(), [Prompt("cat", "written_boxes")], torch.tensor([[0.0, 0, 9, 9]]), [0])
