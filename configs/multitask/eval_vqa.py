"""Questions answered by the multi-task nano in its own words: colour, count, existence, relation.

    python tools/test.py configs/multitask/eval_vqa.py work_dirs/multitask_nano_shapes

Blind, on black images:

    ... --cfg-options _blacken.share=1.0
"""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import BlackenImage
from lumen.metrics.text import VqaMetric, YesNoMetric

with read_base():
    from .._base_.multitask_eval import *

_blacken = dict(type=BlackenImage, share=0.0)
test_dataloader["dataset"] = dict(
    _images,
    type=QuestionsDataset,
    ann_file="annotations/questions_test.json",
    pipeline=[_load, _resize, _blacken, dict(type=AskQuestions, shuffle=False), _pack],
)
test_evaluator = [dict(type=VqaMetric), dict(type=YesNoMetric)]
