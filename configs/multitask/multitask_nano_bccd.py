"""Nano from scratch on BCCD: boxes and counts of three kinds of blood cells from one model.

Trained on the training split exactly as ``detection_nano_bccd.py``, which can stand for it: a count is the number of
peaks of the same heatmap, and both tasks are worded alike, so that counting adds a decoder without weights, and no
training.

    python tools/train.py configs/multitask/multitask_nano_bccd.py
    python tools/test.py configs/multitask/multitask_nano_bccd.py work_dirs/multitask_nano_bccd    # boxes, test split
    python tools/test.py configs/multitask/eval_bccd_counting.py work_dirs/multitask_nano_bccd     # counts, test split
"""

from mmengine.config import read_base

from lumen.decoders.counting import CountingDecoder

with read_base():
    from ..detection.detection_nano_bccd import *

model["decoders"] = [dict(type=DetectionDecoder), dict(type=CountingDecoder, min_score=0.45, min_distance=3)]
