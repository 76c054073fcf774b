"""The box that a sentence means, from a pretrained LMM: data/mine in COCO's format, with sentences. Not measured.

``train_sentences.json`` holds ``{"refs": [{"image_id": 1, "ann_ids": [7], "sentence": "the left cat"}]}``; its
numbers are those of ``train.json``.

python tools/train.py configs/finetune/grounding.py --cfg-options model.lmm.name_or_path=Qwen/Qwen3-VL-2B-Instruct
"""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.grounding import *
