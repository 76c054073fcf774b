r"""What the evaluations on the tiny COCO share: the model of ``multitask_nano_coco.py``, and the 50 training images.

For the 50 images of the validation part, from which nothing was learned (KIND is the file of the task, such as
``instances``, ``person_keypoints``, ``captions``):

    ... --cfg-options test_dataloader.dataset.data_prefix.img=val2017 \
        test_dataloader.dataset.ann_file=annotations/KIND_val2017.json
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, pseudo_collate

from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput

with read_base():
    from .multitask_nano_coco import *
    from .runtime import *
    from .schedule_nano import *

_images = dict(data_root="data/tiny_coco", data_prefix=dict(img="train2017"), test_mode=True)
_instances = "annotations/instances_train2017.json"

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput)
_ask = dict(type=AskClasses, num_prompts=None, shuffle=False)
_pack = dict(type=PackSample)

test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
optim_wrapper = None
param_scheduler = None
custom_hooks = None
val_cfg = None
