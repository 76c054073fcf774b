"""How nano is trained from scratch: Muon for matrices, AdamW for the rest, bfloat16, averaged weights.

The rate rises for 200 iterations, or an eighth of a shorter run, and falls to the end: ``train_cfg.max_iters`` is all
that a leaf sets.
"""

from mmengine.optim import CosineAnnealingLR

from lumen.engine.hooks import EmaHook
from lumen.engine.muon import MuonAdamW
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay

# Muon's steps make the sublayers of the two-way layers outgrow the tokens that they add to; see docs/decisions.md, 14.
_tokens = [
    "aligner.layers*",
    "aligner.final_*",
    "aligner.to_query*",
    "aligner.*heat_kernel*",  # of the fine grid too, where there is one
]

optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=MuonAdamW, lr=3e-3, muon_lr=0.02, betas=(0.9, 0.98), weight_decay=0.05),
    constructor=GroupedConstructor,
    paramwise_cfg=dict(
        muon=True,
        adamw=_tokens,
        lr_mult=dict.fromkeys(_tokens, 0.1),
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=200, decay=dict(type=CosineAnnealingLR, eta_min=3e-5))
custom_hooks = [dict(type=EmaHook, decay=0.998)]
val_cfg = dict(dtype="bfloat16")
test_cfg = dict(dtype="bfloat16")
