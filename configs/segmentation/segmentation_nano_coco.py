"""Nano on COCO 2017 instances: boxes and masks, all 80 names asked on every image.

Not measured.

    data/coco/annotations/instances_{train,val}2017.json, data/coco/{train2017,val2017}/
    python tools/train.py configs/segmentation/segmentation_nano_coco.py
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.metrics.coco.metric import CocoMetric
from lumen.model import Lumen

with read_base():
    from .._base_.nano import _aligner, _lmm
    from .._base_.real_nano import *
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_data = dict(type=CocoDataset, data_root="data/coco", with_masks=True)

model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=_aligner,
    decoders=[dict(type=SegmentationDecoder)],
    loss_weights={"lmm/loss_phrase_reconstruction": 0.5, "aligner/loss_presence": 0.5, "segmentation/loss_box": 2.0},
)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017"),
        pipeline=[*_train_view, dict(type=AskClasses, num_prompts=8, task="segmentation"), *_pack],
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017"),
        test_mode=True,
        pipeline=[*_plain_view, dict(type=AskClasses, num_prompts=None, task="segmentation", shuffle=False), *_pack],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, iou_type=("segm", "bbox"))
test_evaluator = val_evaluator
