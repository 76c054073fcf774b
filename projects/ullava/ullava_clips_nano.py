"""u-LLaVA's clips on nano: captions and two-way questions about what happens, beside images with captions.

OURS: one stage, in which the connector and the LLM learn together; 8 frames; 1,500 steps of 8, half of them clips. The
tower is frozen, as in P, so that the base must see already: it is the packaged nano. Not measured; wanted:
``ullava_events/accuracy`` .85.

    python tools/make_shapes.py
    python projects/ullava/ullava_clips.py data/clips
    python tools/train.py projects/ullava/ullava_clips_nano.py

Tokens of space alone, which forget the order of the frames (blind, .50):

    ... --work-dir work_dirs/ullava_clips_space --cfg-options "model.lmm.base.connector.parts=['space']"
"""

from mmengine.config import read_base
from ullava_clips import OrderFrames
from ullava_connector import ClipConnector

from lumen.data.clips import LoadClip
from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.decoders.text import CaptionDecoder, VqaDecoder
from lumen.engine.hooks import FreezeHook
from lumen.metrics.text import VqaMetric

with read_base():
    from ...configs._base_.nano import _lmm, _model
    from ...configs._base_.runtime import *
    from .ullava_common import *
    from .ullava_nano import *

_lmm.update(name_or_path="nano", template=_template, tasks=_tasks, readout=_readout)
_lmm["base"].update(connector=dict(type=ClipConnector))
model = dict(
    _model,
    input_hw=(160, 160),
    aligner=dict(_slots, slots=[], channels=96),
    decoders=[dict(type=CaptionDecoder), dict(type=VqaDecoder)],
)
_clip = dict(type=LoadClip, frames=8)
_order = dict(type=OrderFrames, order="kept")
_events = dict(type=QuestionsDataset, data_root="data/clips", data_prefix=dict(img="train"))
_event_questions = dict(
    _events,
    ann_file="annotations/questions_train.json",
    pipeline=[_clip, _flip, dict(type=AskQuestions), _pack],
)
_event_captions = dict(
    _events,
    layout="captions",
    ann_file="annotations/captions_train.json",
    pipeline=[_clip, _flip, dict(type=AskQuestions, task="caption"), _pack],
)
_batch = 8
train_dataloader = dict(
    _loader,
    batch_size=_batch,
    sampler=dict(type=MixtureSampler, run=_batch),  # batches of clips, and batches of images; times the ranks
    dataset=dict(
        type=MixedDataset,
        datasets=[_event_questions, _event_captions, _questions_train, _captions_train],
        weights=[0.35, 0.15, 0.25, 0.25],
    ),
)
custom_hooks = [dict(type=FreezeHook, freeze=["lmm.base_model.model.vision_tower.*"]), _average]
train_cfg = dict(max_iters=1500)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = dict(
    _test_loader,
    dataset=dict(
        _events,
        ann_file="annotations/questions_test.json",
        data_prefix=dict(img="test"),
        test_mode=True,
        pipeline=[_clip, _order, _resize, dict(type=AskQuestions, num_prompts=None, shuffle=False), _pack],
    ),
)
test_evaluator = dict(type=VqaMetric, prefix="ullava_events")
test_cfg = dict(dtype="bfloat16")
