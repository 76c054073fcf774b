"""What the evaluations of the multi-task nano share: the model, and images of the validation set of shapes."""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, pseudo_collate

from lumen.data.transforms import LoadImage, ResizeToInput

with read_base():
    from .multitask_nano import *
    from .runtime import *
    from .schedule_nano import *

_root = "data/shapes"
_hw = (160, 160)
_instances = "annotations/instances_val.json"
_view = [dict(type=LoadImage), dict(type=ResizeToInput, input_hw=_hw)]
_images = dict(data_root=_root, data_prefix=dict(img="val"), test_mode=True)
_refs = dict(ann_file="annotations/refs_val.json", layout="shapes", instances_file=_instances)

test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
optim_wrapper = None
custom_hooks = None
val_cfg = None
