"""What the stages of InfMLLM in small share: nano on shapes, on a CPU. All of it OURS but the order of things.

In small what the paper does at 224 and 448 pixels: 160 pixels are 10 x 10 cells, which the pool leaves as they are, 320
are 20 x 20, of which it takes means of 2 x 2. Which part of the model learns in which stage is that of the paper. Tower
and LLM are those of the seeing nano, which ``tools/pretrain_nano.py`` makes; its connector is replaced.
"""

from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from lumen.aligners.none import NoAligner
from lumen.corner_words import CornerWords
from lumen.data.refer import ReferDataset
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.decoders.text import CaptionDecoder, ChatDecoder, VqaDecoder
from lumen.decoders.text_box import TextBoxDecoder
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.connectors import PoolConnector
from lumen.model import Lumen

_codec = dict(type=CornerWords, bins=40)  # each coordinate is one token
_lmm = dict(
    type=HFAdapter,
    name_or_path="work_dirs/nano/model",
    base=dict(attention="plain", connector=dict(type=PoolConnector, out_hw=(10, 10))),
    generation=dict(dialect=dict(question="<ref>{text}</ref>", codec=_codec, framing="stretch"), max_new_tokens=30),
)
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

_files = dict(data_root="data/shapes", data_prefix=dict(img="train"))
_images = dict(
    _files,
    type=ReferDataset,
    ann_file="annotations/refs_train.json",
    layout="shapes",
    instances_file="annotations/instances_train.json",
)
_questions = dict(_files, type=QuestionsDataset, ann_file="annotations/questions_train.json")
_captions = dict(_questions, layout="captions", ann_file="annotations/captions_train.json")

_load = dict(type=LoadImage, cache_mb=600)
_resize = dict(type=ResizeToInput, mode="stretch")
_pack = dict(type=PackSample)
_caption = dict(type=AskQuestions, num_prompts=1, task="caption", answer="random")

_connector = "lmm.base_model.model.multi_modal_projector.*"
_tower = "lmm.base_model.model.vision_tower.*"
_queries_and_values = [f"lmm.base_model.model.language_model.*.{name}_proj.*" for name in ("q", "v")]

optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05),
    constructor=GroupedConstructor,
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=100, decay=dict(type=CosineAnnealingLR, eta_min_ratio=0.1))
_loader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
)
_test_loader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
