"""u-LLaVA, stage 1: the connector learns from captions. Not measured; see ``ullava_7b`` for what is P and what is OURS.

P: rate 2e-3, 48 for each of 8 GPUs, one epoch of 595,375 images (CC3M) and 125,782 clips (TGIF), plain CLIP frame of
224 pixels. OURS: a batch is of one kind; with other numbers of GPUs or samples, ``run`` is their product.

    torchrun --nproc-per-node 8 tools/train.py projects/ullava/ullava_s1_7b.py --launcher pytorch
"""

from mmengine.config import read_base

from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.decoders.text import CaptionDecoder, ChatDecoder
from lumen.engine.hooks import FreezeHook

with read_base():
    from ...configs._base_.runtime import *
    from .ullava_7b import *
    from .ullava_common import *

_lmm.update(template=_template, tasks=_tasks, readout=_readout)
model = dict(_model, aligner=dict(_slots, slots=[]), decoders=[dict(type=ChatDecoder), dict(type=CaptionDecoder)])
optim_wrapper["optimizer"]["lr"] = 2e-3  # P
_batch, _ranks = 48, 8  # P
train_dataloader = dict(
    _loader,
    batch_size=_batch,
    sampler=dict(type=MixtureSampler, run=_batch * _ranks),
    dataset=dict(type=MixedDataset, datasets=[_captions, _clips]),
)
custom_hooks = [
    dict(type=FreezeHook, freeze=["lmm.base_model.*"], trainable=["lmm.base_model.model.multi_modal_projector.*"])
]
train_cfg = dict(max_iters=1879)  # P
