"""Boxes from a pretrained LMM: data/mine in COCO's format, see ``lumen/recipes/pretrained_lmm.py``. Not measured.

python tools/train.py configs/finetune/detection.py --cfg-options model.lmm.name_or_path=Qwen/Qwen3-VL-2B-Instruct
"""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.detection import *
