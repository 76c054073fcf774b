"""Nano on a data set that a config of mmdet describes, here the one that mmdet ships for Pascal VOC. Not measured.

A config of mmdet stays as it is: its data sets and its metrics are taken, its transforms, loaders and model are not.
With your own config, the Lumen config beside this one changes two lines:

    with read_base():
        from .detection_nano_mmdet import *
    train_dataloader["dataset"]["config"] = "my_mmdet_config.py"
    val_dataloader["dataset"]["config"] = "my_mmdet_config.py"

Tests use the data of validation. Needs the extra ``mmdet``.

    python tools/train.py configs/detection/detection_nano_mmdet.py
"""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder
from lumen.interop.mmdet.dataset import MMDetDataset
from lumen.interop.mmdet.metric import MMDetMetric

with read_base():
    from .._base_.real_nano import *

_data = dict(type=MMDetDataset, config="mmdet::_base_/datasets/voc0712.py")

model = dict(_model, decoders=[dict(type=DetectionDecoder)], loss_weights={**_loss_weights, "detection/loss_box": 2.0})
train_dataloader = dict(_train_loader, dataset=dict(_data, loader="train_dataloader", pipeline=_pipeline))
val_dataloader = dict(_val_loader, dataset=dict(_data, loader="val_dataloader", pipeline=_val_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type=MMDetMetric)
test_evaluator = val_evaluator
