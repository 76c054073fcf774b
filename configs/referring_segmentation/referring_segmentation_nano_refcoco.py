"""Nano on RefCOCO (UNC): the mask that a sentence means.

Tested on testA (persons); testB by ``--cfg-options test_dataloader.dataset.split=testB``.

Not measured.

    data/refer/refcoco/{refs(unc).p,instances.json}
    python tools/train.py configs/referring_segmentation/referring_segmentation_nano_refcoco.py
"""

from mmengine.config import read_base

from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder
from lumen.metrics.refer import ReferringMaskMetric

with read_base():
    from .._base_.refer_nano import *

_data.update(ann_file="refcoco/refs(unc).p", instances_file="refcoco/instances.json", with_masks=True)

model = dict(
    _model,
    decoders=[dict(type=ReferringSegmentationDecoder)],
    loss_weights={**_loss_weights, "referring_segmentation/loss_box": 2.0},
)
train_dataloader = dict(_train_loader, dataset=dict(_data, split="train", pipeline=_pipeline))
val_dataloader = dict(_val_loader, dataset=dict(_data, split="val", test_mode=True, pipeline=_val_pipeline))
test_dataloader = dict(_val_loader, dataset=dict(_data, split="testA", test_mode=True, pipeline=_val_pipeline))
val_evaluator = dict(type=ReferringMaskMetric)
test_evaluator = val_evaluator
