"""Nano on RefCOCO (UNC): the box that a sentence means.

Tested on testA (persons); testB by ``--cfg-options test_dataloader.dataset.split=testB``.

Not measured.

    data/refer/refcoco/{refs(unc).p,instances.json}
    python tools/train.py configs/grounding/grounding_nano_refcoco.py
"""

from mmengine.config import read_base

from lumen.model import Lumen

with read_base():
    from .._base_.nano import _aligner, _lmm
    from .._base_.real_nano import *
    from .._base_.refer_nano import _ask, _ask_all, _box_metric, _boxes, _data, _refer_weights
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_data.update(ann_file="refcoco/refs(unc).p", instances_file="refcoco/instances.json")

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
        split="train",
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
    _val_loader, dataset=dict(_data, split="val", test_mode=True, pipeline=[*_plain_view, _ask_all, *_pack])
)
test_dataloader = dict(
    _val_loader, dataset=dict(_data, split="testA", test_mode=True, pipeline=[*_plain_view, _ask_all, *_pack])
)
val_evaluator = _box_metric
test_evaluator = val_evaluator
