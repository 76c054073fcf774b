r"""Yes-or-no questions of InfMLLM-7B after stage 3: MME by default; POPE by file, folder and metric.

Targets of the paper, of the chat model: MME 1490 (perception), POPE 86.5. Marks as in ``_infmllm_7b.py``. Not measured.

    python projects/infmllm/infmllm_layouts.py mme data/mme --images data/mme --out data/infmllm/mme.json
    python tools/test.py projects/infmllm/infmllm_eval_yes_no_7b.py work_dirs/infmllm_s3_7b
    ... --cfg-options _data.ann_file=infmllm/pope_random.json _data.data_prefix.img=coco/val2014 \
        test_evaluator.type=YesNoMetric
"""

from infmllm_metrics import MmeMetric
from mmengine.config import read_base

with read_base():
    from .infmllm_eval_choice_7b import *

_data.update(ann_file="infmllm/mme.json", data_prefix=dict(img="mme"))
test_evaluator = dict(type=MmeMetric)
