"""Class names, sentences and keypoints in the paper's ratio, on the packaged nano; see docs/ablations.md.

python tools/ablate.py run --cell mix
"""

from mmengine.config import read_base
from mmengine.dataset import pseudo_collate

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.data.refer import AskSentences, ReferDataset
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.pose import PoseDecoder

with read_base():
    from .base import *

model["aligner"]["heat"]["point_sigma"] = 1.0
model["decoders"] = [dict(type=DetectionDecoder), dict(type=GroundingDecoder), dict(type=PoseDecoder)]
model["loss_weights"] = {
    "aligner/loss_presence": 0.5,
    "detection/loss_box": 2.0,
    "grounding/loss_box": 2.0,
}
_files = dict(data_root="data/shapes", data_prefix=dict(img="train"))
_sentences = dict(type=AskSentences, num_prompts=6, kinds=("attribute", "relation"), exchange_sides=True)
_names = train_dataloader["dataset"]
_refs = dict(
    _files,
    type=ReferDataset,
    ann_file="annotations/refs_train.json",
    layout="shapes",
    split="groups",
    instances_file="annotations/instances_train.json",
    pipeline=[_load, _resize, _sentences, _pack],
)
_points = dict(
    _files,
    type=CocoKeypointsDataset,
    ann_file="annotations/instances_train.json",
    pipeline=[
        dict(_load, cache_mb=300),
        dict(type=CropInstance, scale_range=(0.85, 1.2), max_shift=0.05),
        dict(type=AskKeypoints),
        _pack,
    ],
)
_name_share, _ref_share, _point_share = 0.69, 0.23, 0.08
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=MixtureSampler),
    dataset=dict(
        type=MixedDataset,
        datasets=[_names, _refs, _points],
        weights=[_name_share, _ref_share, _point_share],
    ),
)
