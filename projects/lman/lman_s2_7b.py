"""L-Man's second stage at full size. Never run.

P: the stage maps visual features into the space of the LLM's words, on instructions built from 20 data sets of 6 tasks.
OURS: LoRA on queries and values with the ranks of HERM; instructions built from the public files that
``lman_readers.py`` reads, one file a source; boxes and keypoints of COCO's persons with Lumen's own decoders.

    torchrun --nproc-per-node 8 tools/train.py projects/lman/lman_s2_7b.py --launcher pytorch
"""

from mmengine.config import read_base

from lumen.aligners.dense import DenseAligner
from lumen.data.coco import CocoDataset
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.data.text import AskQuestions
from lumen.data.transforms import AskClasses
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.text import VqaDecoder
from lumen.engine.hooks import FreezeHook
from lumen.model import Lumen

with read_base():
    from ...configs._base_.runtime import *
    from ._lman_7b import *

_lmm["base"]["lora"] = dict(r=64, alpha=16, targets=["q_proj", "v_proj"])
model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=dict(type=DenseAligner, channels=256),
    decoders=[dict(type=DetectionDecoder), dict(type=PoseDecoder), dict(type=VqaDecoder)],
)
_coco = dict(data_root="data/coco", data_prefix=dict(img="train2017"), classes=["person"])
_boxes = dict(
    _coco,
    type=CocoDataset,
    ann_file="annotations/instances_train2017.json",
    pipeline=[_load, _resize, dict(type=AskClasses, task="detection", num_prompts=1), _pack],
)
_poses = dict(
    _coco,
    type=CocoKeypointsDataset,
    ann_file="annotations/person_keypoints_train2017.json",
    pipeline=[_load, dict(type=CropInstance, flip_probability=0.5), dict(type=AskKeypoints), _pack],
)
_sources = ("crowdhuman", "coco", "lip", "cihp", "pa100k", "market1501", "shanghaitech")
_texts = [
    dict(
        _humanins,
        ann_file=f"{_source}_train.json",
        data_prefix=dict(img=f"images/{_source}"),
        pipeline=[_load, _resize, dict(type=AskQuestions, num_prompts=4), _pack],
    )
    for _source in _sources
]
train_dataloader = dict(
    _loader,
    batch_size=8,
    sampler=dict(type=MixtureSampler),
    dataset=dict(
        type=MixedDataset,
        datasets=[_boxes, _poses, *_texts],
        weights=[0.15, 0.15, *[0.1] * len(_sources)],
    ),
)
load_from = dict(
    checkpoint="work_dirs/lman_s1_7b/iter_50000.pth",
    fresh=["heads.*", "aligner.*", "decoders.*", "*lora*"],
)
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.base_model.model.vision_tower.*"])]
train_cfg = dict(max_iters=30000)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
