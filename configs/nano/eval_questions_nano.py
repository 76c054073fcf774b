"""Questions answered by the seeing nano: colour, count, existence, relation.

    python tools/test.py configs/nano/eval_questions_nano.py

Blind, on black images:

    ... --cfg-options _blacken.share=1.0
"""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.metrics.text import VqaMetric

with read_base():
    from .._base_.seeing_eval import *

test_dataloader["dataset"] = dict(
    _files,
    type=QuestionsDataset,
    ann_file="annotations/questions_test.json",
    pipeline=[_load, _resize, _blacken, dict(type=AskQuestions, shuffle=False), _pack],
)
test_evaluator = dict(type=VqaMetric)
