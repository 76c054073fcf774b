"""Keypoints of persons in scenes, in crops of the annotated boxes. Wanted: PCK@.1 at least .80.

A mean pose, put into each box, has at most .45: ``python projects/lman/lman_blind.py``.

    python tools/test.py projects/lman/lman_eval_pose.py work_dirs/lman_s2_nano
"""

from mmengine.config import read_base

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.metrics.pose import PCK

with read_base():
    from ._lman_eval import *

test_dataloader["dataset"] = dict(
    _test,
    type=CocoKeypointsDataset,
    ann_file="annotations/scenes_test.json",
    data_prefix=dict(img="scenes/test"),
    pipeline=[_load, dict(type=CropInstance), dict(type=AskKeypoints), _pack],
)
test_evaluator = dict(type=PCK, per_keypoint=False)
