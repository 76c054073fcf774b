"""Box detection on any COCO-format data set. A leaf names the folder and the files; class names come from the files."""

from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate

from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.metrics.coco.metric import CocoMetric

_input_hw = (160, 160)

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
        pipeline=[
            dict(type=LoadImage, cache_mb=600),
            dict(type=ResizeToInput, input_hw=_input_hw, flip_probability=0.5),
            dict(type=AskClasses, num_prompts=8),
            dict(type=PackSample),
        ],
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
        pipeline=[
            dict(type=LoadImage),
            dict(type=ResizeToInput, input_hw=_input_hw),
            dict(type=AskClasses, num_prompts=None, shuffle=False),
            dict(type=PackSample),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, classwise=True)
test_evaluator = val_evaluator
