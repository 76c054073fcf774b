"""Nano on COCO 2017 captions, judged by CIDEr (``pip install 'lumen-perception[text]'``).

Not measured.

    data/coco/annotations/captions_{train,val}2017.json, data/coco/{train2017,val2017}/
    python tools/train.py configs/text/caption_nano_coco.py
"""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.decoders.text import CaptionDecoder
from lumen.metrics.text import CaptionMetric

with read_base():
    from .._base_.real_nano import *

_data = dict(type=QuestionsDataset, layout="captions", data_root="data/coco")

model = dict(_model, decoders=[dict(type=CaptionDecoder)])
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        _data,
        ann_file="annotations/captions_train2017.json",
        data_prefix=dict(img="train2017"),
        pipeline=[_load, _val_resize, dict(type=AskQuestions, num_prompts=1, answer="random"), _pack],
    ),
)
val_dataloader = dict(
    _val_loader,
    dataset=dict(
        _data,
        ann_file="annotations/captions_val2017.json",
        data_prefix=dict(img="val2017"),
        test_mode=True,
        pipeline=[_load, _val_resize, dict(type=AskQuestions), _pack],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CaptionMetric)
test_evaluator = val_evaluator
