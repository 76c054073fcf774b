"""The paper's aligner and box head alone, on nano and shapes: coarse grid (stride 16), [H] and [W] read at the peaks.

Map queries join the tokens, as in the paper; no finer strides, no presence in the score. What departs from the
paper is the LMM: nano, trained from nothing, with the phrase's state added to [LOC]. The aligner steps by AdamW at
3e-4, as in the paper: under Muon, or ten times the rate, its tokens forget the phrase (docs/decisions.md, 14).

Expected: AP .206, AP50 .621 (seed 0), clock 233.

    python tools/train.py configs/detection/detection_paper_nano_shapes.py
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection_paper import PaperDetectionDecoder
from lumen.model import Lumen

with read_base():
    from .._base_.detection_coco import *
    from .._base_.nano import _lmm
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_num_iters = 2700

model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=dict(
        type=DenseAligner,
        channels=96,
        num_heads=4,
        mlp_channels=256,
        fine_levels=0,
        leak_map_queries=True,
        heat=dict(target="centernet"),
    ),
    decoders=[dict(type=PaperDetectionDecoder)],
    loss_weights={
        "lmm/loss_phrase_reconstruction": 0.5,
        "aligner/loss_presence": 0.0,
        "detection/loss_size": 0.2,
    },
)
optim_wrapper["paramwise_cfg"]["adamw"] = ["aligner.*"]
optim_wrapper["paramwise_cfg"]["lr_mult"] = {"aligner.*": 0.1}
train_cfg = dict(max_iters=_num_iters, val_interval=_num_iters)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=200, end=_num_iters, T_max=_num_iters - 200, eta_min=3e-5),
]
