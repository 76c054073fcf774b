"""Nano on LVIS v1: boxes of 1,203 classes, of which only a few are verified per image (federated).

In training an image is asked for classes that it shows and classes verified absent, in testing for all names. The
figures are LVIS's: the best 300 boxes of an image over all classes, those of unverified classes left out; ``APr``,
``APc`` and ``APf`` are those of rare, common and frequent classes.

Not measured.

    data/coco/annotations/lvis_v1_{train,val}.json, data/coco/{train2017,val2017}/
    python tools/train.py configs/detection/detection_nano_lvis.py
"""

from mmengine.config import read_base

from lumen.data.coco import CocoDataset
from lumen.decoders.detection import DetectionDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.real_nano import *

# File names come from `coco_url`, which holds the folder of the split.
_data = dict(type=CocoDataset, data_root="data/coco", data_prefix=dict(img=""), federated=True)
_ask["num_prompts"] = 16

model = dict(
    _model,
    decoders=[dict(type=DetectionDecoder, limits=dict(max_per_image=300))],
    loss_weights={**_loss_weights, "detection/loss_box": 2.0},
)
train_dataloader = dict(
    _train_loader, dataset=dict(_data, ann_file="annotations/lvis_v1_train.json", pipeline=_pipeline)
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(_data, ann_file="annotations/lvis_v1_val.json", test_mode=True, pipeline=_val_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, federated=True, max_dets=300)
test_evaluator = val_evaluator
