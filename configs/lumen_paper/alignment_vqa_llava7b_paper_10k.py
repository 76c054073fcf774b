"""The paper's stage 1, phase 2: conversations are added, so that the LMM keeps its language ability.

SURE: 10,000 steps of 160 samples; VQA .67, detection .23, grounding .07, pose .03; again from 3e-4. On VQA samples the
heatmap has no loss. Not measured here; the paper: 64.9 on MMBench-EN dev, after both phases.

    torchrun --nproc-per-node 8 tools/train.py configs/lumen_paper/alignment_vqa_llava7b_paper_10k.py \
        --launcher pytorch
"""

from mmengine.config import read_base

from lumen.decoders.text import ChatDecoder

with read_base():
    from .alignment_llava7b_paper_50k import *

load_from = dict(checkpoint="work_dirs/alignment_llava7b_paper_50k/iter_50000.pth", fresh=["decoders.*"])
model["decoders"].append(dict(type=ChatDecoder))
model["loss_weights"]["lmm/loss_text"] = 1.0  # SURE
# The shares of the four groups are SURE; within each they are ours.
train_dataloader["dataset"].update(
    datasets=[*_located, _vqa],
    weights=[0.23 / 3, 0.23 / 3, 0.23 / 3, 0.07 / 3, 0.07 / 3, 0.07 / 3, 0.03 / 2, 0.03 / 2, 0.67],
)
train_cfg = dict(max_iters=10000)  # SURE
