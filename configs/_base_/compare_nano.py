"""What all cells of the comparison of readouts and connectors share: start, data, schedule. See docs/comparison.md.

The start is the seeing nano with its tower frozen, after it has learned to read images through the connector of the
cell (``start_linear``, ``start_pool``, ``start_query``). LLM, connector and readout are trained. A sentence is asked in
the words "where is ...?", which the seeing nano knows, whatever its answer is.

A readout is a file beside this one, a cell adds a connector and its start:

    _lmm["base"]["connector"] = _pool
    load_from["checkpoint"] = _start.format("pool")
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR

from lumen.corner_words import CornerWords
from lumen.data.cells import KeepObjects
from lumen.data.refer import AskSentences, ReferDataset
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.data.written import WriteAnswers
from lumen.engine.hooks import EmaHook, FreezeHook
from lumen.engine.muon import MuonAdamW
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.metrics.refer_answers import AnswersMetric
from lumen.model import Lumen

with read_base():
    from .compare_connectors import *
    from .runtime import *

_bins = 40  # of boxes in words, as in the seeing nano
_lmm = dict(
    type=HFAdapter,
    name_or_path="nano",
    template=dict(name="where_is", before="where is", after="?", answer="[LOC]"),
    base=dict(attention="plain", connector=_linear),
    readout=dict(box_bins=_bins),
    generation=dict(dialect="corner_words", max_new_tokens=8),
    packing=dict(max_suffix_tokens=320),  # plain attention forms the square of a row
)
_model = dict(type=Lumen, lmm=_lmm, input_hw=(160, 160))

_load = dict(type=LoadImage, cache_mb=600)
_flip = dict(type=ResizeToInput, flip_probability=0.5)
_resize = dict(type=ResizeToInput)
_ask = dict(type=AskSentences, num_prompts=8, no_target=False, max_targets=1, exchange_sides=True)
_ask_all = dict(type=AskSentences, num_prompts=None, no_target=False, max_targets=1, shuffle=False)
_write = dict(type=WriteAnswers, codec=dict(type=CornerWords, bins=_bins), task="written_boxes")  # where it is text
_keep = dict(type=KeepObjects)  # for the readout that chooses among them
_pack = dict(type=PackSample)
_sentences = dict(type=ReferDataset, layout="shapes", split="groups", data_root="data/shapes")
_train = dict(
    _sentences,
    ann_file="annotations/refs_train.json",
    instances_file="annotations/instances_train.json",
    data_prefix=dict(img="train"),
    pipeline=[_load, _flip, _ask, _write, _keep, _pack],
)
_test = dict(
    _sentences,
    ann_file="annotations/refs_test.json",
    instances_file="annotations/instances_test.json",
    data_prefix=dict(img="test"),
    test_mode=True,
    pipeline=[dict(type=LoadImage), _resize, _ask_all, _keep, _pack],
)
_answers = dict(type=AnswersMetric, cell=16)  # the stride of the image tokens

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=_train,
)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=_test,
)
test_evaluator = _answers
test_cfg = dict(dtype="bfloat16")

_projector = "lmm.base_model.model.multi_modal_projector.*"
optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=MuonAdamW, lr=3e-3, muon_lr=0.02, betas=(0.9, 0.98), weight_decay=0.05),
    constructor=GroupedConstructor,
    # What is trained already steps at a third of the rate of what starts from scratch.
    paramwise_cfg=dict(muon=True, lr_mult={"lmm.*": 0.33, _projector: 1.0}),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=100, decay=dict(type=CosineAnnealingLR, eta_min_ratio=0.01))
custom_hooks = [
    dict(type=FreezeHook, freeze=["lmm.base_model.model.vision_tower.*"]),
    dict(type=EmaHook, decay=0.998),
]
_start = "work_dirs/start_{}/iter_800.pth"
# The first stage has heads that it does not train; readouts start from scratch.
load_from = dict(checkpoint=_start.format("linear"), fresh=["heads.*", "word_reader.*", "aligner.*", "decoders.*"])
train_cfg = dict(max_iters=300)  # tools/compare.py sets it, and the start, by the clock
