r"""Captions of the multi-task nano on images of COCO. Without pycocoevalcap CIDEr is left out, which is logged.

    python tools/test.py configs/multitask/eval_tiny_coco_caption.py work_dirs/multitask_nano_tiny_coco

Images that it was not trained on:

    ... --cfg-options test_dataloader.dataset.data_prefix.img=val2017 \
        test_dataloader.dataset.ann_file=annotations/captions_val2017.json
"""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.metrics.text import CaptionMetric

with read_base():
    from .._base_.tiny_coco_eval import *

test_dataloader["dataset"] = dict(
    _images,
    type=QuestionsDataset,
    layout="captions",
    ann_file="annotations/captions_train2017.json",
    pipeline=[_load, _resize, dict(type=AskQuestions, task="caption", shuffle=False), _pack],
)
test_evaluator = dict(type=CaptionMetric, with_cider=None)
