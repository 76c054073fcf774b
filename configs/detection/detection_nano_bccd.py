"""Nano from nothing on BCCD: 3 kinds of blood cells on real photographs. Training split, judged on the val split.

Everything was chosen with this config; ``detection_nano_bccd_final.py`` then trains on both and is tested once.

    python tools/train.py configs/detection/detection_nano_bccd.py
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR, LinearLR

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, Photometric, ResizeToInput
from lumen.decoders.detection import DetectionDecoder
from lumen.metrics.coco.metric import CocoMetric
from lumen.model import Lumen

with read_base():
    from .._base_.nano import _aligner, _lmm, _loss_weights
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_input_hw = (240, 320)
_num_iters = 1600

model = dict(type=Lumen, lmm=_lmm, aligner=_aligner, decoders=[dict(type=DetectionDecoder)], loss_weights=_loss_weights)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        data_root="data/bccd",
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="images"),
        pipeline=[
            dict(type=LoadImage, cache_mb=400),
            dict(
                type=ResizeToInput,
                input_hw=_input_hw,
                flip_probability=0.5,
                vertical_flip_probability=0.5,
                scale_range=(0.7, 1.5),
                aspect_range=(0.8, 1.25),
            ),
            dict(type=Photometric),
            dict(type=AskClasses, num_prompts=None),
            dict(type=PackSample),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root="data/bccd",
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="images"),
        test_mode=True,
        pipeline=[
            dict(type=LoadImage),
            dict(type=ResizeToInput, input_hw=_input_hw),
            dict(type=AskClasses, num_prompts=None, shuffle=False),
            dict(type=PackSample),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, classwise=True)
test_evaluator = val_evaluator
# Three names need no two-way layers (docs/decisions.md, 14); Muon throughout is what was judged on val.
optim_wrapper["paramwise_cfg"] = dict(muon=True)
train_cfg = dict(max_iters=_num_iters, val_interval=_num_iters)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=200, end=_num_iters, T_max=_num_iters - 200, eta_min=3e-5),
]
