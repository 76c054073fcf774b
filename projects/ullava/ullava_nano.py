"""The packaged nano in u-LLaVA's place, on shapes: data, heads from scratch, optimizer. All sizes and rates are OURS.

There is no trained SAM for images of 160 pixels: its mask decoder starts from scratch on a dense map of the tower at
stride 8.
"""

from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR
from ullava_metrics import FusedBoxAccuracy, TagAccuracy
from ullava_salient import SalientDataset
from ullava_samples import AskNames, AskReferring, AskSalient, UniteMasks

from lumen.data.coco import CocoDataset
from lumen.data.refer import ReferDataset
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.engine.hooks import EmaHook
from lumen.engine.muon import MuonAdamW
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.sam_prompted import SamPrompted
from lumen.metrics.refer import GroundingMetric, ReferringMaskMetric

_sam = dict(
    type=SamPrompted,
    encoder="shared",
    sizes=dict(num_attention_heads=4, mlp_dim=256, iou_head_hidden_dim=32),
)
_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput)
_flip = dict(type=ResizeToInput, flip_probability=0.5)
_ask = dict(type=AskQuestions, num_prompts=8, exchange_sides=True)
_pack = dict(type=PackSample)
_referring = dict(type=ReferDataset, layout="shapes", data_root="data/shapes", with_masks=True)
_salient = dict(type=SalientDataset, data_root="data")
_names = dict(type=CocoDataset, data_root="data/shapes", with_masks=True, filter_empty=True)
_texts = dict(type=QuestionsDataset, data_root="data/shapes")

_referring_train = dict(
    _referring,
    ann_file="annotations/refs_train.json",
    instances_file="annotations/instances_train.json",
    data_prefix=dict(img="train"),
    pipeline=[_load, _flip, dict(type=AskReferring, pool="referring_short", exchange_sides=True), _pack],
)
_salient_train = dict(
    _salient,
    ann_file="salient/salient_train.json",
    data_prefix=dict(img="shapes", mask="salient"),
    pipeline=[_load, _flip, dict(type=AskSalient, pool="salient_short"), _pack],
)
_questions_train = dict(
    _texts,
    ann_file="annotations/questions_train.json",
    data_prefix=dict(img="train"),
    pipeline=[_load, _flip, _ask, _pack],
)
_captions_train = dict(
    _texts,
    layout="captions",
    ann_file="annotations/captions_train.json",
    data_prefix=dict(img="train"),
    pipeline=[_load, _flip, dict(_ask, num_prompts=1, task="caption", answer="random"), _pack],
)

_referring_test = dict(
    _referring,
    ann_file="annotations/refs_test.json",
    instances_file="annotations/instances_test.json",
    data_prefix=dict(img="test"),
    test_mode=True,
    pipeline=[_load, _resize, dict(type=AskReferring, num_prompts=None, pool="referring_short", shuffle=False), _pack],
)
_salient_test = dict(
    _salient,
    ann_file="salient/salient_test.json",
    data_prefix=dict(img="shapes", mask="salient"),
    test_mode=True,
    pipeline=[_load, _resize, dict(type=AskSalient, pool="salient_short", shuffle=False), _pack],
)
_names_test = dict(
    _names,
    ann_file="annotations/instances_test.json",
    data_prefix=dict(img="test"),
    test_mode=True,
    pipeline=[
        _load,
        dict(type=UniteMasks),
        _resize,
        dict(type=AskNames, num_prompts=8, pool="referring_short", shuffle=False),
        _pack,
    ],
)
_loader = dict(batch_size=16, num_workers=0, collate_fn=dict(type=pseudo_collate))
_test_loader = dict(_loader, sampler=dict(type=DefaultSampler, shuffle=False))
_evaluator = [
    dict(type=ReferringMaskMetric, prefix="ullava"),
    dict(type=FusedBoxAccuracy),
    dict(type=TagAccuracy),
]
_box_evaluator = [*_evaluator, dict(type=GroundingMetric, prefix="ullava_fused")]

optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=MuonAdamW, lr=3e-3, muon_lr=0.02, betas=(0.9, 0.98), weight_decay=0.0),
    constructor=GroupedConstructor,
    paramwise_cfg=dict(muon=True, lr_mult={"lmm.*": 0.33}),  # the LMM goes on from what it knows
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=100, decay=dict(type=CosineAnnealingLR, eta_min=3e-5))
_average = dict(type=EmaHook, decay=0.998)
