"""InfMLLM-7B, stage 1, pre-training: the connector alone learns captions at 224 pixels. Marks as in ``_infmllm_7b.py``.

Not measured.

    data/captions/captions.json (COCO's layout of captions), data/captions/images/
    python tools/plan.py projects/infmllm/infmllm_s1_7b.py --model-config projects/infmllm/vicuna7b_eva_g.json
    torchrun --nproc-per-node 8 tools/train.py projects/infmllm/infmllm_s1_7b.py --launcher pytorch
"""

from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler

from lumen.data.text import QuestionsDataset
from lumen.engine.hooks import FreezeHook

with read_base():
    from ._infmllm_7b import *

model = dict(_model, input_hw=(224, 224))  # INFERRED: 16 x 16 cells, so that the pool changes nothing
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.*"], trainable=[_connector])]  # P
train_dataloader = dict(
    _loader,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    # P: pairs of image and text from the web; INFERRED from the successor's report: CC3M, CC12M, LAION-115M.
    dataset=dict(
        type=QuestionsDataset,
        layout="captions",
        data_root="data/captions",
        ann_file="captions.json",
        data_prefix=dict(img="images"),
        pipeline=[_load, _resize, _caption, _pack],
    ),
)
train_cfg = dict(max_iters=10000, val_interval=None)  # OURS; the rate of 1e-3 too
