"""The same for a model that learned to write decimals.

python tools/test.py projects/infmllm/infmllm_eval_grounding_decimals_nano.py work_dirs/infmllm_s2_decimals_nano
"""

from mmengine.config import read_base

with read_base():
    from .infmllm_eval_grounding_nano import *

_codec.clear()
_codec.update(style="decimals", digits=3)
