"""Nano on COCO 2017: all 80 names asked on every image, at 320 pixels. Not measured: 36,000 steps are days on a CPU.

For any other COCO-format data set, three lines in a config beside this one are enough; class names come from the files:

    with read_base():
        from .detection_nano_coco import *
    train_dataloader["dataset"].update(data_root="data/mine", ann_file="train.json", data_prefix=dict(img="images"))
    val_dataloader["dataset"].update(data_root="data/mine", ann_file="val.json", data_prefix=dict(img="images"))
    test_dataloader = val_dataloader

    python tools/train.py configs/detection/detection_nano_coco.py
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

_input_hw = (320, 320)
_num_iters = 36000

model = dict(type=Lumen, lmm=_lmm, aligner=_aligner, decoders=[dict(type=DetectionDecoder)], loss_weights=_loss_weights)
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        data_root="data/coco",
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017"),
        pipeline=[
            dict(type=LoadImage),
            dict(type=ResizeToInput, input_hw=_input_hw, flip_probability=0.5, scale_range=(0.5, 1.6)),
            dict(type=Photometric),
            dict(type=AskClasses, num_prompts=8),
            dict(type=PackSample),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root="data/coco",
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017"),
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
val_evaluator = dict(type=CocoMetric)
test_evaluator = val_evaluator
train_cfg = dict(max_iters=_num_iters, val_interval=6000)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=1000),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=1000, end=_num_iters, T_max=_num_iters - 1000, eta_min=3e-5),
]
