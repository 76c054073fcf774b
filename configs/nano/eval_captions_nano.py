"""Captions of the seeing nano, judged by the things that they list.

A caption counts its shapes or names their colours; either reference serves.

    python tools/test.py configs/nano/eval_captions_nano.py
"""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.metrics.text import CaptionMetric

with read_base():
    from .._base_.seeing_eval import *

_lmm["generation"]["max_new_tokens"] = 48
test_dataloader["dataset"] = dict(
    _files,
    type=QuestionsDataset,
    layout="captions",
    ann_file="annotations/captions_test.json",
    pipeline=[_load, _resize, _blacken, dict(type=AskQuestions, task="caption", shuffle=False), _pack],
)
test_evaluator = dict(type=CaptionMetric, with_cider=None)
