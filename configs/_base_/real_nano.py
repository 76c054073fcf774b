"""Nano on real photographs at 320 pixels: loaders and schedule. A leaf adds data sets, decoder and metric.

Steps, batch and augmentation are a guess; nothing that uses this file was measured.
"""

from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR, LinearLR

from lumen.data.transforms import LoadImage, PackSample, Photometric, ResizeToInput

_input_hw = (320, 320)
_num_iters = 36000

_train_loader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
)
_val_loader = dict(
    batch_size=8,
    num_workers=2,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
# A pipeline is a view, what is asked, and packing. Sentences and questions name sides and whole scenes: no zoom there.
_train_view = [
    dict(type=LoadImage),
    dict(type=ResizeToInput, input_hw=_input_hw, flip_probability=0.5, scale_range=(0.5, 1.6)),
    dict(type=Photometric),
]
_plain_view = [dict(type=LoadImage), dict(type=ResizeToInput, input_hw=_input_hw)]
_pack = [dict(type=PackSample)]

train_cfg = dict(max_iters=_num_iters, val_interval=6000)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=1000),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=1000, end=_num_iters, T_max=_num_iters - 1000, eta_min=3e-5),
]
