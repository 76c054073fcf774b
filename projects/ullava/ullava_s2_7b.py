"""u-LLaVA, stage 2: LLM, tables, connector, projectors, box MLP and SAM's mask decoder. Not measured.

P: rate 2e-5, 16 for each of 8 GPUs, 5 epochs, the sets below. Targets, P: RefCOCOg test 77.97 cIoU and 87.25 P@0.5,
DUT-OMRON 74.19 cIoU.
UNKNOWN: how many samples an epoch has and how the sets are mixed. OURS: by their images; 16,700 steps: five epochs
of 427,000 images by 128, with sets that have no reader here; the 377,264 of the sets below would be 14,740.

    torchrun --nproc-per-node 8 tools/train.py projects/ullava/ullava_s2_7b.py --launcher pytorch
"""

from mmengine.config import read_base

from lumen.data.mixture import MixedDataset
from lumen.decoders.text import ChatDecoder
from lumen.engine.hooks import FreezeHook

with read_base():
    from ...configs._base_.classes_ade20k import _ade20k
    from ...configs._base_.classes_cocostuff import _cocostuff
    from ...configs._base_.runtime import *
    from .ullava_7b import *
    from .ullava_common import *

_lmm.update(template=_template, tasks=_tasks, readout=dict(_readout, dense_hw=(1008, 1008)))
model = dict(
    _model,
    aligner=_slots,
    decoders=[dict(_ullava, sam=_sam, raw_xyxy=True), dict(type=ChatDecoder)],
    loss_weights=_loss_weights,
)
load_from = dict(checkpoint="work_dirs/ullava_s1_7b/iter_1551.pth", fresh=["aligner.*", "decoders.*"])
optim_wrapper["optimizer"]["lr"] = 2e-5  # P

_ade = dict(
    _maps,
    data_root="data/ADEChallengeData2016",
    classes=_ade20k,
    reduce_zero_label=True,
    data_prefix=dict(img="images/training", seg="annotations/training"),
)
_stuff = dict(
    _maps,
    data_root="data/coco_stuff164k",
    classes=_cocostuff,
    seg_suffix="_labelTrainIds.png",
    data_prefix=dict(img="images/train2017", seg="annotations/train2017"),
)
# P, images of each set: table 3 of the paper; questions are the 150,000 of the public code's config.
train_dataloader = dict(
    _loader,
    batch_size=16,
    dataset=dict(
        type=MixedDataset,
        datasets=[_refcoco, _refcocoplus, _refcocog, _refclef, _stuff, _ade, _salient, _instruct],
        weights=[16994, 16992, 21899, 17978, 118205, 20196, 15000, 150000],
    ),
)
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.base_model.model.vision_tower.*"])]
train_cfg = dict(max_iters=16700)
