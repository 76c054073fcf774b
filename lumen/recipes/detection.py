"""Boxes from a pretrained LMM: data/mine in COCO's format. Not measured."""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from lumen.recipes.pretrained_lmm import *

model["decoders"] = [dict(type=DetectionDecoder)]
model["loss_weights"]["detection/loss_box"] = 2.0
val_evaluator = dict(type=CocoMetric, classwise=True)
test_evaluator = val_evaluator
test_cfg["foreign_names"] = 100  # reports foreign/false_alarms: answers to names of things that are not there
