"""Nano in L-Man's place, on the person world: the model, data, optimizer. All sizes and rates are OURS.

INFERRED: a query connector between tower and LLM. OURS: 16 queries of width 96 in 4 layers, one depth of the tower
where the paper speaks of several grains; the packaged nano, which has seen shapes and no persons.
"""

from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR

from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.engine.muon import MuonAdamW
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.connectors import QueryConnector

_connector = dict(
    type=QueryConnector,
    num_queries=16,
    width=96,
    num_layers=4,
    num_heads=4,
    initializer_range=0.1,
)
_lmm = dict(
    type=HFAdapter,
    name_or_path="nano",
    template="compact",
    # Routing tokens are those that the vocabulary has.
    tasks=[
        dict(name="attributes", answer_format="numbers", routing_token="[DET]"),
        dict(name="reid", answer_format="numbers", routing_token="[DET]"),
    ],
    base=dict(attention="eager", connector=_connector, new_tokens="learn"),
    readout=dict(add_phrase_state=True),
    generation=dict(max_new_tokens=64),
)

_parts = (
    *("background", "head", "hat", "upper clothes", "skirt", "left arm"),
    *("right arm", "left leg", "right leg", "bag"),
)
_person = dict(data_root="data/persons")
_load = dict(type=LoadImage, cache_mb=300)
_resize = dict(type=ResizeToInput)
_flip = dict(type=ResizeToInput, flip_probability=0.5)
_pack = dict(type=PackSample)
_loader = dict(batch_size=16, num_workers=0, collate_fn=dict(type=pseudo_collate))
_test_loader = dict(_loader, sampler=dict(type=DefaultSampler, shuffle=False))

optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=MuonAdamW, lr=3e-3, muon_lr=0.02, betas=(0.9, 0.98), weight_decay=0.05),
    constructor=GroupedConstructor,
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=100, decay=dict(type=CosineAnnealingLR, eta_min=3e-5))
