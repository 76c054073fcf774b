"""Nano on COCO 2017: all 80 names asked on every image, at 320 pixels. Not measured: 36,000 steps are days on a CPU.

For any other COCO-format data set, a config of four lines beside this one is enough; class names come from the files:

    with read_base():
        from .detection_nano_coco import *
    train_dataloader["dataset"].update(data_root="data/mine", ann_file="train.json", data_prefix=dict(img="images"))
    val_dataloader["dataset"].update(data_root="data/mine", ann_file="val.json", data_prefix=dict(img="images"))

Tests use the data of validation. A smaller run: ``train_cfg["max_iters"] = 2000``; the schedule follows.

    python tools/train.py configs/detection/detection_nano_coco.py
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.decoders.detection import DetectionDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.real_nano import *

_data = dict(type=CocoDataset, data_root="data/coco")

model = dict(_model, decoders=[dict(type=DetectionDecoder)], loss_weights={**_loss_weights, "detection/loss_box": 2.0})
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
val_evaluator = dict(type=CocoMetric)
test_evaluator = val_evaluator
