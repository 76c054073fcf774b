"""Short answers of InfMLLM in small, on the test split of shapes.

    python tools/test.py projects/infmllm/infmllm_eval_vqa_nano.py work_dirs/infmllm_s2_nano

Blind, on black images: ``--cfg-options _blacken.share=1.0``.
"""

from infmllm_questions import WordShortQuestions
from mmengine.config import read_base

from lumen.data.transforms import BlackenImage
from lumen.metrics.text import VqaMetric, YesNoMetric

with read_base():
    from ._infmllm_nano import *

model = dict(_model, input_hw=(320, 320))
_blacken = dict(type=BlackenImage, share=0.0)
_ask = dict(type=AskQuestions, shuffle=False)
test_dataloader = dict(
    _test_loader,
    dataset=dict(
        _questions,
        ann_file="annotations/questions_test.json",
        data_prefix=dict(img="test"),
        test_mode=True,
        pipeline=[_load, _resize, _blacken, _ask, dict(type=WordShortQuestions), _pack],
    ),
)
test_evaluator = [dict(type=VqaMetric), dict(type=YesNoMetric)]
test_cfg = dict(dtype="bfloat16")
optim_wrapper = None
param_scheduler = None
