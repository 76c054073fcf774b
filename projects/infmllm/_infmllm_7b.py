"""What the stages of InfMLLM at full size share. No training code of InfMLLM was ever published.

Marks: P, the paper or its public code; INFERRED, it follows from them; OURS, our choice, since nothing states it.

Departs (OURS): answers are greedy, where the paper searches with 5 beams; each question stands in Vicuna's
conversation, where the paper's second stage has no roles.
"""

from mmengine.config import read_base

from lumen.lmm.connectors import PoolConnector

with read_base():
    from ._infmllm_common import *

# P: x1, y1, x2, y2 as shares of the squashed image. OURS: three decimals; the number of digits is not stated.
_codec = dict(style="decimals", digits=3)
_dialect["codec"] = _codec
_lmm.update(
    name_or_path="data/vicuna7b_eva_g",  # P: Vicuna-7B v1.5 and EVA-CLIP-g/14; README.md makes the folder
    base=dict(
        dtype="bfloat16",  # OURS; what is trained is kept in float32
        gradient_checkpointing=True,  # OURS
        # P: 16 x 16 means of the tower's cells, behind its final normalisation, then linear, GELU, linear: 256 tokens
        # at 224 and at 448 pixels, and no new words.
        connector=dict(type=PoolConnector, out_hw=(16, 16), levels=(-1,)),
    ),
)

_optimizer.update(betas=(0.9, 0.95), weight_decay=0.0)
optim_wrapper.update(
    clip_grad=dict(max_norm=1.0),
    accumulative_counts=4,  # 32 a process. A secondary source: 1,024 in all on 32 GPUs; of which stage is not stated
)
param_scheduler["warm_up"] = 500
_loader.update(batch_size=8, num_workers=8, persistent_workers=True)
_test_loader.update(batch_size=8, num_workers=4)
