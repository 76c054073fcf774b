"""The nano model: a LLaVA small enough to train from scratch on a CPU, with the aligner that goes with it.

``data/nano`` is made by ``python tools/make_nano.py``. A leaf writes ``model = dict(_model, decoders=[...])``; images
of any multiple of 16 pixels are taken, and ``input_hw`` chooses the size once for all loaders.
"""

from lumen.aligners.dense import DenseAligner
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen

_lmm = dict(
    type=HFAdapter,
    name_or_path="data/nano",
    template="compact",
    base=dict(attention="plain"),  # at this size plain products beat the fused kernel on a CPU
    readout=dict(
        add_phrase_state=True,  # departs from the paper; from scratch, [LOC] alone learns the class word too late
        phrase_reconstruction=True,
    ),
)
_aligner = dict(
    type=DenseAligner,
    channels=96,
    num_heads=4,
    mlp_channels=256,
    fine_levels=1,  # stride 8
    heat=dict(target="ttfnet"),
)
_model = dict(type=Lumen, lmm=_lmm, aligner=_aligner)
_loss_weights = {"lmm/loss_phrase_reconstruction": 0.5, "aligner/loss_presence": 0.5}
