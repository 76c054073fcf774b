"""Colours of shapes with nano: the data set, the task and its metric are ours, the rest is that of detection.

python tools/train.py projects/colour_naming/colour_nano_shapes.py
python tools/test.py projects/colour_naming/colour_nano_shapes.py work_dirs/colour_nano_shapes
"""

from colour_decoder import ColourAccuracy, ColourDataset, ColourNamingDecoder
from mmengine.config import read_base

from lumen.model import Lumen

with read_base():
    from ...configs._base_.detection_coco import *
    from ...configs._base_.nano import _aligner, _lmm
    from ...configs._base_.runtime import *
    from ...configs._base_.schedule_nano import *

# The token is one that the model has already, so that the decoder can be added to any model.
_lmm["tasks"] = [dict(name="colour_naming", answer_format="boxes", routing_token="[DET]")]
model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=_aligner,
    decoders=[dict(type=ColourNamingDecoder)],
    loss_weights={"lmm/loss_phrase_reconstruction": 0.5, "aligner/loss_presence": 0.5, "colour_naming/loss_box": 2.0},
)

for _loader in (train_dataloader, val_dataloader):
    _loader["dataset"]["type"] = ColourDataset
    _loader["dataset"]["pipeline"][2].update(task="colour_naming", fields=["colours"])
test_dataloader = val_dataloader
val_evaluator = dict(type=ColourAccuracy)
test_evaluator = val_evaluator

train_cfg = dict(max_iters=1000, val_interval=1000)
