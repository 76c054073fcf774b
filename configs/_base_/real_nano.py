"""Nano on real photographs at 320 pixels: model, loaders, schedule. A leaf adds data sets, decoder and metric.

A pipeline is ``[_load, _resize, _colour, _ask, _pack]``, that of evaluation ``[_load, _val_resize, _val_ask, _pack]``.
A leaf changes a step by its name (``_resize["scale_range"] = None``), or makes its own list of steps. Steps, batch and
augmentation are a guess; nothing that uses this file was measured.
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate

from lumen.data.transforms import AskClasses, LoadImage, PackSample, Photometric, ResizeToInput

with read_base():
    from .nano import *
    from .runtime import *
    from .schedule_nano import *

_model["input_hw"] = (320, 320)

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput, flip_probability=0.5, scale_range=(0.5, 1.6))
_colour = dict(type=Photometric)
_ask = dict(type=AskClasses, num_prompts=8)
_pack = dict(type=PackSample)
_val_resize = dict(type=ResizeToInput)
_val_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)
_pipeline = [_load, _resize, _colour, _ask, _pack]
_val_pipeline = [_load, _val_resize, _val_ask, _pack]

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

train_cfg = dict(max_iters=36000, val_interval=6000)
param_scheduler["warm_up"] = 1000
