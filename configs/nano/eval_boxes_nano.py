"""Boxes that the seeing nano writes for sentences with one target: attributes, relations, groups of one.

    python tools/test.py configs/nano/eval_boxes_nano.py

Blind, with sentences of other images:

    ... --cfg-options test_dataloader.dataset.type=ShuffledReferDataset
"""

from mmengine.config import read_base

from lumen.data.refer import AskSentences, ReferDataset
from lumen.metrics.refer import GroundingMetric

with read_base():
    from .._base_.seeing_eval import *

_ask = dict(
    type=AskSentences,
    task="written_boxes",
    num_prompts=None,
    no_target=False,
    max_targets=1,
    shuffle=False,
)
test_dataloader["dataset"] = dict(
    _files,
    type=ReferDataset,
    ann_file="annotations/refs_test.json",
    layout="shapes",
    split="groups",
    instances_file="annotations/instances_test.json",
    pipeline=[_load, _resize, _blacken, _ask, _pack],
)
test_evaluator = dict(type=GroundingMetric)
