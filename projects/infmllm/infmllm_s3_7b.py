"""InfMLLM-7B, stage 3, instruction tuning at 448 pixels: connector and the whole LLM learn conversations.

The tower is frozen again. Marks as in ``_infmllm_7b.py``. Not measured.

    data/llava/llava_v1_5_mix665k.json, its images below data/llava/images/ as LLaVA's README lays them out
    torchrun --nproc-per-node 8 tools/train.py projects/infmllm/infmllm_s3_7b.py --launcher pytorch
"""

from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler

from lumen.data.text import AskQuestions, LoadImageOrBlank, QuestionsDataset
from lumen.engine.fsdp import FSDP2
from lumen.engine.hooks import FreezeHook

with read_base():
    from ._infmllm_7b import *

load_from = "work_dirs/infmllm_s2_7b/iter_10000.pth"
model = dict(_model, input_hw=(448, 448))  # P for the first release; INFERRED for the weights of the chat model
model_wrapper_cfg = dict(type=FSDP2, param_dtype="bfloat16")  # OURS: the optimizer of the LLM fills one GPU
custom_hooks = [dict(type=FreezeHook, freeze=[_tower])]  # P
optim_wrapper["optimizer"]["lr"] = 2e-5  # OURS, that of LLaVA-1.5
_resize["mode"] = "letterbox"  # P: the chat model pads to a square

train_dataloader = dict(
    _loader,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=QuestionsDataset,
        layout="conversations",
        data_root="data/llava",
        ann_file="llava_v1_5_mix665k.json",  # INFERRED: a mixture like LLaVA-1.5's, of 665,000 conversations
        data_prefix=dict(img="images"),
        pipeline=[
            dict(type=LoadImageOrBlank),
            _resize,
            dict(type=AskQuestions, num_prompts=None, shuffle=False, task="chat"),
            _pack,
        ],
    ),
)
train_cfg = dict(max_iters=5200, val_interval=None)  # OURS: two epochs on 8 GPUs, 256 samples a step
