r"""A mask decoder added to a multi-task nano, on features that are computed once: neither LMM nor aligner is trained.

The nano is that of ``multitask/multitask_scratch_shapes.py``. The new decoder starts from random weights and learns
boxes and masks; nothing else of the model changes. The LMM itself does not run: its features lie on the disk, 2.5 GB in
bfloat16 for 6,000 images, masks of the targets included. A step of 8 images takes .08 CPU seconds: 5,000 steps take
about 400, and writing the cache, once, about 200.

    python tools/cache_features.py configs/segmentation/segmentation_full_nano_shapes.py \
        work_dirs/multitask_scratch_shapes --split train --dtype bfloat16 --out data/cache/shapes_train
    python tools/train.py configs/segmentation/segmentation_cached_nano_shapes.py
    python tools/test.py configs/segmentation/segmentation_full_nano_shapes.py \
        work_dirs/segmentation_cached_nano_shapes

The last line runs the whole model on images. ``configs/multitask/eval_segmentation.py`` with the first checkpoint gives
the figures of the decoder that was trained along with everything.
"""

from mmengine.config import read_base

from lumen.data.cached import CachedFeatures
from lumen.engine.hooks import EmaHook, FreezeHook
from lumen.lmm.cached import CachedAdapter

with read_base():
    from .segmentation_full_nano_shapes import *

_cache = "data/cache/shapes_train"

model["lmm"] = dict(type=CachedAdapter, cache=_cache, lmm=model["lmm"])
train_dataloader["dataset"] = dict(type=CachedFeatures, cache=_cache, dataset=train_dataloader["dataset"])
custom_hooks = [dict(type=FreezeHook, freeze=["aligner.*"]), dict(type=EmaHook, decay=0.998)]
load_from = dict(checkpoint="work_dirs/multitask_scratch_shapes/iter_3500.pth", fresh=["decoders.*"])
test_dataloader = None
test_evaluator = None
test_cfg = None
