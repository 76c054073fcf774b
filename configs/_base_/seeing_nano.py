"""What the stages of the seeing nano share: the model, the images of shapes with all their objects, the schedule.

The stages, in order: ``tower``, ``connector``, ``llm``, ``joint``. ``python tools/pretrain_nano.py`` runs them.
"""

from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR

from lumen.data.attributes import AttributesDataset
from lumen.data.cells import KeepObjects, LabelCells
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.engine.muon import MuonAdamW
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.pretraining import LmmPretrainer

with read_base():
    from .runtime import *

_bins = 40  # of boxes in words: four pixels each
_colours = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
_textures = ["plain", "striped", "dotted"]
_lmm = dict(
    type=HFAdapter,
    name_or_path="data/nano_blank",
    base=dict(attention="plain"),
    readout=dict(box_bins=_bins),
    generation=dict(dialect="corner_words"),
    packing=dict(max_suffix_tokens=320),  # attention forms the square of a row
)
_model = dict(
    type=LmmPretrainer,
    lmm=_lmm,
    heads=dict(
        values=dict(labels=8, colour=8, texture=3, size=3),
        cells=["labels", "colour", "texture"],
    ),
    words=dict(
        labels=[
            ["circle", "circles"],
            ["square", "squares"],
            ["triangle", "triangles"],
            ["star", "stars"],
            ["cross", "crosses"],
            ["ring", "rings"],
            ["heart", "hearts"],
            ["arrow", "arrows"],
        ],
        colour=[[colour] for colour in _colours],
        texture=[[texture] for texture in _textures],
    ),
    input_hw=(160, 160),
)
_files = dict(data_root="data/shapes", data_prefix=dict(img="train"))
_images = dict(
    _files,
    type=AttributesDataset,
    ann_file="annotations/instances_train.json",
    attributes=dict(colour=_colours, texture=_textures, size=["small", "medium", "large"]),
    with_masks=True,
)
_load = dict(type=LoadImage, cache_mb=600)
_resize = dict(type=ResizeToInput, flip_probability=0.5)
_keep = dict(type=KeepObjects)
_cells = dict(type=LabelCells, stride=8)
_pack = dict(type=PackSample)
_loader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
)

optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=MuonAdamW, lr=3e-3, muon_lr=0.02, betas=(0.9, 0.98), weight_decay=0.05),
    constructor=GroupedConstructor,
    paramwise_cfg=dict(muon=True),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmUpThenDecay, warm_up=100, decay=dict(type=CosineAnnealingLR, eta_min=3e-5))
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
