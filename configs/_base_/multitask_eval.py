"""What the evaluations of the multi-task nano share: the model, and images of the test split of shapes.

The val split, for choosing: ``python tools/benchmarks/multitask.py CHECKPOINT --split val``.
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, pseudo_collate

from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput

with read_base():
    from .multitask_nano import *
    from .runtime import *
    from .schedule_nano import *

_instances = "annotations/instances_test.json"
_images = dict(data_root="data/shapes", data_prefix=dict(img="test"), test_mode=True)
_refs = dict(ann_file="annotations/refs_test.json", layout="shapes", instances_file=_instances)

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput)
_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)
_pack = dict(type=PackSample)

test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
optim_wrapper = None
param_scheduler = None
custom_hooks = None
val_cfg = None
