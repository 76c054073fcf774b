"""u-LLaVA's data and answers with Lumen's readout: a heatmap at [LOC], and a frozen SAM prompted by its peak and box.

The comparison that neither paper has: what the slot vector loses, or gains, against a heatmap. All of it OURS; not
measured. Sentences alone: one task, ``referring_segmentation``.

    torchrun --nproc-per-node 8 tools/train.py projects/ullava/ullava_heat_7b.py --launcher pytorch
"""

from mmengine.config import read_base

from lumen.aligners.dense import DenseAligner
from lumen.data.mixture import MixedDataset
from lumen.data.refer import AskSentences
from lumen.decoders.sam_segmentation import SamReferringDecoder
from lumen.decoders.text import ChatDecoder
from lumen.engine.hooks import FreezeHook
from lumen.lmm.sam import SamMasks

with read_base():
    from ...configs._base_.runtime import *
    from .ullava_7b import *

_lmm.update(template="paper", readout=dict(dense_hw=(1008, 1008)))
model = dict(
    _model,
    aligner=dict(type=DenseAligner, channels=256),
    decoders=[
        dict(type=SamReferringDecoder, sam=dict(type=SamMasks, name_or_path="facebook/sam-vit-huge")),
        dict(type=ChatDecoder),
    ],
)
load_from = dict(checkpoint="work_dirs/ullava_s1_7b/iter_1551.pth", fresh=["aligner.*", "decoders.*"])
optim_wrapper["optimizer"]["lr"] = 2e-5
_ask = dict(type=AskSentences, num_prompts=3, task="referring_segmentation", no_target=False)
for _set in (_refcoco, _refcocoplus, _refcocog, _refclef):
    _set["pipeline"] = [_load, _resize, _ask, _pack]
train_dataloader = dict(
    _loader,
    batch_size=16,
    dataset=dict(
        type=MixedDataset,
        datasets=[_refcoco, _refcocoplus, _refcocog, _refclef, _instruct],
        weights=[16994, 16992, 21899, 17978, 150000],
    ),
)
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.base_model.model.vision_tower.*"])]
train_cfg = dict(max_iters=16700)
