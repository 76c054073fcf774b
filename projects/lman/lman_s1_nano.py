"""L-Man's first stage on nano: the queries learn what captions of persons say. Then ``lman_s2_nano.py``.

INFERRED, after BLIP-2: contrast and writing, the LLM is not run. OURS: nano's tower goes on learning, since it has
seen no persons; 1,000 steps of 32. Wanted: R@1 of 100 at least .50 on the test split, at the end of this file.

    python projects/lman/make_persons.py
    python tools/train.py projects/lman/lman_s1_nano.py
    python tools/test.py projects/lman/lman_s1_nano.py work_dirs/lman_s1_nano
"""

from lman_metrics import RetrievalMetric
from lman_pretrain import QueryPretrainer
from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler

from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.engine.hooks import FreezeHook

with read_base():
    from ...configs._base_.runtime import *
    from ._lman_nano import *

_captions = dict(_person, type=QuestionsDataset, layout="captions")
_ask = dict(type=AskQuestions, num_prompts=1, task="caption", answer="random")
_inside = "lmm.base_model.model.multi_modal_projector"

model = dict(
    type=QueryPretrainer,
    lmm=_lmm,
    # Matching reads each image three times and costs as much as all else; the third loss of BLIP-2 is left out.
    loss_weights=dict(loss_itc=1.0, loss_itg=1.0),
    input_hw=(160, 160),
)
train_dataloader = dict(
    _loader,
    batch_size=32,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        _captions,
        ann_file="annotations/captions_train.json",
        data_prefix=dict(img="portraits/train"),
        pipeline=[_load, _flip, _ask, _pack],
    ),
)
default_hooks["checkpoint"]["interval"] = 500
optim_wrapper["paramwise_cfg"] = dict(
    muon=True,
    adamw=["heads.words*", "heads.places", "heads.starts"],
    lr_mult={"lmm.base_model.model.vision_tower.*": 0.33},
)
# The last layer of the connector leads to the LLM, which is not asked.
custom_hooks = [
    dict(
        type=FreezeHook,
        freeze=["lmm.*"],
        trainable=[
            "lmm.base_model.model.vision_tower.*",
            *(f"{_inside}.{name}" for name in ("to_width.*", "level", "queries", "qformer.*")),
        ],
    ),
]
train_cfg = dict(max_iters=1000)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = dict(
    _test_loader,
    dataset=dict(
        _captions,
        ann_file="annotations/captions_test.json",
        data_prefix=dict(img="portraits/test"),
        test_mode=True,
        pipeline=[_load, _resize, dict(_ask, answer="majority"), _pack],
    ),
)
test_evaluator = dict(type=RetrievalMetric)
test_cfg = dict(dtype="bfloat16")
