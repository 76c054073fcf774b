"""InfMLLM in small, stage 2, at 320 pixels: captions, short answers and boxes as text, all about one image at once.

Tower, connector, and the query and value projections of the LLM learn. The README has figures.

    python tools/train.py projects/infmllm/infmllm_s2_nano.py
"""

from infmllm_questions import WordShortQuestions
from mmengine.config import read_base

from lumen.data.mixture import JoinedDataset
from lumen.data.refer import AskSentences
from lumen.data.written import WriteAnswers
from lumen.engine.hooks import FreezeHook

with read_base():
    from ._infmllm_nano import *

load_from = "work_dirs/infmllm_s1_nano/iter_100.pth"
model = dict(_model, input_hw=(320, 320))
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.*"], trainable=[_connector, _tower, *_queries_and_values])]
optim_wrapper["paramwise_cfg"]["lr_mult"] = {"lmm.*": 1.0, _tower: 0.33}

train_dataloader = dict(
    _loader,
    dataset=dict(
        type=JoinedDataset,
        base=_images,
        further=dict(
            questions=dict(dataset=_questions, key="questions"),
            captions=dict(dataset=_captions, key="questions"),
        ),
        pipeline=[
            _load,
            _resize,
            dict(type=AskSentences, num_prompts=8, task="written_boxes", no_target=False),
            dict(type=WriteAnswers, codec=_codec),
            dict(type=AskQuestions, num_prompts=12),
            dict(type=WordShortQuestions),
            dict(_caption, key="captions"),
            _pack,
        ],
    ),
)
train_cfg = dict(max_iters=250, val_interval=None)
