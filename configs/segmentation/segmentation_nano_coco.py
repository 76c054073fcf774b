"""Nano on COCO 2017 instances: boxes and masks, all 80 names asked on every image.

Not measured.

    data/coco/annotations/instances_{train,val}2017.json, data/coco/{train2017,val2017}/
    python tools/train.py configs/segmentation/segmentation_nano_coco.py
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.real_nano import *

_data = dict(type=CocoDataset, data_root="data/coco", with_masks=True)

model = dict(
    _model, decoders=[dict(type=SegmentationDecoder)], loss_weights={**_loss_weights, "segmentation/loss_box": 2.0}
)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017"),
        pipeline=_pipeline,
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017"),
        test_mode=True,
        pipeline=_val_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, iou_type=("segm", "bbox"))
test_evaluator = val_evaluator
