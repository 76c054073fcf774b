"""The whole model of ``segmentation_cached_nano_shapes.py``: what its features come from, and what judges its masks."""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.metrics.coco.metric import CocoMetric

with read_base():
    from .._base_.nano import _aligner, _lmm, _model
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput)
_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)
_pack = dict(type=PackSample)
_data = dict(type=CocoDataset, data_root="data/shapes", with_masks=True, pipeline=[_load, _resize, _ask, _pack])
_lmm["name_or_path"] = "data/nano4"
_aligner["heat"]["point_sigma"] = 1.0

model = dict(
    _model,
    input_hw=(160, 160),
    decoders=[dict(type=SegmentationDecoder)],
    loss_weights={"segmentation/loss_box": 2.0},
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(_data, ann_file="annotations/instances_train.json", data_prefix=dict(img="train")),
)
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(_data, ann_file="annotations/instances_test.json", data_prefix=dict(img="test"), test_mode=True),
)
test_evaluator = dict(type=CocoMetric, iou_type=("segm", "bbox"))
val_dataloader = None
val_evaluator = None
val_cfg = None
train_cfg = dict(max_iters=5000)
