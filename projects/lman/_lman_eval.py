"""What the evaluations of L-Man's nano share: the model, and pictures of the test split of the person world."""

from mmengine.config import read_base

from lumen.data.transforms import AskClasses

with read_base():
    from ...configs._base_.runtime import *
    from ._lman_s2_nano import *

_test = dict(_person, test_mode=True)
_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)
test_dataloader = dict(_test_loader)
test_cfg = dict(dtype="bfloat16")
optim_wrapper = None
param_scheduler = None
