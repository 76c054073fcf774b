"""``multitask_nano_coco.py`` on 50 training images of COCO 2017, to be learnt by heart: whether all parts can learn.

No augmentation; every name that is present is asked, and some that are not. The caption of an image is always its
first. A step takes .45 of the clock "2cs", so that 2,500 steps end near 1,130. At stride 8 small objects of one name
whose centres share a cell cost .07 of AP50 at most; stride 4 costs .70 a step.

    data/tiny_coco/annotations/{instances,person_keypoints,captions}_{train,val}2017.json
    python tools/train.py configs/multitask/multitask_nano_tiny_coco.py
    python tools/test.py configs/multitask/eval_tiny_coco_detection.py work_dirs/multitask_nano_tiny_coco

The other tasks: ``eval_tiny_coco_{segmentation,pose,caption}.py``. All look at the training images, and the header of
``_base_/tiny_coco_eval.py`` says how to look at others.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

with read_base():
    from .multitask_nano_coco import *

_num_iters = 2500
_files = dict(data_root="data/tiny_coco", data_prefix=dict(img="train2017"))

_images = dict(_images, **_files)
_texts = dict(captions=dict(dataset=dict(_captions, **_files), key="questions"))
_view = [dict(type=LoadImage, cache_mb=100), dict(type=ResizeToInput, input_hw=_hw)]
_ask = dict(type=AskClasses, num_prompts=20)  # no image shows more than 13
_words = [
    dict(type=AskQuestions, num_prompts=1, key="captions", task="caption", shuffle=False),
    dict(type=PackSample),
]
_boxes = dict(_boxes, base=_images, further=_texts, pipeline=[*_view, _ask, *_words])
_masks = dict(_masks, base=_images, further=_texts, pipeline=[*_view, dict(_ask, task="segmentation"), *_words])
_pose = dict(
    _pose,
    **_files,
    pipeline=[
        dict(type=LoadImage, cache_mb=100),
        dict(type=CropInstance, input_hw=_hw),
        dict(type=AskKeypoints),
        dict(type=PackSample),
    ],
)
train_dataloader.update(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type=MixedDataset, datasets=[_boxes, _masks, _pose], weights=[0.5, 0.35, 0.15]),
)
train_cfg = dict(max_iters=_num_iters, val_interval=_num_iters)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=200, end=_num_iters, T_max=_num_iters - 200, eta_min=3e-5),
]
