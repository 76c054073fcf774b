"""Nano on RefCOCO in MDETR's files (``mdetr_annotations``), which give boxes only, one sentence per image entry.

The other sets have the same names: ``--cfg-options test_dataloader.dataset.ann_file=finetune_refcoco_testB.json``.

Not measured.

    data/mdetr/finetune_refcoco_{train,val,testA,testB}.json, data/mdetr/train2014/
    python tools/train.py configs/grounding/grounding_nano_mdetr.py
"""

from mmengine.config import read_base

from lumen.model import Lumen

with read_base():
    from .._base_.nano import _aligner, _lmm
    from .._base_.real_nano import *
    from .._base_.refer_nano import _ask, _ask_all, _box_metric, _boxes, _data, _refer_weights
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_data.update(layout="mdetr", data_root="data/mdetr", data_prefix=dict(img="train2014"))

model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=_aligner,
    decoders=[_boxes],
    loss_weights=dict(_refer_weights, **{"grounding/loss_box": 2.0}),
)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        ann_file="finetune_refcoco_train.json",
        pipeline=[
            dict(type=LoadImage),
            dict(type=ResizeToInput, input_hw=_input_hw, flip_probability=0.5),
            dict(type=Photometric),
            _ask,
            *_pack,
        ],
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data, ann_file="finetune_refcoco_val.json", test_mode=True, pipeline=[*_plain_view, _ask_all, *_pack]
    ),
)
test_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data, ann_file="finetune_refcoco_testA.json", test_mode=True, pipeline=[*_plain_view, _ask_all, *_pack]
    ),
)
val_evaluator = _box_metric
test_evaluator = val_evaluator
