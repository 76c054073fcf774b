"""u-LLaVA, stage 1: the connector learns from captions. Not measured; see ``ullava_7b`` for what is P and what is OURS.

P: rate 2e-3, 48 for each of 8 GPUs, one epoch, plain CLIP frame of 224 pixels.

    torchrun --nproc-per-node 8 tools/train.py projects/ullava/ullava_s1_7b.py --launcher pytorch
"""

from mmengine.config import read_base

from lumen.data.mixture import MixedDataset
from lumen.decoders.text import ChatDecoder
from lumen.engine.hooks import FreezeHook

with read_base():
    from ...configs._base_.runtime import *
    from .ullava_7b import *
    from .ullava_common import *

_lmm.update(template=_template, tasks=_tasks, readout=_readout)
model = dict(_model, aligner=dict(_slots, slots=[]), decoders=[dict(type=ChatDecoder)])
optim_wrapper["optimizer"]["lr"] = 2e-3  # P
train_dataloader = dict(_loader, batch_size=48, dataset=dict(type=MixedDataset, datasets=[_captions]))  # P: 48
custom_hooks = [
    dict(type=FreezeHook, freeze=["lmm.base_model.*"], trainable=["lmm.base_model.model.multi_modal_projector.*"])
]
train_cfg = dict(max_iters=1551)
