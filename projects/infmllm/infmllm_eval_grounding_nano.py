"""Boxes that InfMLLM in small writes for sentences, on the test split of shapes.

    python tools/test.py projects/infmllm/infmllm_eval_grounding_nano.py work_dirs/infmllm_s2_nano

Blind, with sentences of other images: ``--cfg-options _images.type=ShuffledReferDataset``. Answers that are not a box
are counted in the protocol.
"""

from mmengine.config import read_base

from lumen.data.refer import AskSentences
from lumen.metrics.refer import GroundingMetric

with read_base():
    from ._infmllm_nano import *

model = dict(_model, input_hw=(320, 320))
_images.update(
    ann_file="annotations/refs_test.json",
    instances_file="annotations/instances_test.json",
    data_prefix=dict(img="test"),
    test_mode=True,
    pipeline=[
        _load,
        _resize,
        dict(type=AskSentences, num_prompts=None, shuffle=False, task="written_boxes", no_target=False),
        _pack,
    ],
)
test_dataloader = dict(_test_loader, dataset=_images)
test_evaluator = dict(type=GroundingMetric)
test_cfg = dict(dtype="bfloat16")
optim_wrapper = None
param_scheduler = None
