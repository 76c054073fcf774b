"""Nano on COCO-Stuff (164k): 171 classes, in the label maps that mmsegmentation's converter writes.

Not measured.

    data/coco_stuff164k/{images,annotations}/{train2017,val2017}/, maps named *_labelTrainIds.png
    python tools/train.py configs/semantic_segmentation/semantic_segmentation_nano_cocostuff.py
"""

from mmengine.config import read_base

from lumen.data.semantic import SemanticDataset
from lumen.data.transforms import AskClasses
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.metrics.semantic import SemanticMetric
from lumen.model import Lumen

with read_base():
    from .._base_.classes_cocostuff import _cocostuff
    from .._base_.nano import _aligner, _lmm
    from .._base_.real_nano import *
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_data = dict(
    type=SemanticDataset,
    data_root="data/coco_stuff164k",
    classes=_cocostuff,
    seg_suffix="_labelTrainIds.png",
)
_ask = dict(type=AskClasses, task="semantic_segmentation")
# A class is no object that can be hidden, so that its smallest rest counts.
_train_view[1]["min_visible"] = 0.0
_plain_view[1]["min_visible"] = 0.0

model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=_aligner,
    decoders=[dict(type=SemanticSegmentationDecoder)],
    loss_weights={"lmm/loss_phrase_reconstruction": 0.5, "aligner/loss_presence": 0.5},
)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        data_prefix=dict(img="images/train2017", seg="annotations/train2017"),
        pipeline=[*_train_view, dict(_ask, num_prompts=16), *_pack],
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        data_prefix=dict(img="images/val2017", seg="annotations/val2017"),
        test_mode=True,
        pipeline=[*_plain_view, dict(_ask, num_prompts=None, shuffle=False), *_pack],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=SemanticMetric)
test_evaluator = val_evaluator
