"""Keypoints of the multi-task nano, in crops of the annotated boxes; one sigma, .05, for all keypoints.

python tools/test.py configs/multitask/eval_pose.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.transforms import LoadImage, PackSample
from lumen.metrics.pose import PCK, KeypointAP

with read_base():
    from .._base_.multitask_eval import *

test_dataloader["dataset"] = dict(
    _images,
    type=CocoKeypointsDataset,
    ann_file=_instances,
    pipeline=[
        dict(type=LoadImage, cache_mb=100),
        dict(type=CropInstance, input_hw=_hw),
        dict(type=AskKeypoints),
        dict(type=PackSample),
    ],
)
test_evaluator = [dict(type=KeypointAP, sigmas=0.05), dict(type=PCK, per_keypoint=False)]
