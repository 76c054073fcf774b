"""InfMLLM in small, stage 3, at 320 pixels: connector and the whole LLM learn conversations; the tower is frozen again.

Shapes have single questions only: four of one image make a conversation. Short answers and boxes go on, as in the
665,000 conversations of LLaVA-1.5 (INFERRED to be the paper's). The README has figures.

    python tools/train.py projects/infmllm/infmllm_s3_nano.py
"""

from infmllm_questions import ChainQuestions, WordShortQuestions
from mmengine.config import read_base

from lumen.data.mixture import JoinedDataset
from lumen.data.refer import AskSentences
from lumen.data.written import WriteAnswers
from lumen.engine.hooks import FreezeHook

with read_base():
    from ._infmllm_nano import *

load_from = "work_dirs/infmllm_s2_nano/iter_250.pth"
model = dict(_model, input_hw=(320, 320))
custom_hooks = [dict(type=FreezeHook, freeze=[_tower])]
optim_wrapper["paramwise_cfg"]["lr_mult"] = {"lmm.*": 0.7}
train_dataloader = dict(
    _loader,
    dataset=dict(
        type=JoinedDataset,
        base=_images,
        further=dict(
            questions=dict(dataset=_questions, key="questions"),
            conversation=dict(dataset=_questions, key="questions"),
        ),
        pipeline=[
            _load,
            _resize,
            dict(type=AskSentences, num_prompts=8, task="written_boxes", no_target=False),
            dict(type=WriteAnswers, codec=_codec),
            dict(type=AskQuestions, num_prompts=8),
            dict(type=WordShortQuestions),
            dict(type=ChainQuestions, max_turns=4, key="conversation"),
            dict(type=AskQuestions, num_prompts=None, shuffle=False, task="chat", key="conversation"),
            _pack,
        ],
    ),
)
train_cfg = dict(max_iters=150, val_interval=None)
