r"""One nano, trained from scratch on COCO 2017 for boxes, instance masks, keypoints of persons and captions together.

Four fifths of the samples ask an image for some of the 80 names and for its caption; the rest are crops of one person,
asked for the keypoints. Not measured: 36,000 steps are days on a CPU; ``multitask_nano_tiny_coco.py`` is for trying.

    data/coco/annotations/{instances,person_keypoints,captions}_train2017.json, data/coco/train2017/
    python tools/make_nano.py --out data/nano4 --llm-layers 4 --tied
    python tools/train.py configs/multitask/multitask_nano_coco.py

Each task is tested by a config of its own, such as ``eval_tiny_coco_detection.py``, which names the images:

    python tools/test.py configs/multitask/eval_tiny_coco_detection.py work_dirs/multitask_nano_coco \
        --cfg-options test_dataloader.dataset.data_root=data/coco test_dataloader.dataset.data_prefix.img=val2017 \
        test_dataloader.dataset.ann_file=annotations/instances_val2017.json
"""

from mmengine.config import read_base
from mmengine.dataset import pseudo_collate

from lumen.data.coco import CocoDataset
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.mixture import JoinedDataset, MixedDataset, MixtureSampler
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, Photometric, ResizeToInput

with read_base():
    from .._base_.multitask_nano_coco import *
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_files = dict(data_root="data/coco", data_prefix=dict(img="train2017"))
_images = dict(_files, type=CocoDataset, ann_file="annotations/instances_train2017.json", with_masks=True)
_captions = dict(_files, type=QuestionsDataset, layout="captions", ann_file="annotations/captions_train2017.json")
_joined = dict(type=JoinedDataset, base=_images, further=dict(captions=dict(dataset=_captions, key="questions")))

_load = dict(type=LoadImage)
# A caption describes the whole scene: no zoom here, and "left" becomes "right" in a mirrored view.
_resize = dict(type=ResizeToInput, flip_probability=0.5)
_crop = dict(type=CropInstance, scale_range=(0.75, 1.3), max_shift=0.08, flip_probability=0.5)
_colour = dict(type=Photometric)
_ask_boxes = dict(type=AskClasses, num_prompts=12)
_ask_masks = dict(type=AskClasses, num_prompts=12, task="segmentation")
_ask_caption = dict(
    type=AskQuestions, num_prompts=1, key="captions", task="caption", answer="random", exchange_sides=True
)
_pack = dict(type=PackSample)

_boxes = dict(_joined, pipeline=[_load, _resize, _colour, _ask_boxes, _ask_caption, _pack])
_masks = dict(_joined, pipeline=[_load, _resize, _colour, _ask_masks, _ask_caption, _pack])
_pose = dict(
    _files,
    type=CocoKeypointsDataset,
    ann_file="annotations/person_keypoints_train2017.json",
    pipeline=[_load, _crop, _colour, dict(type=AskKeypoints), _pack],
)
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=MixtureSampler),
    dataset=dict(type=MixedDataset, datasets=[_boxes, _masks, _pose], weights=[0.4, 0.4, 0.2]),
)
train_cfg = dict(max_iters=36000)
param_scheduler["warm_up"] = 1000
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
