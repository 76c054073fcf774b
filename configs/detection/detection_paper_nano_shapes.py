"""The paper's aligner and box head alone, on nano and shapes: coarse grid (stride 16), [H] and [W] read at the peaks.

Map queries join the tokens, as in the paper; no finer strides, no presence in the score. What departs from the
paper is the LMM: nano, trained from scratch, with the phrase's state added to [LOC]. The aligner steps by AdamW at
3e-4, as in the paper: under Muon, or ten times the rate, its tokens lose the phrase (docs/decisions.md, 14).

Expected: AP .206, AP50 .621 (seed 0), 466 CPU seconds.

    python tools/train.py configs/detection/detection_paper_nano_shapes.py
"""

from mmengine.config import read_base

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection_paper import PaperDetectionDecoder

with read_base():
    from .._base_.detection_coco import *
    from .._base_.nano import _model
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

model = dict(
    _model,
    input_hw=(160, 160),
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
train_cfg = dict(max_iters=2700)
