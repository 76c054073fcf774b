"""What the stages of InfMLLM at full size share. No training code of InfMLLM was ever published.

Marks: P, the paper or its public code; INFERRED, it follows from them; OURS, our choice, since nothing states it.

Departs (OURS): answers are greedy, where the paper searches with 5 beams; each question stands in Vicuna's
conversation, where the paper's second stage has no roles.
"""

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
from lumen.lmm.connectors import PoolConnector
from lumen.model import Lumen

# P: x1, y1, x2, y2 as shares of the squashed image. OURS: three decimals; the number of digits is not stated.
_codec = dict(style="decimals", digits=3)
_lmm = dict(
    type=HFAdapter,
    name_or_path="data/vicuna7b_eva_g",  # P: Vicuna-7B v1.5 and EVA-CLIP-g/14; README.md makes the folder
    base=dict(
        dtype="bfloat16",  # OURS; what is trained is kept in float32
        gradient_checkpointing=True,  # OURS
        # P: 16 x 16 means of the tower's cells, behind its final normalisation, then linear, GELU, linear: 256 tokens
        # at 224 and at 448 pixels, and no new words.
        connector=dict(type=PoolConnector, out_hw=(16, 16), levels=(-1,)),
    ),
    # P: the prompt of grounding, and at most 30 tokens of an answer; captions have as many.
    generation=dict(dialect=dict(question="<ref>{text}</ref>", codec=_codec, framing="stretch"), max_new_tokens=30),
)
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
optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0),
    constructor=GroupedConstructor,
    clip_grad=dict(max_norm=1.0),
    accumulative_counts=4,  # 32 a process. A secondary source: 1,024 in all on 32 GPUs; of which stage is not stated
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=500, decay=dict(type=CosineAnnealingLR, eta_min_ratio=0.1))
_loader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
)
_test_loader = dict(
    batch_size=8,
    num_workers=4,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
