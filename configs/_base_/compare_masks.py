"""The comparison's masks: a sentence is answered with a mask, judged by its IoU.

For all who follow: ``_train`` and ``_test`` read masks, and ``_answers`` judges them.
"""

from mmengine.config import read_base

with read_base():
    from .compare_nano import *

_train["with_masks"] = True
_test["with_masks"] = True
_answers["masks"] = True
