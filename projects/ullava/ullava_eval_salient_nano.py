"""u-LLaVA's nano on salient objects; figures_test.json beside the data names what an object drawn at random reaches.

Answers are forced, one expression per conversation; in the LMM's own words by --cfg-options
"model.lmm.generation.answer_mode=generated", where answers without a slot are counted. Not measured.

    python tools/test.py projects/ullava/ullava_eval_salient_nano.py work_dirs/ullava_s2_nano
"""

from mmengine.config import read_base

with read_base():
    from .ullava_eval_referring_nano import *

test_dataloader["dataset"] = _salient_test
test_evaluator = _evaluator
