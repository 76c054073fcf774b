"""The data sets of the paper, at 448 pixels, one prompt per sample. Marks as in ``lumen_paper.py``.

SURE: which sets; no augmentation of any kind; one class name, one sentence or one keypoint category per sample; VQA
samples are plain conversations; no mask annotation is read in training.
UNKNOWN, so ours: how an image meets the square (letterbox); how often each set of a group is drawn (equally); images
without any class of the set (left out, so that there are no absent prompts: presence is not trained); the wording of a
keypoint ("left shoulder of the person"); the margin of a person's crop (1.25).

Layout below data/: coco, objects365, openimages, refer and aic, all with COCO-format files; sharegpt4v. Objects365 and
OpenImages need converting; OpenImages' file says per image which classes are verified absent (``neg_category_ids``) and
which are annotated incompletely (``not_exhaustive_category_ids``), as LVIS's does.
"""

from mmengine.dataset import DefaultSampler, pseudo_collate

from lumen.data.coco import CocoDataset
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.data.refer import AskSentences, ReferDataset
from lumen.data.text import AskQuestions, LoadImageOrBlank, QuestionsDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput)  # SURE: to 448 pixels, the model's dense_hw
_ask = dict(type=AskClasses, num_prompts=1, max_absent=0)
_pack = dict(type=PackSample)

_detection = dict(type=CocoDataset, filter_empty=True, pipeline=[_load, _resize, _ask, _pack])
_coco = dict(
    _detection,
    data_root="data/coco",
    ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017"),
)
_objects365 = dict(
    _detection, data_root="data/objects365", ann_file="annotations/train.json", data_prefix=dict(img="train")
)
_openimages = dict(
    _detection,
    data_root="data/openimages",
    ann_file="annotations/train.json",
    data_prefix=dict(img="train"),
    federated=True,
)

_sentences = dict(
    type=ReferDataset,
    layout="refer",
    split="train",
    data_root="data/refer",
    data_prefix=dict(img="images/mscoco/images/train2014"),
    pipeline=[_load, _resize, dict(type=AskSentences, num_prompts=1), _pack],
)
_refcoco = dict(_sentences, ann_file="refcoco/refs(unc).p", instances_file="refcoco/instances.json")
_refcocoplus = dict(_sentences, ann_file="refcoco+/refs(unc).p", instances_file="refcoco+/instances.json")
_refcocog = dict(_sentences, ann_file="refcocog/refs(umd).p", instances_file="refcocog/instances.json")

_keypoints = dict(
    type=CocoKeypointsDataset,
    pipeline=[_load, dict(type=CropInstance), dict(type=AskKeypoints, num_prompts=1), _pack],
)
_coco_keypoints = dict(
    _keypoints,
    data_root="data/coco",
    ann_file="annotations/person_keypoints_train2017.json",
    data_prefix=dict(img="train2017"),
)
_aic = dict(_keypoints, data_root="data/aic", ann_file="annotations/train.json", data_prefix=dict(img="train"))

_vqa = dict(
    type=QuestionsDataset,
    layout="conversations",
    data_root="data/sharegpt4v",
    # SURE: a subset of 665K samples. INFERRED: that it is this file.
    ann_file="sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json",
    data_prefix=dict(img="images"),
    # SURE: plain conversations. INFERRED from LLaVA: all turns of a conversation are learned in one sample.
    pipeline=[
        dict(type=LoadImageOrBlank),
        _resize,
        dict(type=AskQuestions, num_prompts=None, shuffle=False, task="chat"),
        _pack,
    ],
)

_located = [_coco, _objects365, _openimages, _refcoco, _refcocoplus, _refcocog, _coco_keypoints, _aic]

# Batch: SURE 160 in all, on 8 GPUs, hence 20 for each of 8 processes.
train_dataloader = dict(
    batch_size=20,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=MixtureSampler),
    # The shares of detection, grounding and pose are SURE; within each they are ours.
    dataset=dict(
        type=MixedDataset,
        datasets=_located,
        weights=[0.69 / 3, 0.69 / 3, 0.69 / 3, 0.23 / 3, 0.23 / 3, 0.23 / 3, 0.08 / 2, 0.08 / 2],
    ),
)

# COCO val: SURE. All 80 names on every image: INFERRED, from the hours that the paper gives.
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root="data/coco",
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017"),
        test_mode=True,
        pipeline=[_load, _resize, dict(type=AskClasses, num_prompts=None, shuffle=False), _pack],
    ),
)
