"""The comparison's readout "heatmap": the state at ``[LOC]`` is matched with the tower's grid; its peak has a box.

The dense features come from the tower, past connector and LLM. The aligner and its schedule are those of
``detection_nano_shapes``.

Source:
    Jiao et al., "Lumen" (2024), sections 3.1.2 and A.1; the fine level is ours.
"""

from mmengine.config import read_base

from lumen.decoders.grounding import GroundingDecoder

with read_base():
    from .compare_nano import *
    from .nano import _aligner
    from .schedule_nano import _tokens

model = dict(
    _model,
    aligner=_aligner,
    decoders=[dict(type=GroundingDecoder)],
    loss_weights={"aligner/loss_presence": 0.5, "grounding/loss_box": 2.0},
)
optim_wrapper["paramwise_cfg"]["adamw"] = _tokens
optim_wrapper["paramwise_cfg"]["lr_mult"].update(dict.fromkeys(_tokens, 0.1))
