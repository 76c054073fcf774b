"""Fine-tuning of a pretrained LMM of any known family on your own data in COCO's format.

What the LMM knows is kept: its tower, connector and LLM are frozen, low-rank adapters beside the LLM and rows of new
tokens learn, and so do aligner and decoders, from scratch. What is trained is float32, with its optimizer states and
its average, beside a base in bfloat16. Layers that nothing reads are frozen with the rest, so that several ranks need
no ``find_unused_parameters``. Steps, rates and augmentation are a guess; nothing that uses this file was measured.

A leaf gives the decoder and the metric. The size of the images comes from the LMM; one that takes several sizes gets
squares of ``model.max_pixels`` at most. A pipeline is ``[_load, _resize, _colour, _ask, _pack]``, that of evaluation
``[_load, _val_resize, _val_ask, _pack]``; a leaf changes a step by its name.

    data/mine/{train.json,val.json}, data/mine/images/
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from lumen.aligners.dense import DenseAligner
from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, Photometric, ResizeToInput
from lumen.engine.hooks import EmaHook, FreezeHook
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen

with read_base():
    from lumen.recipes.runtime import *

_lmm = dict(
    type=HFAdapter,
    name_or_path="HuggingFaceTB/SmolVLM-Instruct",
    template="compact",
    base=dict(
        dtype="bfloat16",
        new_tokens="learn",
        lora=dict(r=16, alpha=32, dropout=0.05, targets=["q_proj", "v_proj"]),
        gradient_checkpointing=True,
    ),
)
_aligner = dict(
    type=DenseAligner,
    channels=256,
    num_heads=8,
    mlp_channels=1024,
    heat=dict(target="ttfnet"),
)
model = dict(type=Lumen, lmm=_lmm, aligner=_aligner, loss_weights={"aligner/loss_presence": 0.5})

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput, flip_probability=0.5, scale_range=(0.5, 1.6))
_colour = dict(type=Photometric)
# Beside the classes, names of things that no image of data/mine shows: without them a few classes answer to every name,
# and four were too few for one class (docs/results.md).
# Where an image may show some, give a list of your own, or None.
_ask = dict(type=AskClasses, num_prompts=8, negatives="everyday", num_negatives=8)
_pack = dict(type=PackSample)
_val_resize = dict(type=ResizeToInput)
_val_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)

_train = dict(
    type=CocoDataset,
    data_root="data/mine",
    ann_file="train.json",
    data_prefix=dict(img="images"),
    pipeline=[_load, _resize, _colour, _ask, _pack],
)
_val = dict(
    type=CocoDataset,
    data_root="data/mine",
    ann_file="val.json",
    data_prefix=dict(img="images"),
    test_mode=True,
    pipeline=[_load, _val_resize, _val_ask, _pack],
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=_train,
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=_val,
)
test_dataloader = val_dataloader

# The LMM learns at a fifth of the rate of what starts from scratch.
optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, lr=5e-4, betas=(0.9, 0.98), weight_decay=0.05),
    constructor=GroupedConstructor,
    paramwise_cfg=dict(lr_mult={"lmm.*": 0.2}),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=200, decay=dict(type=CosineAnnealingLR, eta_min=5e-6))
_freeze = dict(type=FreezeHook, freeze=["lmm.base_model.*"], trainable=["*.lora_*"])
custom_hooks = [_freeze, dict(type=EmaHook, decay=0.999)]
train_cfg = dict(max_iters=5000, val_interval=1000)
val_cfg = dict(dtype="bfloat16")
test_cfg = dict(dtype="bfloat16")
