"""InfMLLM in small, stage 3, at 320 pixels: connector and the whole LLM learn conversations; the tower is frozen again.

Shapes have single questions only: four of one image make a conversation. The README has figures.

    python tools/train.py projects/infmllm/infmllm_s3_nano.py
"""

from infmllm_questions import ChainQuestions
from mmengine.config import read_base

from lumen.engine.hooks import FreezeHook

with read_base():
    from ._infmllm_nano import *

load_from = "work_dirs/infmllm_s2_nano/iter_500.pth"
model = dict(_model, input_hw=(320, 320))
custom_hooks = [dict(type=FreezeHook, freeze=[_tower])]
optim_wrapper["optimizer"]["lr"] = 5e-4
train_dataloader = dict(
    _loader,
    dataset=dict(
        _questions,
        pipeline=[
            _load,
            _resize,
            dict(type=ChainQuestions, max_turns=4),
            dict(type=AskQuestions, num_prompts=None, shuffle=False, task="chat"),
            _pack,
        ],
    ),
)
train_cfg = dict(max_iters=300, val_interval=None)
