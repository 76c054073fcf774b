"""The packaged nano, which sees already, with a decoder for every task."""

from mmengine.config import read_base

from lumen.decoders.counting import CountingDecoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.text import CaptionDecoder, VqaDecoder

with read_base():
    from .nano import _aligner, _lmm, _model

_lmm["name_or_path"] = "nano"
_lmm["readout"]["name_tokens"] = 3
_aligner["heat"]["point_sigma"] = 1.0

model = dict(
    _model,
    input_hw=(160, 160),
    decoders=[
        dict(type=DetectionDecoder),
        dict(type=SegmentationDecoder),
        dict(type=PoseDecoder),
        dict(type=GroundingDecoder),
        dict(type=ReferringSegmentationDecoder),
        dict(type=CountingDecoder),
        dict(type=VqaDecoder),
        dict(type=CaptionDecoder),
    ],
    loss_weights={
        "lmm/loss_phrase_reconstruction": 0.5,
        "lmm/loss_name": 0.6,
        "lmm/loss_text": 4.0,
        "aligner/loss_presence": 0.5,
        "detection/loss_box": 2.0,
        "segmentation/loss_box": 2.0,
        "grounding/loss_box": 2.0,
        "referring_segmentation/loss_box": 2.0,
    },
)
