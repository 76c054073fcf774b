"""Sentences with one target, asked of a model that was trained on a mix of docs/ablations.md.

python tools/test.py configs/ablations/eval_mix_sentences.py CHECKPOINT
"""

from mmengine.config import read_base

from lumen.metrics.refer import GroundingMetric

with read_base():
    from .mix import *

test_dataloader["dataset"] = dict(
    type=ReferDataset,
    data_root="data/shapes",
    data_prefix=dict(img="test"),
    ann_file="annotations/refs_test.json",
    instances_file="annotations/instances_test.json",
    layout="shapes",
    test_mode=True,
    pipeline=[
        _val_load,
        _val_resize,
        dict(type=AskSentences, num_prompts=None, no_target=False, max_targets=1, shuffle=False),
        _pack,
    ],
)
test_evaluator = dict(type=GroundingMetric)
train_dataloader = None
train_cfg = None
optim_wrapper = None
param_scheduler = None
custom_hooks = None
val_dataloader = None
val_evaluator = None
val_cfg = None
