"""u-LLaVA, stage 2 with low-rank adapters. Not measured; what differs from ``ullava_s2_7b``.

P: r 8, alpha 16, dropout .05 on q and v; rate 2e-4, 32 for each of 8 GPUs; the connector is frozen. P: tables and head
are trained as a whole. OURS: the rows of the new tokens alone, beside tables that are frozen. Targets, P: RefCOCOg test
74.65 cIoU and 76.56 P@0.5.

    torchrun --nproc-per-node 8 tools/train.py projects/ullava/ullava_s2_lora_7b.py --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .ullava_s2_7b import *

_lmm["base"].update(
    lora=dict(r=8, alpha=16, dropout=0.05, targets=["q_proj", "v_proj"]),
    new_tokens="learn",
)
optim_wrapper["optimizer"]["lr"] = 2e-4  # P
train_dataloader["batch_size"] = 32  # P
custom_hooks[0]["freeze"] = ["lmm.base_model.model.vision_tower.*", "lmm.base_model.model.multi_modal_projector.*"]
train_cfg = dict(max_iters=8350)
