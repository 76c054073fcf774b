"""Instance masks from a pretrained LMM: data/mine in COCO's format, with polygons or run-length codes. Not measured.

python tools/train.py configs/finetune/segmentation.py --cfg-options model.lmm.name_or_path=Qwen/Qwen3-VL-2B-Instruct
"""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.segmentation import *
