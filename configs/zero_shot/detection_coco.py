"""An LMM as it is on COCO val2017: it is asked for all 80 names in its own words, and writes the boxes itself.

Nothing is trained: this AP is what a decoder on the same LMM has to beat. Names that the dialect takes at once are one
question, so that an image is a few generations, not 80; scores are token probabilities, which are no calibrated
ranking. Images are letterboxed to a square of ``model.max_pixels`` at most; give ``_resize.mode=stretch`` for PaliGemma
and InternVL, whose own processors do not keep the ratio. Not measured.

    data/coco/annotations/instances_val2017.json, data/coco/val2017/
    python tools/test.py configs/zero_shot/detection_coco.py --cfg-options _lmm.name_or_path=Qwen/Qwen3-VL-4B-Instruct
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, pseudo_collate

from lumen.aligners.none import NoAligner
from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.decoders.text_box import TextBoxDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.metrics.coco.metric import CocoMetric
from lumen.model import Lumen

with read_base():
    from .._base_.runtime import *

_lmm = dict(
    type=HFAdapter,
    name_or_path="Qwen/Qwen3-VL-4B-Instruct",
    base=dict(dtype="bfloat16", new_tokens="learn"),
    generation=dict(max_new_tokens=2048),
)
_resize = dict(type=ResizeToInput)
_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)

model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=dict(type=NoAligner),
    decoders=[dict(type=TextBoxDecoder)],
    max_pixels=1024 * 1024,
)
test_dataloader = dict(
    batch_size=4,
    num_workers=2,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root="data/coco",
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017"),
        test_mode=True,
        pipeline=[dict(type=LoadImage), _resize, _ask, dict(type=PackSample)],
    ),
)
test_evaluator = dict(type=CocoMetric, classwise=True)
test_cfg = dict(dtype="bfloat16")
val_cfg = None
optim_wrapper = None
