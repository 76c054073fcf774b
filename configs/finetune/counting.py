"""Counts of objects from a pretrained LMM: data/mine in COCO's format, boxes of all objects. Not measured.

A count is the number of peaks of the heatmap: the decoder itself has no weights to train.

python tools/train.py configs/finetune/counting.py --cfg-options model.lmm.name_or_path=Qwen/Qwen3-VL-2B-Instruct
"""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.counting import *
