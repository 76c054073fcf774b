"""L-Man's first stage at full size. Never run.

P: the stage extracts visual information that is relevant to text. INFERRED: contrast, matching and writing as in
BLIP-2, with tower and LLM frozen. OURS: everything else; ``captions_train.json`` is any COCO captions file of persons.

    torchrun --nproc-per-node 8 tools/train.py projects/lman/lman_s1_7b.py --launcher pytorch
"""

from lman_pretrain import QueryPretrainer
from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler

from lumen.data.text import AskQuestions
from lumen.engine.hooks import FreezeHook

with read_base():
    from ...configs._base_.runtime import *
    from ._lman_7b import *

_inside = "lmm.base_model.model.multi_modal_projector"

model = dict(
    type=QueryPretrainer,
    lmm=_lmm,
    loss_weights=dict(loss_itc=1.0, loss_itm=1.0, loss_itg=1.0),
    input_hw=(336, 336),
    dim=256,
)
train_dataloader = dict(
    _loader,
    batch_size=64,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        _humanins,
        layout="captions",
        ann_file="captions_train.json",
        data_prefix=dict(img="images"),
        pipeline=[_load, _resize, dict(type=AskQuestions, num_prompts=1, task="caption", answer="random"), _pack],
    ),
)
custom_hooks = [
    dict(
        type=FreezeHook,
        freeze=["lmm.*"],
        trainable=[f"{_inside}.{_name}" for _name in ("to_width.*", "level", "queries", "qformer.*")],
    ),
]
train_cfg = dict(max_iters=50000)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
