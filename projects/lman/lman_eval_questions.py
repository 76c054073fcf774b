r"""Yes or no, asked in words about attributes of persons in portraits. Wanted: .80; always "yes" has .511.

python projects/lman/make_humanins.py coco_persons data/persons/annotations/portraits_test.json \
        --images data/persons/portraits/test --out data/persons/humanins/portraits_test.json --forms attributes \
        --attributes 4

python tools/test.py projects/lman/lman_eval_questions.py work_dirs/lman_s2_nano
"""

from mmengine.config import read_base

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.metrics.text import YesNoMetric

with read_base():
    from ._lman_eval import *

test_dataloader["dataset"] = dict(
    _test,
    type=QuestionsDataset,
    ann_file="humanins/portraits_test.json",
    data_prefix=dict(img="portraits/test"),
    pipeline=[_load, _resize, dict(type=AskQuestions, shuffle=False), _pack],
)
test_evaluator = dict(type=YesNoMetric, prefix="yes_no")
