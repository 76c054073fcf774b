"""Boxes that InfMLLM-7B writes for sentences: RefCOCO testA by default. Marks as in ``_infmllm_7b.py``.

An overlap of at least .5 counts (P). Targets of the paper, after stage 2: RefCOCO testA 94.62, testB 89.30; RefCOCO+
testA 92.36, testB 81.83; RefCOCOg test 89.78. Not measured.

    python tools/test.py projects/infmllm/infmllm_eval_grounding_7b.py work_dirs/infmllm_s2_7b
    ... --cfg-options "_data.ann_file=refcoco+/refs(unc).p" _data.instances_file=refcoco+/instances.json
"""

from mmengine.config import read_base

from lumen.data.refer import AskSentences, ReferDataset
from lumen.metrics.refer import GroundingMetric

with read_base():
    from ._infmllm_7b import *

model = dict(_model, input_hw=(448, 448))
_data = dict(
    type=ReferDataset,
    layout="refer",
    split="testA",
    data_root="data/refer",
    ann_file="refcoco/refs(unc).p",
    instances_file="refcoco/instances.json",
    data_prefix=dict(img="images/mscoco/images/train2014"),
    test_mode=True,
    pipeline=[
        _load,
        _resize,
        dict(type=AskSentences, num_prompts=None, shuffle=False, task="written_boxes"),
        _pack,
    ],
)
test_dataloader = dict(_test_loader, dataset=_data)
test_evaluator = dict(type=GroundingMetric)
test_cfg = dict(dtype="bfloat16")
optim_wrapper = None
param_scheduler = None
