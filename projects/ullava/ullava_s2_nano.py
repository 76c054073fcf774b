"""u-LLaVA's second stage on nano: LLM, tables, connector, projectors, box MLP and mask decoder learn together.

P: the tower is frozen, at most three expressions an image. OURS: 1,500 steps of 8; half of the samples are referring
sentences, a quarter salient objects, a quarter questions. The README has
figures.

    python tools/train.py projects/ullava/ullava_s1_nano.py
    python projects/ullava/ullava_salient.py data/shapes data/salient
    python tools/train.py projects/ullava/ullava_s2_nano.py
    python tools/test.py projects/ullava/ullava_s2_nano.py work_dirs/ullava_s2_nano
"""

from mmengine.config import read_base

from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.decoders.text import VqaDecoder
from lumen.engine.hooks import FreezeHook

with read_base():
    from ...configs._base_.nano import _lmm, _model
    from ...configs._base_.runtime import *
    from .ullava_common import *
    from .ullava_nano import *

_lmm.update(name_or_path="nano", template=_template, tasks=_tasks, readout=_readout, generation=dict(max_new_tokens=48))
model = dict(
    _model,
    input_hw=(160, 160),
    aligner=dict(_slots, channels=96, fine_levels=1),
    decoders=[dict(_ullava, sam=_sam), dict(type=VqaDecoder)],
    loss_weights=_loss_weights,
)
load_from = dict(checkpoint="work_dirs/ullava_s1_nano/iter_400.pth", fresh=["aligner.*", "decoders.*"])
train_dataloader = dict(
    _loader,
    batch_size=8,
    sampler=dict(type=MixtureSampler),
    dataset=dict(
        type=MixedDataset,
        datasets=[_referring_train, _salient_train, _questions_train],
        weights=[0.5, 0.25, 0.25],
    ),
)
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.base_model.model.vision_tower.*"]), _average]
train_cfg = dict(max_iters=1500)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = dict(_test_loader, dataset=_referring_test)
test_evaluator = _box_evaluator
test_cfg = dict(dtype="bfloat16")
