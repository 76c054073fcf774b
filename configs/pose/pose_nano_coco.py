"""Nano on COCO 2017 person keypoints: one person per sample, cropped by its annotated box, 17 names asked at once.

Annotated boxes give higher figures than detected ones: see ``pose_nano_coco_detected.py``. Not measured.

    data/coco/annotations/person_keypoints_{train,val}2017.json, data/coco/{train2017,val2017}/
    python tools/train.py configs/pose/pose_nano_coco.py
"""

from mmengine.config import read_base

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.decoders.pose import PoseDecoder
from lumen.metrics.pose import KeypointAP
from lumen.model import Lumen

with read_base():
    from .._base_.nano import _aligner, _lmm
    from .._base_.real_nano import *
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_crop_hw = (256, 192)
_data = dict(type=CocoKeypointsDataset, data_root="data/coco")

model = dict(
    type=Lumen,
    lmm=_lmm,
    # Of 24 x 32 cells; the paper's 2 is for its grid.
    aligner=dict(_aligner, heat=dict(_aligner["heat"], point_sigma=1.5)),
    decoders=[dict(type=PoseDecoder)],
    loss_weights={"lmm/loss_phrase_reconstruction": 0.5, "aligner/loss_presence": 0.5},
)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        ann_file="annotations/person_keypoints_train2017.json",
        data_prefix=dict(img="train2017"),
        pipeline=[
            dict(type=LoadImage),
            dict(type=CropInstance, input_hw=_crop_hw, scale_range=(0.75, 1.3), max_shift=0.08, flip_probability=0.5),
            dict(type=Photometric),
            dict(type=AskKeypoints),
            *_pack,
        ],
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        ann_file="annotations/person_keypoints_val2017.json",
        data_prefix=dict(img="val2017"),
        test_mode=True,
        pipeline=[
            dict(type=LoadImage),
            dict(type=CropInstance, input_hw=_crop_hw),
            dict(type=AskKeypoints),
            *_pack,
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=KeypointAP)
test_evaluator = val_evaluator
