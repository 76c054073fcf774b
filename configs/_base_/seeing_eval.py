"""What the evaluations of the seeing nano share: the model as it is, and images of shapes that it did not learn from.

The model is the one of the package; another one, as ``tools/pretrain_nano.py`` writes it:

    ... --cfg-options _lmm.name_or_path=work_dirs/nano_seed1/model
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, pseudo_collate

from lumen.aligners.none import NoAligner
from lumen.data.transforms import BlackenImage, LoadImage, PackSample, ResizeToInput
from lumen.decoders.text import CaptionDecoder, VqaDecoder
from lumen.decoders.text_box import TextBoxDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen

with read_base():
    from .runtime import *

_lmm = dict(
    type=HFAdapter,
    name_or_path="nano",
    base=dict(attention="plain"),
    generation=dict(max_new_tokens=8),
)
model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=dict(type=NoAligner),
    decoders=[dict(type=VqaDecoder), dict(type=CaptionDecoder), dict(type=TextBoxDecoder)],
    input_hw=(160, 160),
)
_files = dict(data_root="data/shapes", data_prefix=dict(img="test"), test_mode=True)
_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput)
_blacken = dict(type=BlackenImage, share=0.0)
_pack = dict(type=PackSample)
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
test_cfg = dict(dtype="bfloat16")
optim_wrapper = None
