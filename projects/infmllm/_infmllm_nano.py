"""What the stages of InfMLLM in small share: nano on shapes, on a CPU. All of it OURS but the order of things.

In small what the paper does at 224 and 448 pixels: 160 pixels are 10 x 10 cells, which the pool leaves as they are, 320
are 20 x 20, of which it takes means of 2 x 2. Which part of the model learns in which stage is that of the paper. Tower
and LLM are those of the packaged nano, and the two layers of the connector start as those of nano's own: at 160 pixels
it sees what nano sees. At 320 pixels the positions of its tower are interpolated, as those of the paper's tower are.
"""

from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler

from lumen.corner_words import CornerWords
from lumen.data.refer import ReferDataset
from lumen.data.text import QuestionsDataset
from lumen.engine.muon import MuonAdamW
from lumen.lmm.connectors import PoolConnector

with read_base():
    from ._infmllm_common import *

_codec = dict(type=CornerWords, bins=40)  # each coordinate is one token
_dialect["codec"] = _codec
_pool = dict(type=PoolConnector, out_hw=(10, 10), interpolate=True, start="projector")
_lmm.update(
    name_or_path="nano",
    base=dict(attention="plain", connector=_pool),
    readout=dict(box_bins=40),  # a line beside the right one is half right, as while nano was trained
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
_load["cache_mb"] = 600

_optimizer.update(type=MuonAdamW, lr=2e-3, muon_lr=0.01, betas=(0.9, 0.98), weight_decay=0.05)
optim_wrapper["paramwise_cfg"] = dict(muon=True, lr_mult={"lmm.*": 1.0})
optim_wrapper["clip_grad"] = dict(max_norm=5.0)
param_scheduler["warm_up"] = 30
_loader.update(batch_size=16, num_workers=0, sampler=dict(type=InfiniteSampler, shuffle=True))
_test_loader.update(batch_size=16, num_workers=0)
