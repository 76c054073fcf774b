"""The comparison's readout "slot": three layers make a box of the state at ``[LOC]`` alone.

Source:
    The region decoder of Xu et al., "u-LLaVA" (2024), section 4.1, with its loss weights.
"""

from mmengine.config import read_base

from lumen.aligners.slots import SlotAligner
from lumen.decoders.slot_box import SlotBoxDecoder

with read_base():
    from .compare_nano import *

model = dict(
    _model,
    aligner=dict(type=SlotAligner, slots=["[LOC]"], channels=96),
    decoders=[dict(type=SlotBoxDecoder)],
)
