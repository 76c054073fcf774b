"""Nano on conversations in LLaVA's layout (``llava_v1_5_mix665k.json`` and its like): answers as text, nothing else.

A nano learns the form of a conversation, not the world; the config is there for larger LMMs. Not measured: there is no
metric for free answers, ask the predictor.

    data/llava/llava_v1_5_mix665k.json, its images below data/llava/images/ as LLaVA's README lays them out
    python tools/train.py configs/text/chat_nano_llava.py
"""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, LoadImageOrBlank, QuestionsDataset
from lumen.decoders.text import ChatDecoder

with read_base():
    from .._base_.real_nano import *

model = dict(_model, decoders=[dict(type=ChatDecoder)])
train_dataloader = dict(
    _train_loader,
    dataset=dict(
        type=QuestionsDataset,
        layout="conversations",
        ann_file="llava_v1_5_mix665k.json",
        data_root="data/llava",
        data_prefix=dict(img="images"),
        pipeline=[dict(type=LoadImageOrBlank), _val_resize, dict(type=AskQuestions, num_prompts=2), _pack],
    ),
)
train_cfg["val_interval"] = None
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
