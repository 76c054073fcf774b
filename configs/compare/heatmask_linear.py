"""A mask from the heatmap: its peak chooses a kernel that reads maps of the image. A cell of docs/comparison.md.

python tools/compare.py run --cell heatmask_linear --seed 0
"""

from mmengine.config import read_base

from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder

with read_base():
    from .._base_.compare_masks import *
    from .._base_.nano import _aligner
    from .._base_.schedule_nano import _tokens

model = dict(
    _model,
    aligner=_aligner,
    decoders=[dict(type=ReferringSegmentationDecoder)],
    loss_weights={"aligner/loss_presence": 0.5, "referring_segmentation/loss_box": 2.0},
)
optim_wrapper["paramwise_cfg"]["adamw"] = _tokens
optim_wrapper["paramwise_cfg"]["lr_mult"].update(dict.fromkeys(_tokens, 0.1))
