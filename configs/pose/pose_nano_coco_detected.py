"""``pose_nano_coco.py``, judged on detected persons, as published figures of top-down methods are.

The usual detection file has 56.4 AP on persons; any COCO results file will do. Not measured.

    data/coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json
    python tools/test.py configs/pose/pose_nano_coco_detected.py work_dirs/pose_nano_coco
"""

from mmengine.config import read_base

with read_base():
    from .pose_nano_coco import *

val_dataloader["dataset"]["detections"] = (
    "data/coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
)
