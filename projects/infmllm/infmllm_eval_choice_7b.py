r"""Multiple choice of InfMLLM-7B after stage 3: ScienceQA's questions with an image; SEED-Bench by file and folder.

Targets of the paper, of the chat model: ScienceQA 68.7, SEED 61.7. Marks as in ``_infmllm_7b.py``. Not measured.

    python projects/infmllm/infmllm_layouts.py scienceqa data/scienceqa/problems.json --images data/scienceqa \
        --out data/infmllm/scienceqa_test.json
    python tools/test.py projects/infmllm/infmllm_eval_choice_7b.py work_dirs/infmllm_s3_7b
    ... --cfg-options _data.ann_file=infmllm/seed.json _data.data_prefix.img=seed/SEED-Bench-image
"""

from infmllm_metrics import ChoiceMetric
from mmengine.config import read_base

from lumen.data.text import QuestionsDataset

with read_base():
    from ._infmllm_7b import *

model = dict(_model, input_hw=(448, 448))
_resize["mode"] = "letterbox"  # P, as in stage 3
_data = dict(
    type=QuestionsDataset,
    data_root="data",
    ann_file="infmllm/scienceqa_test.json",
    data_prefix=dict(img="scienceqa"),
    test_mode=True,
    pipeline=[_load, _resize, dict(type=AskQuestions, shuffle=False, task="chat"), _pack],
)
test_dataloader = dict(_test_loader, dataset=_data)
test_evaluator = dict(type=ChoiceMetric)
test_cfg = dict(dtype="bfloat16")
optim_wrapper = None
param_scheduler = None
