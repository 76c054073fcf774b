"""Nano on ADE20K (scene parsing): 150 classes; 0 in a label map stands for no class.

Not measured.

    data/ADEChallengeData2016/{images,annotations}/{training,validation}/
    python tools/train.py configs/semantic_segmentation/semantic_segmentation_nano_ade20k.py
"""

from mmengine.config import read_base

from lumen.data.semantic import SemanticDataset
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.metrics.semantic import SemanticMetric

with read_base():
    from .._base_.classes_ade20k import _ade20k
    from .._base_.real_nano import *

_data = dict(
    type=SemanticDataset,
    data_root="data/ADEChallengeData2016",
    classes=_ade20k,
    reduce_zero_label=True,
)
_ask["num_prompts"] = 16
# A class is not an object that can be hidden, so that its smallest visible part counts.
_resize["min_visible"] = _val_resize["min_visible"] = 0.0

model = dict(_model, decoders=[dict(type=SemanticSegmentationDecoder)], loss_weights=_loss_weights)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        data_prefix=dict(img="images/training", seg="annotations/training"),
        pipeline=_pipeline,
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        data_prefix=dict(img="images/validation", seg="annotations/validation"),
        test_mode=True,
        pipeline=_val_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=SemanticMetric)
test_evaluator = val_evaluator
