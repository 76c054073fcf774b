"""One nano, trained once on shapes, for every task: boxes, masks, keypoints, sentences, counts, words.

Four fifths of the samples ask everything about an image at once: 6 classes, 4 names of things that are not there,
sentences, questions, a caption. The rest are crops of one shape, asked for its keypoints.

    python tools/make_shapes.py
    python tools/train.py configs/multitask/multitask_nano_shapes.py
    python tools/benchmarks/multitask.py work_dirs/multitask_nano_shapes
"""

from mmengine.config import read_base
from mmengine.dataset import pseudo_collate

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

_files = dict(data_root="data/shapes", data_prefix=dict(img="train"))
_images = dict(
    _files,
    type=ReferDataset,
    ann_file="annotations/refs_train.json",
    layout="shapes",
    split="groups",
    instances_file="annotations/instances_train.json",
    with_masks=True,
)
_questions = dict(_files, type=QuestionsDataset, ann_file="annotations/questions_train.json")
_captions = dict(_questions, layout="captions", ann_file="annotations/captions_train.json")
_texts = dict(
    questions=dict(dataset=_questions, key="questions"),
    captions=dict(dataset=_captions, key="questions"),
)

_load = dict(type=LoadImage, cache_mb=600)
_resize = dict(type=ResizeToInput, flip_probability=0.5)
_crop = dict(type=CropInstance, scale_range=(0.85, 1.2), max_shift=0.05)
_ask = dict(type=AskClasses, num_prompts=6, negatives="everyday", num_negatives=4)
_ask_sentences = dict(type=AskSentences, num_prompts=8, kinds=("attribute", "relation"), exchange_sides=True)
_ask_groups = dict(type=AskSentences, num_prompts=4, kinds=("group",))
_ask_questions = dict(type=AskQuestions, num_prompts=20, exchange_sides=True)
_ask_caption = dict(type=AskQuestions, num_prompts=1, key="captions", task="caption", answer="random")
_pack = dict(type=PackSample)

_boxes = dict(
    type=JoinedDataset,
    base=_images,
    further=_texts,
    pipeline=[_load, _resize, _ask, _ask_sentences, _ask_groups, _ask_questions, _ask_caption, _pack],
)
_masks = dict(
    type=JoinedDataset,
    base=_images,
    further=_texts,
    pipeline=[
        _load,
        _resize,
        dict(_ask, task="segmentation"),
        dict(_ask_sentences, task="referring_segmentation"),
        dict(_ask_groups, task="referring_segmentation"),
        _ask_questions,
        _pack,
    ],
)
_pose = dict(
    _files,
    type=CocoKeypointsDataset,
    ann_file="annotations/instances_train.json",
    pipeline=[dict(_load, cache_mb=300), _crop, dict(type=AskKeypoints), _pack],
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
# The LMM goes on from what it knows.
optim_wrapper["paramwise_cfg"]["lr_mult"] = {"lmm.*": 0.33, **dict.fromkeys(_tokens, 0.1)}
train_cfg = dict(max_iters=2400)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
