"""The demo's training with two convolutions in place of two-way attention; see docs/ablations.md.

The convolutions step by Muon, as all others of the model do.

    python tools/ablate.py run --cell convolutions
"""

from mmengine.config import read_base

with read_base():
    from .base import *

model["aligner"]["mixing"] = "convolutions"
_attention = ["aligner.layers*", "aligner.final_*"]
_kept = [name for name in _tokens if name not in _attention]
optim_wrapper["paramwise_cfg"]["adamw"] = [*_kept, *_llm]
optim_wrapper["paramwise_cfg"]["lr_mult"] = {
    "lmm.*": 1.0,
    **dict.fromkeys(_llm, 0.2),
    **dict.fromkeys(_kept, 0.1),
}
