"""One nano, trained once from nothing on shapes, for every task: boxes, masks, keypoints, sentences, counts, words.

Four fifths of the samples ask everything about an image at once: 8 classes, sentences, questions, a caption. The rest
are crops of one shape, asked for its keypoints.

    python tools/make_nano.py --out data/nano4 --llm-layers 4 --tied
    python tools/make_shapes.py
    python tools/train.py configs/multitask/multitask_nano_shapes.py
    python tools/benchmarks/multitask.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base
from mmengine.dataset import pseudo_collate
from mmengine.optim import CosineAnnealingLR, LinearLR

from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.mixture import JoinedDataset, MixedDataset, MixtureSampler
from lumen.data.refer import AskSentences, ReferDataset
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput

with read_base():
    from .._base_.multitask_nano import *
    from .._base_.runtime import *
    from .._base_.schedule_nano import *

_num_iters = 3500
_root = "data/shapes"
_hw = (160, 160)


_images = dict(
    type=ReferDataset,
    ann_file="annotations/refs_train.json",
    layout="shapes",
    split="groups",
    instances_file="annotations/instances_train.json",
    data_root=_root,
    data_prefix=dict(img="train"),
    with_masks=True,
)
_questions = dict(
    type=QuestionsDataset, ann_file="annotations/questions_train.json", data_root=_root, data_prefix=dict(img="train")
)
_captions = dict(_questions, layout="captions", ann_file="annotations/captions_train.json")
_texts = dict(
    questions=dict(dataset=_questions, key="questions"),
    captions=dict(dataset=_captions, key="questions"),
)
_view = [
    dict(type=LoadImage, cache_mb=600),
    dict(type=ResizeToInput, input_hw=_hw, flip_probability=0.5),
]
_sentences = dict(type=AskSentences, num_prompts=8, kinds=("attribute", "relation"), exchange_sides=True)
_groups = dict(type=AskSentences, num_prompts=4, kinds=("group",))
_questions_asked = dict(type=AskQuestions, num_prompts=20, exchange_sides=True)
_caption_asked = dict(type=AskQuestions, num_prompts=1, key="captions", task="caption", answer="random")
_boxes = dict(
    type=JoinedDataset,
    base=_images,
    further=_texts,
    pipeline=[
        *_view,
        dict(type=AskClasses, num_prompts=8),
        _sentences,
        _groups,
        _questions_asked,
        _caption_asked,
        dict(type=PackSample),
    ],
)
_masks = dict(
    type=JoinedDataset,
    base=_images,
    further=_texts,
    pipeline=[
        *_view,
        dict(type=AskClasses, num_prompts=8, task="segmentation"),
        dict(_sentences, task="referring_segmentation"),
        dict(_groups, task="referring_segmentation"),
        _questions_asked,
        dict(type=PackSample),
    ],
)
_pose = dict(
    type=CocoKeypointsDataset,
    ann_file="annotations/instances_train.json",
    data_root=_root,
    data_prefix=dict(img="train"),
    pipeline=[
        dict(type=LoadImage, cache_mb=300),
        dict(type=CropInstance, input_hw=_hw, scale_range=(0.85, 1.2), max_shift=0.05),
        dict(type=AskKeypoints),
        dict(type=PackSample),
    ],
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=MixtureSampler),
    dataset=dict(
        type=MixedDataset,
        datasets=[_boxes, _masks, _pose],
        weights=[0.4, 0.4, 0.2],
    ),
)
train_cfg = dict(max_iters=_num_iters, val_interval=_num_iters)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=200, end=_num_iters, T_max=_num_iters - 200, eta_min=3e-5),
]
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
