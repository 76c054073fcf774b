"""Boxes for referring sentences of the multi-task nano: attributes, relations, and sentences that fit nothing.

    python tools/test.py configs/multitask/eval_grounding.py work_dirs/multitask_nano_shapes

The blind baseline asks each image sentences of other images:

    ... --cfg-options test_dataloader.dataset.type=ShuffledReferDataset
"""

from mmengine.config import read_base

from lumen.data.refer import AskSentences, ReferDataset
from lumen.metrics.refer import GroundingMetric

with read_base():
    from .._base_.multitask_eval import *

_ask_sentences = dict(type=AskSentences, num_prompts=None, shuffle=False)
test_dataloader["dataset"] = dict(
    _images,
    **_refs,
    type=ReferDataset,
    pipeline=[_load, _resize, _ask_sentences, _pack],
)
test_evaluator = dict(type=GroundingMetric)
