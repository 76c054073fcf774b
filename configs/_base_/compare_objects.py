"""The comparison's readout "objects": the state at ``[LOC]`` chooses one of 16 boxes that were proposed for the image.

The proposals come from the frozen tower and stand as 16 further image tokens behind those of the connector.

Source:
    The idea of WeDetect-Ref and VLM-FO1 (both 2025); see ``ObjectConnector``.
"""

from mmengine.config import read_base

from lumen.aligners.slots import SlotAligner
from lumen.decoders.object_choice import ObjectChoiceDecoder
from lumen.lmm.connectors import ObjectConnector

with read_base():
    from .compare_nano import *

_objects = dict(type=ObjectConnector, inner=_linear, num_objects=16)
_lmm["base"]["connector"] = _objects
model = dict(
    _model,
    aligner=dict(type=SlotAligner, slots=["[LOC]"], channels=96, objects=True),
    decoders=[dict(type=ObjectChoiceDecoder)],
)
# The file of the first stage with the connector as `inner`, see tools/comparison/_runs.py.
_start = "work_dirs/start_{}/iter_800_inner.pth"
load_from["checkpoint"] = _start.format("linear")
load_from["fresh"] += [
    f"lmm.base_model.model.multi_modal_projector.{part}.*" for part in ("proposal_head", "look", "place")
]
