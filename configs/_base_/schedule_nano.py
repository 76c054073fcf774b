"""How nano is trained from nothing: AdamW at a high rate, bfloat16, averaged weights."""

from torch.optim import AdamW

from lumen.engine.hooks import EmaHook
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper

optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    constructor=GroupedConstructor,
    clip_grad=dict(max_norm=5.0),
)
custom_hooks = [dict(type=EmaHook, decay=0.998)]
val_cfg = dict(dtype="bfloat16")
test_cfg = dict(dtype="bfloat16")
