"""u-LLaVA's nano on referring sentences.

Answers are forced, one expression per conversation; in the LMM's own words by --cfg-options
"model.lmm.generation.answer_mode=generated", where answers without a slot are counted. Not measured.

    python tools/test.py projects/ullava/ullava_eval_referring_nano.py work_dirs/ullava_s2_nano
"""

from mmengine.config import read_base

with read_base():
    from .ullava_s2_nano import *

load_from = None
optim_wrapper = None
param_scheduler = None
train_dataloader = None
train_cfg = None
custom_hooks = []
test_dataloader = dict(_test_loader, dataset=_referring_test)
test_evaluator = _box_evaluator
