"""The photo base tuned on BCCD: 3 kinds of blood cells. Training split, judged on val, tested on test.

The data, the augmentation and the batch are those of ``detection/detection_nano_bccd.py``. Run it with:

    python tools/make_nano.py --tower efficientnet-lite0 --out data/photo
    python tools/train.py configs/finetune/detection_photo_bccd.py
"""

from mmengine.config import read_base

with read_base():
    from .._base_.photo import _base_path, _freeze, _groups
    from ..detection.detection_nano_bccd import *

model["lmm"]["name_or_path"] = _base_path
optim_wrapper["paramwise_cfg"] = _groups
custom_hooks = [*custom_hooks, _freeze]
train_cfg = dict(max_iters=400)
