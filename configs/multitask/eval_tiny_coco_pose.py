r"""Keypoints of the multi-task nano on persons of COCO, in crops of the annotated boxes.

    python tools/test.py configs/multitask/eval_tiny_coco_pose.py work_dirs/multitask_nano_tiny_coco

Persons that it was not trained on:

    ... --cfg-options test_dataloader.dataset.data_prefix.img=val2017 \
        test_dataloader.dataset.ann_file=annotations/person_keypoints_val2017.json
"""

from mmengine.config import read_base

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.metrics.pose import PCK, KeypointAP

with read_base():
    from .._base_.tiny_coco_eval import *

_load["cache_mb"] = 100  # an image is read once for each object in it
test_dataloader["dataset"] = dict(
    _images,
    type=CocoKeypointsDataset,
    ann_file="annotations/person_keypoints_train2017.json",
    pipeline=[_load, dict(type=CropInstance), dict(type=AskKeypoints), _pack],
)
test_evaluator = [dict(type=KeypointAP), dict(type=PCK, per_keypoint=False)]
