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

with read_base():
    from .._base_.real_nano import *

_data = dict(type=CocoKeypointsDataset, data_root="data/coco")
_crop = dict(type=CropInstance, scale_range=(0.75, 1.3), max_shift=0.08, flip_probability=0.5)
_val_crop = dict(type=CropInstance)
_ask_points = dict(type=AskKeypoints)
_aligner["heat"]["point_sigma"] = 1.5  # of 24 x 32 cells; the paper's 2 is for its grid

model = dict(_model, input_hw=(256, 192), decoders=[dict(type=PoseDecoder)], loss_weights=_loss_weights)
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        ann_file="annotations/person_keypoints_train2017.json",
        data_prefix=dict(img="train2017"),
        pipeline=[_load, _crop, _colour, _ask_points, _pack],
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        ann_file="annotations/person_keypoints_val2017.json",
        data_prefix=dict(img="val2017"),
        test_mode=True,
        pipeline=[_load, _val_crop, _ask_points, _pack],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=KeypointAP)
test_evaluator = val_evaluator
