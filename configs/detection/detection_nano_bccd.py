"""Nano from scratch on BCCD: 3 kinds of blood cells on real photographs. Trained on the training split.

Training is judged on the val split, on which settings are chosen; ``tools/test.py`` reports the test split.

Rates, steps and augmentation were chosen with this config. The size was not: 320 x 416 is better on val, and was
dropped after both had been tested (docs/results.md). ``detection_nano_bccd_final.py`` trains on both splits.

    python tools/train.py configs/detection/detection_nano_bccd.py
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, Photometric, ResizeToInput
from lumen.decoders.detection import DetectionDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.nano import _loss_weights, _model
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_data = dict(type=CocoDataset, data_root="data/bccd", data_prefix=dict(img="images"))
_load = dict(type=LoadImage, cache_mb=400)
_resize = dict(
    type=ResizeToInput,
    flip_probability=0.5,
    vertical_flip_probability=0.5,
    scale_range=(0.7, 1.5),
    aspect_range=(0.8, 1.25),
)
_ask = dict(type=AskClasses, num_prompts=None)
_pack = dict(type=PackSample)
_val_load = dict(type=LoadImage)
_val_resize = dict(type=ResizeToInput)
_val_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)

model = dict(
    _model,
    input_hw=(240, 320),
    decoders=[dict(type=DetectionDecoder)],
    loss_weights={**_loss_weights, "detection/loss_box": 2.0},
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        _data,
        ann_file="annotations/instances_train.json",
        pipeline=[_load, _resize, dict(type=Photometric), _ask, _pack],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        _data,
        ann_file="annotations/instances_val.json",
        test_mode=True,
        pipeline=[_val_load, _val_resize, _val_ask, _pack],
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader["dataset"], ann_file="annotations/instances_test.json")
)
val_evaluator = dict(type=CocoMetric, classwise=True)
test_evaluator = val_evaluator
# Three names need no two-way layers (docs/decisions.md, 14); Muon throughout is what was judged on val.
optim_wrapper["paramwise_cfg"] = dict(muon=True)
train_cfg = dict(max_iters=1600)
