"""Keypoints of the multi-task nano, in crops of the annotated boxes; one sigma, .05, for all keypoints.

python tools/test.py configs/multitask/eval_pose.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.metrics.pose import PCK, KeypointAP

with read_base():
    from .._base_.multitask_eval import *

_load["cache_mb"] = 100  # an image is read once for each object in it
test_dataloader["dataset"] = dict(
    _images,
    type=CocoKeypointsDataset,
    ann_file=_instances,
    pipeline=[_load, dict(type=CropInstance), dict(type=AskKeypoints), _pack],
)
test_evaluator = [dict(type=KeypointAP, sigmas=0.05), dict(type=PCK, per_keypoint=False)]
