"""Nano on RefCOCO in MDETR's files (``mdetr_annotations``), which give boxes only, one sentence per image entry.

The other sets have the same names: ``--cfg-options test_dataloader.dataset.ann_file=finetune_refcoco_testB.json``.

Not measured.

    data/mdetr/finetune_refcoco_{train,val,testA,testB}.json, data/mdetr/train2014/
    python tools/train.py configs/grounding/grounding_nano_mdetr.py
"""

from mmengine.config import read_base

from lumen.decoders.grounding import GroundingDecoder
from lumen.metrics.refer import GroundingMetric

with read_base():
    from .._base_.refer_nano import *

_data.update(layout="mdetr", data_root="data/mdetr", data_prefix=dict(img="train2014"))

model = dict(_model, decoders=[dict(type=GroundingDecoder)], loss_weights={**_loss_weights, "grounding/loss_box": 2.0})
train_dataloader = dict(_train_loader, dataset=dict(_data, ann_file="finetune_refcoco_train.json", pipeline=_pipeline))
val_dataloader = dict(
    _val_loader,
    dataset=dict(_data, ann_file="finetune_refcoco_val.json", test_mode=True, pipeline=_val_pipeline),
)
test_dataloader = dict(
    _val_loader,
    dataset=dict(_data, ann_file="finetune_refcoco_testA.json", test_mode=True, pipeline=_val_pipeline),
)
val_evaluator = dict(type=GroundingMetric)
test_evaluator = val_evaluator
