"""u-LLaVA's nano on clips: does a shape appear or disappear, grow or shrink? Answers are free. Not measured.

    python tools/test.py projects/ullava/ullava_eval_clips_nano.py work_dirs/ullava_clips_nano

Blind, .50: the middle frame alone, or all frames in a random order. Played backwards, the other answer is right, so
that the accuracy is what a model gets wrong that knows the order:

    ... --cfg-options _order.order=middle
    ... --cfg-options _order.order=shuffled
    ... --cfg-options _order.order=reversed
"""

from mmengine.config import read_base

with read_base():
    from .ullava_clips_nano import *

optim_wrapper = None
param_scheduler = None
train_dataloader = None
train_cfg = None
custom_hooks = []
