"""What the stages of L-Man at full size share. Never run. Only the abstract of L-Man is public; no code, no figures.

Marks: P, the abstract; INFERRED, it follows from it; OURS, our choice, since nothing states it.

P: a query adapter that extracts image semantics of several grains. INFERRED: a Q-Former as in BLIP-2, whose two stages
the abstract's resemble. OURS: 32 queries of width 768 in 12 layers, three depths of the tower, LLaVA 1.5 as the base.
"""

from mmengine.dataset import pseudo_collate
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from lumen.data.text import QuestionsDataset
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.connectors import QueryConnector

_connector = dict(
    type=QueryConnector,
    num_queries=32,
    width=768,
    num_layers=12,
    num_heads=12,
    cross_every=2,
    levels=(-14, -8, -2),
)
_lmm = dict(
    type=HFAdapter,
    name_or_path="llava-hf/llava-1.5-7b-hf",
    template="compact",
    base=dict(
        dtype="bfloat16",
        gradient_checkpointing=True,
        connector=_connector,
        new_tokens="learn",
    ),
    generation=dict(max_new_tokens=256),
)
_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput, mode="stretch")
_pack = dict(type=PackSample)
_humanins = dict(type=QuestionsDataset, data_root="data/humanins")
_loader = dict(
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
)

optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.98), weight_decay=0.05),
    constructor=GroupedConstructor,
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=1000, decay=dict(type=CosineAnnealingLR, eta_min=1e-6))
