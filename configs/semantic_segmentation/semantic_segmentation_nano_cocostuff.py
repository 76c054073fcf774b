"""Nano on COCO-Stuff (164k): 171 classes, in the label maps that mmsegmentation's converter writes.

Not measured.

    data/coco_stuff164k/{images,annotations}/{train2017,val2017}/, maps named *_labelTrainIds.png
    python tools/train.py configs/semantic_segmentation/semantic_segmentation_nano_cocostuff.py
"""

from mmengine.config import read_base

from lumen.data.semantic import SemanticDataset
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.metrics.semantic import SemanticMetric

with read_base():
    from .._base_.classes_cocostuff import _cocostuff
    from .._base_.real_nano import *

_data = dict(
    type=SemanticDataset,
    data_root="data/coco_stuff164k",
    classes=_cocostuff,
    seg_suffix="_labelTrainIds.png",
)
_ask["num_prompts"] = 16
# A class is not an object that can be hidden, so that its smallest visible part counts.
_resize["min_visible"] = _val_resize["min_visible"] = 0.0

model = dict(_model, decoders=[dict(type=SemanticSegmentationDecoder)], loss_weights=_loss_weights)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        data_prefix=dict(img="images/train2017", seg="annotations/train2017"),
        pipeline=_pipeline,
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        data_prefix=dict(img="images/val2017", seg="annotations/val2017"),
        test_mode=True,
        pipeline=_val_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=SemanticMetric)
test_evaluator = val_evaluator
