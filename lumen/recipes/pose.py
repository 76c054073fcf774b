"""Keypoints from a pretrained LMM: data/mine in the format of COCO's person_keypoints, objects cropped. Not measured.

A flip exchanges the keypoints whose names hold left and right; with other names, set ``_crop["flip_probability"] = 0``.
"""

from mmengine.config import read_base

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.decoders.pose import PoseDecoder
from lumen.metrics.pose import KeypointAP

with read_base():
    from lumen.recipes.pretrained_lmm import *

_crop = dict(type=CropInstance, scale_range=(0.75, 1.3), max_shift=0.08, flip_probability=0.5)
_ask_points = dict(type=AskKeypoints)

model["decoders"] = [dict(type=PoseDecoder)]
_train.update(type=CocoKeypointsDataset, pipeline=[_load, _crop, _colour, _ask_points, _pack])
_val.update(type=CocoKeypointsDataset, pipeline=[_load, dict(type=CropInstance), _ask_points, _pack])
# One sigma for every keypoint. Leave it out for COCO's 17 keypoints, or where each category has its "sigmas".
val_evaluator = dict(type=KeypointAP, sigmas=0.05)
test_evaluator = val_evaluator
