"""Keypoints from a pretrained LMM: data/mine in the format of COCO's person_keypoints, objects cropped. Not measured.

A flip exchanges the keypoints whose names hold left and right; with other names, set ``_crop["flip_probability"] = 0``.

python tools/train.py configs/finetune/pose.py --cfg-options model.lmm.name_or_path=Qwen/Qwen3-VL-2B-Instruct
"""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.pose import *
