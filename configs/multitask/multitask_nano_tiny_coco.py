"""``multitask_nano_coco.py`` on 50 training images of COCO 2017, to be memorised: a check that all parts can learn.

No augmentation; every name that is present is asked, and some that are not. The caption of an image is always its
first. A step takes .9 CPU seconds, so that 2,500 steps end near 2,260. At stride 8 small objects of one name
whose centres share a cell cost .07 of AP50 at most; stride 4 costs .70 a step.

    data/tiny_coco/annotations/{instances,person_keypoints,captions}_{train,val}2017.json
    python tools/train.py configs/multitask/multitask_nano_tiny_coco.py
    python tools/test.py configs/multitask/eval_tiny_coco_detection.py work_dirs/multitask_nano_tiny_coco

The other tasks: ``eval_tiny_coco_{segmentation,pose,caption}.py``. All evaluate the training images; the header of
``_base_/tiny_coco_eval.py`` shows how to evaluate others.
"""

from mmengine.config import read_base

with read_base():
    from .multitask_nano_coco import *

# Nothing is drawn at random but the order.
for _set in (_images, _captions, _pose):
    _set["data_root"] = "data/tiny_coco"
for _set in (_boxes, _masks, _pose):
    _set["pipeline"].remove(_colour)
_load["cache_mb"] = 100
_resize["flip_probability"] = 0.0
_crop.update(scale_range=(1.0, 1.0), max_shift=0.0, flip_probability=0.0)
_ask_boxes["num_prompts"] = _ask_masks["num_prompts"] = 20  # no image shows more than 13
_ask_caption.update(answer="majority", shuffle=False, exchange_sides=False)

train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader["dataset"]["weights"] = [0.5, 0.35, 0.15]
train_cfg["max_iters"] = 2500
param_scheduler["warm_up"] = 200
