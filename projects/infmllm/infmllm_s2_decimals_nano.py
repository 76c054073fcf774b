"""The same second stage with boxes as shares of the image in three decimals, in place of words of 40 steps.

Not measured.

python tools/train.py projects/infmllm/infmllm_s2_decimals_nano.py
"""

from mmengine.config import read_base

with read_base():
    from .infmllm_s2_nano import *

_codec.clear()
_codec.update(style="decimals", digits=3)
