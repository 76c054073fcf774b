"""u-LLaVA's nano on names of classes, all objects of a class as one mask.

Answers are forced, one expression per conversation; in the LMM's own words by --cfg-options
"model.lmm.generation.answer_mode=generated", where answers without a slot are counted. Not measured.

    python tools/test.py projects/ullava/ullava_eval_semantic_nano.py work_dirs/ullava_s2_nano
"""

from mmengine.config import read_base

with read_base():
    from .ullava_eval_referring_nano import *

test_dataloader["dataset"] = _names_test
test_evaluator = _evaluator
