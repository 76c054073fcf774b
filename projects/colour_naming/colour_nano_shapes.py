"""Colours of shapes with nano: data set, task and metric come from this folder, everything else from detection.

python tools/train.py projects/colour_naming/colour_nano_shapes.py
python tools/test.py projects/colour_naming/colour_nano_shapes.py work_dirs/colour_nano_shapes
"""

from colour_decoder import ColourAccuracy, ColourDataset, ColourNamingDecoder
from mmengine.config import read_base

with read_base():
    from ...configs._base_.detection_coco import *
    from ...configs._base_.nano import _lmm, _loss_weights, _model
    from ...configs._base_.runtime import *
    from ...configs._base_.schedule_nano import *

# The token is one that the model has already, so that the decoder can be added to any model.
_lmm["tasks"] = [dict(name="colour_naming", answer_format="boxes", routing_token="[DET]")]
model = dict(
    _model,
    input_hw=(160, 160),
    decoders=[dict(type=ColourNamingDecoder)],
    loss_weights={**_loss_weights, "colour_naming/loss_box": 2.0},
)

for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"]["type"] = ColourDataset
val_evaluator = dict(type=ColourAccuracy)
test_evaluator = val_evaluator
train_cfg = dict(max_iters=1000)
