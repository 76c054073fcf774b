"""u-LLaVA's first stage on nano: the connector alone learns, from captions. Then ``ullava_s2_nano.py``.

P: the LLM and the tower are frozen. OURS: 400 steps of 16; nano's images have no tokens around them, whose rows the
paper trains too.

    python tools/make_shapes.py
    python tools/train.py projects/ullava/ullava_s1_nano.py
"""

from mmengine.config import read_base

from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.decoders.text import CaptionDecoder
from lumen.engine.hooks import FreezeHook

with read_base():
    from ...configs._base_.nano import _lmm, _model
    from ...configs._base_.runtime import *
    from .ullava_common import *
    from .ullava_nano import *

_lmm.update(name_or_path="nano", template=_template, tasks=_tasks, readout=_readout)
model = dict(
    _model,
    input_hw=(160, 160),
    aligner=dict(_slots, slots=[], channels=96),
    decoders=[dict(type=CaptionDecoder)],
)
train_dataloader = dict(
    _loader,
    sampler=dict(type=MixtureSampler),
    dataset=dict(type=MixedDataset, datasets=[_captions_train]),
)
custom_hooks = [
    dict(type=FreezeHook, freeze=["lmm.base_model.*"], trainable=["lmm.base_model.model.multi_modal_projector.*"]),
    _average,
]
train_cfg = dict(max_iters=400)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
