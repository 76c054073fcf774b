"""A nano of four layers with the decoders of what COCO 2017 annotates: boxes, masks, keypoints of persons, captions."""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.text import CaptionDecoder

with read_base():
    from .nano import _aligner, _lmm, _model

_lmm.update(
    name_or_path="data/nano4", generation=dict(max_new_tokens=96)
)  # captions take up to 72 of nano's small tokens
_aligner["heat"]["point_sigma"] = 1.5  # of 40 x 40 cells; the paper's 2 is for its grid

model = dict(
    _model,
    input_hw=(320, 320),
    decoders=[
        dict(type=DetectionDecoder),
        dict(type=SegmentationDecoder),
        dict(type=PoseDecoder),
        dict(type=CaptionDecoder),
    ],
    loss_weights={
        "lmm/loss_phrase_reconstruction": 0.5,
        "lmm/loss_text": 1.0,
        "aligner/loss_presence": 0.5,
        "detection/loss_box": 2.0,
        "segmentation/loss_box": 2.0,
    },
)
