"""InfMLLM-7B, stage 2, multitask fine-tuning at 448 pixels: captions, short answers and boxes as text.

Tower, connector, and the query and value projections of the LLM learn. Marks as in ``_infmllm_7b.py``. Not measured.

    data/coco and data/refer as in configs/
    data/infmllm/{vqa_v2,okvqa,gqa,textvqa,ocrvqa}_train.json, written by infmllm_layouts.py (vqa_v2 and okvqa with
    --split train2014, ocrvqa with --split 1)
    torchrun --nproc-per-node 8 tools/train.py projects/infmllm/infmllm_s2_7b.py --launcher pytorch
"""

from infmllm_questions import WordShortQuestions
from mmengine.config import read_base

from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.data.refer import AskSentences, ReferDataset
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.written import WriteAnswers
from lumen.engine.hooks import FreezeHook

with read_base():
    from ._infmllm_7b import *

load_from = "work_dirs/infmllm_s1_7b/iter_10000.pth"
model = dict(_model, input_hw=(448, 448))  # P: 32 x 32 cells, pooled to 16 x 16
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.*"], trainable=[_connector, _tower, *_queries_and_values])]  # P
optim_wrapper["optimizer"]["lr"] = 1e-4  # OURS
optim_wrapper["paramwise_cfg"] = dict(lr_mult={_tower: 0.1})  # OURS

_captions = dict(
    type=QuestionsDataset,
    layout="captions",
    data_root="data/coco",
    ann_file="annotations/captions_train2017.json",
    data_prefix=dict(img="train2017"),
    pipeline=[_load, _resize, _caption, _pack],
)
_ask_short = [dict(type=AskQuestions, num_prompts=8), dict(type=WordShortQuestions)]  # P: the wording
_short = dict(
    type=QuestionsDataset,
    data_root="data",
    pipeline=[_load, _resize, *_ask_short, _pack],
)
_refer = dict(
    type=ReferDataset,
    layout="refer",
    split="train",
    data_root="data/refer",
    data_prefix=dict(img="images/mscoco/images/train2014"),
    pipeline=[
        _load,
        _resize,
        dict(type=AskSentences, num_prompts=8, task="written_boxes", no_target=False),
        dict(type=WriteAnswers, codec=_codec),
        _pack,
    ],
)
# INFERRED: the training sets of what it is evaluated on. OURS: the shares.
train_dataloader = dict(
    _loader,
    sampler=dict(type=MixtureSampler),
    dataset=dict(
        type=MixedDataset,
        datasets=[
            _captions,
            dict(_short, ann_file="infmllm/vqa_v2_train.json", data_prefix=dict(img="coco/train2014")),
            dict(_short, ann_file="infmllm/okvqa_train.json", data_prefix=dict(img="coco/train2014")),
            dict(_short, ann_file="infmllm/gqa_train.json", data_prefix=dict(img="gqa/images")),
            dict(_short, ann_file="infmllm/textvqa_train.json", data_prefix=dict(img="textvqa/train_images")),
            dict(_short, ann_file="infmllm/ocrvqa_train.json", data_prefix=dict(img="ocrvqa/images")),
            dict(_refer, ann_file="refcoco/refs(unc).p", instances_file="refcoco/instances.json"),
            dict(_refer, ann_file="refcoco+/refs(unc).p", instances_file="refcoco+/instances.json"),
            dict(_refer, ann_file="refcocog/refs(umd).p", instances_file="refcocog/instances.json"),
        ],
        weights=[1 / 3, *[1 / 15] * 5, *[1 / 9] * 3],
    ),
)
train_cfg = dict(max_iters=10000, val_interval=None)  # OURS
