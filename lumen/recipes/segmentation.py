"""Instance masks from a pretrained LMM: data/mine in COCO's format, with polygons or run-length codes. Not measured."""

from mmengine.config import read_base

from lumen.decoders.segmentation import SegmentationDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from lumen.recipes.pretrained_lmm import *

model["decoders"] = [dict(type=SegmentationDecoder)]
model["loss_weights"]["segmentation/loss_box"] = 2.0
_train["with_masks"] = _val["with_masks"] = True
val_evaluator = dict(type=CocoMetric, iou_type=("segm", "bbox"))
test_evaluator = val_evaluator
test_cfg["foreign_names"] = 100  # reports foreign/false_alarms: answers to names of things that are not there
