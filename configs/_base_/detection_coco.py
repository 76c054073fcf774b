"""Loaders of a small data set in COCO's format, shapes, whose images are kept in memory. Names come from the files.

Training is judged on the val split, on which rates and checkpoints are chosen; ``tools/test.py`` reports the test
split.

A pipeline is ``[_load, _resize, _ask, _pack]``, that of evaluation ``[_val_load, _val_resize, _val_ask, _pack]``. A
leaf changes a step by its name: ``_ask["num_prompts"] = 4``. Size and task come from the model.
"""

from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.metrics.coco.metric import CocoMetric

_load = dict(type=LoadImage, cache_mb=600)
_resize = dict(type=ResizeToInput, flip_probability=0.5)
_ask = dict(type=AskClasses, num_prompts=8)
_pack = dict(type=PackSample)
_val_load = dict(type=LoadImage)
_val_resize = dict(type=ResizeToInput)
_val_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)

train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # reading small images costs less than sending them between processes
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        data_root="data/shapes",
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train"),
        pipeline=[_load, _resize, _ask, _pack],
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root="data/shapes",
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="val"),
        test_mode=True,
        pipeline=[_val_load, _val_resize, _val_ask, _pack],
    ),
)
test_dataloader = dict(
    val_dataloader,
    dataset=dict(
        val_dataloader["dataset"],
        ann_file="annotations/instances_test.json",
        data_prefix=dict(img="test"),
    ),
)
val_evaluator = dict(type=CocoMetric, classwise=True)
test_evaluator = val_evaluator
