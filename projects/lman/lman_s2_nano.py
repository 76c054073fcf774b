"""L-Man's second stage on nano: the queries speak to the LLM, and every task learns its decoder.

INFERRED: six tasks after HumanBench. OURS: everything is trained, where 7B has low-rank adapters; 700 steps of 16.
Every portrait is asked for its attributes by prompts and in words; one image in thirty is asked for places as text.

    python tools/train.py projects/lman/lman_s1_nano.py
    python projects/lman/make_humanins.py coco_persons data/persons/annotations/scenes_train.json \
        --images data/persons/scenes/train --out data/persons/humanins/scenes_train.json
    python projects/lman/make_humanins.py coco_persons data/persons/annotations/portraits_train.json \
        --images data/persons/portraits/train --out data/persons/humanins/portraits_train.json \
        --attributes 8 --questions 11
    python tools/train.py projects/lman/lman_s2_nano.py
    python tools/test.py projects/lman/lman_eval_detection.py work_dirs/lman_s2_nano
"""

from mmengine.config import read_base

from lumen.data.attributes import AttributesDataset
from lumen.data.coco import CocoDataset
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.mixture import JoinedDataset, MixedDataset, MixtureSampler
from lumen.data.semantic import SemanticDataset
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import AskClasses
from lumen.engine.hooks import EmaHook

with read_base():
    from ...configs._base_.runtime import *
    from ._lman_s2_nano import *

_ask = dict(type=AskClasses, num_prompts=1)
_scenes = dict(_person, ann_file="annotations/scenes_train.json", data_prefix=dict(img="scenes/train"))
_boxes = dict(
    _scenes,
    type=CocoDataset,
    # A model that learns one name answers to every name.
    pipeline=[
        _load,
        _flip,
        dict(_ask, task="detection", negatives=["dog", "car", "tree", "lamp"], num_negatives=1),
        _pack,
    ],
)
_poses = dict(
    _scenes,
    type=CocoKeypointsDataset,
    pipeline=[
        _load,
        dict(type=CropInstance, scale_range=(0.85, 1.2), max_shift=0.05, flip_probability=0.5),
        dict(type=AskKeypoints),
        _pack,
    ],
)
_maps = dict(
    _person,
    type=SemanticDataset,
    classes=_parts,
    data_prefix=dict(img="portraits/train", seg="parts/portraits/train"),
    # Not flipped: labels of left and right would not change places.
    pipeline=[
        _load,
        dict(_resize, min_visible=0.0),
        dict(_ask, num_prompts=None, task="semantic_segmentation"),
        _pack,
    ],
)
_crowds = dict(
    _person,
    type=CocoDataset,
    ann_file="annotations/crowds_train.json",
    data_prefix=dict(img="crowds/train"),
    pipeline=[_load, _flip, dict(_ask, task="counting"), _pack],
)
_attributes = dict(
    _person,
    type=CocoDataset,
    ann_file="annotations/attributes_train.json",
    data_prefix=dict(img="portraits/train"),
)
_questions = {
    name: dict(
        _person,
        type=QuestionsDataset,
        ann_file=f"humanins/{name}_train.json",
        data_prefix=dict(img=f"{name}/train"),
    )
    for name in ("scenes", "portraits")
}
# An image is encoded once for its attributes and for the questions in words about them.
_portraits = dict(
    type=JoinedDataset,
    base=_attributes,
    further=dict(questions=dict(dataset=_questions["portraits"], key="questions")),
    pipeline=[
        _load,
        _flip,
        dict(_ask, num_prompts=None, task="attributes"),
        dict(type=AskQuestions, num_prompts=5, forms=("attributes", "number")),
        _pack,
    ],
)
_identities = dict(
    _person,
    type=AttributesDataset,
    attributes=dict(identity=list(range(120)), camera=[1, 2]),
    ann_file="annotations/identities_train.json",
    data_prefix=dict(img="identities/train"),
    pipeline=[_load, _flip, dict(_ask, task="reid"), _pack],
)
# All forms of questions, places as text among them.
_texts = [
    dict(each, pipeline=[_load, _resize, dict(type=AskQuestions, num_prompts=2), _pack]) for each in _questions.values()
]
train_dataloader = dict(
    _loader,
    batch_size=16,
    sampler=dict(type=MixtureSampler),
    dataset=dict(
        type=MixedDataset,
        datasets=[_boxes, _poses, _maps, _crowds, _portraits, _identities, *_texts],
        weights=[0.09, 0.2, 0.12, 0.07, 0.26, 0.23, 0.015, 0.015],
    ),
)
load_from = dict(checkpoint="work_dirs/lman_s1_nano/iter_1000.pth", fresh=["heads.*", "aligner.*", "decoders.*"])
custom_hooks = [dict(type=EmaHook, decay=0.998)]
train_cfg = dict(max_iters=700)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
