"""Detection on the packaged nano, which sees already: aligner and decoder learn, as the paper's do on LLaVA.

The training of ``make demo``. ``[LOC]`` is new to the LMM: its tower goes on learning, its LLM at a fifth of the rate.

Expected: AP .69, AP50 .89 on val, no false alarm on 100 foreign names; 300 CPU seconds.

    python tools/make_shapes.py
    python tools/train.py configs/detection/detection_seeing_shapes.py
    python tools/test.py configs/detection/detection_seeing_shapes.py work_dirs/detection_seeing_shapes
"""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder

with read_base():
    from lumen.recipes.packaged_nano import *

    from .._base_.detection_coco import *
    from .._base_.runtime import *

model = dict(
    _model,
    input_hw=(160, 160),
    decoders=[dict(type=DetectionDecoder)],
    loss_weights={"aligner/loss_presence": 0.5, "detection/loss_box": 2.0},
)
_ask.update(num_prompts=6, negatives="everyday", num_negatives=4)  # one class must not answer to every name
train_cfg = dict(max_iters=1050)
