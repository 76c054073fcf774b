"""Boxes from a pretrained LMM: data/mine in COCO's format, see ``_base_/pretrained_lmm.py``. Not measured.

python tools/train.py configs/finetune/detection.py --cfg-options model.lmm.name_or_path=Qwen/Qwen3-VL-2B-Instruct
"""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.pretrained_lmm import *

model["decoders"] = [dict(type=DetectionDecoder)]
model["loss_weights"]["detection/loss_box"] = 2.0
val_evaluator = dict(type=CocoMetric, classwise=True)
test_evaluator = val_evaluator
test_cfg["foreign_names"] = 100  # reports foreign/false_alarms: answers to names of things that are not there
