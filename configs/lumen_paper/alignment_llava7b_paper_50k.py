"""The paper's stage 1, phase 1: heatmaps of objects, sentences and keypoints, no conversations. Then phase 2.

SURE: 50,000 steps of 160 samples; detection .69, grounding .23, pose .08; 8 A100 of 80 GB. The paper gives no hours;
``tools/plan.py`` estimates them. Not measured here. What is SURE, INFERRED, UNKNOWN: ``_base_/lumen_paper.py`` and
``_base_/lumen_paper_data.py``.

    python tools/plan.py configs/lumen_paper/alignment_llava7b_paper_50k.py --gpu a100 --gpus 8
    torchrun --nproc-per-node 8 tools/train.py configs/lumen_paper/alignment_llava7b_paper_50k.py --launcher pytorch
"""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.model import Lumen

with read_base():
    from .._base_.lumen_paper import *
    from .._base_.lumen_paper_data import *
    from .._base_.runtime import *

# The decoders name the tasks and are frozen: their losses have weight 0, and they provide no map query. [H] and [W]
# come in stage 2.
model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=_aligner,
    decoders=[
        dict(type=DetectionDecoder),
        dict(type=GroundingDecoder),
        dict(type=PoseDecoder, offset_head=False),
    ],
    loss_weights=dict(_loss_weights, **{"detection/loss_box": 0.0, "grounding/loss_box": 0.0}),
)
custom_hooks = _freeze_alignment
train_cfg = dict(max_iters=50000)  # SURE
default_hooks["checkpoint"].update(interval=2500)
val_dataloader = None  # nothing to judge before stage 2
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
