"""What InfMLLM at full size and in small share: every output is text, images are squashed, and what a stage may train.

Marks as in ``_infmllm_7b.py``.
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from lumen.aligners.none import NoAligner
from lumen.data.text import AskQuestions
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.decoders.text import CaptionDecoder, ChatDecoder, VqaDecoder
from lumen.decoders.text_box import TextBoxDecoder
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen

with read_base():
    from ...configs._base_.runtime import *

_dialect = dict(question="<ref>{text}</ref>", framing="stretch")  # P: the prompt of grounding
# P: at most 30 tokens of an answer; captions have as many.
_lmm = dict(type=HFAdapter, generation=dict(dialect=_dialect, max_new_tokens=30))
# P: every output is text. The decoders have no weights; every stage has all of them, so that checkpoints fit.
_model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=dict(type=NoAligner),
    decoders=[
        dict(type=CaptionDecoder),
        dict(type=VqaDecoder),
        dict(type=TextBoxDecoder),
        dict(type=ChatDecoder),
    ],
)

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput, mode="stretch")  # P: squashed to a square, without padding
_pack = dict(type=PackSample)
_caption = dict(type=AskQuestions, num_prompts=1, task="caption", answer="random")

_connector = "lmm.base_model.model.multi_modal_projector.*"
_tower = "lmm.base_model.model.vision_tower.*"
# P: the query and value projections of the LLM, directly and not by LoRA. A bare "*q_proj*" would also free the tower.
_queries_and_values = [f"lmm.base_model.model.language_model.*.{name}_proj.*" for name in ("q", "v")]

# OURS: AdamW and its settings. P: a cosine with a smallest rate is in the code; OURS: that it is a tenth.
_optimizer = dict(type=AdamW, lr=1e-3)
optim_wrapper = dict(type=LumenOptimWrapper, dtype="bfloat16", optimizer=_optimizer, constructor=GroupedConstructor)
param_scheduler = dict(type=WarmUpThenDecay, decay=dict(type=CosineAnnealingLR, eta_min_ratio=0.1))
_loader = dict(collate_fn=dict(type=pseudo_collate))
_test_loader = dict(_loader, sampler=dict(type=DefaultSampler, shuffle=False))
