"""Masks for referring sentences of the multi-task nano.

python tools/test.py configs/multitask/eval_referring_segmentation.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base

from lumen.data.refer import AskSentences, ReferDataset
from lumen.metrics.refer import ReferringMaskMetric

with read_base():
    from .._base_.multitask_eval import *

_ask_masks = dict(type=AskSentences, num_prompts=None, shuffle=False, no_target=False, task="referring_segmentation")
test_dataloader["dataset"] = dict(
    _images, **_refs, type=ReferDataset, with_masks=True, pipeline=[_load, _resize, _ask_masks, _pack]
)
test_evaluator = dict(type=ReferringMaskMetric)
