"""Short answers of InfMLLM-7B: VQA v2 by default; others by file and folder. Marks as in ``_infmllm_7b.py``.

Targets of the paper, after stage 2: VQA v2 81.95, OK-VQA 61.33, GQA 63.15, TextVQA 68.02, OCR-VQA 73.52. Not measured.

    python projects/infmllm/infmllm_layouts.py vqa ...      # see there
    python tools/test.py projects/infmllm/infmllm_eval_vqa_7b.py work_dirs/infmllm_s2_7b
    ... --cfg-options _data.ann_file=infmllm/gqa_testdev.json _data.data_prefix.img=gqa/images
"""

from infmllm_questions import WordShortQuestions
from mmengine.config import read_base

from lumen.data.text import QuestionsDataset
from lumen.metrics.text import VqaMetric

with read_base():
    from ._infmllm_7b import *

model = dict(_model, input_hw=(448, 448))
_lmm["generation"]["max_new_tokens"] = 10  # P; 100 for OCR-VQA
_data = dict(
    type=QuestionsDataset,
    data_root="data",
    ann_file="infmllm/vqa_v2_val.json",
    data_prefix=dict(img="coco/val2014"),
    test_mode=True,
    pipeline=[_load, _resize, dict(type=AskQuestions, shuffle=False), dict(type=WordShortQuestions), _pack],
)
test_dataloader = dict(_test_loader, dataset=_data)
test_evaluator = dict(type=VqaMetric)
test_cfg = dict(dtype="bfloat16")
optim_wrapper = None
param_scheduler = None
