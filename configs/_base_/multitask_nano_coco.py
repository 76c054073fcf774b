"""A nano of four layers with the decoders of what COCO 2017 annotates: boxes, masks, keypoints of persons, captions."""

from mmengine.config import read_base

from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.decoders.text import CaptionDecoder
from lumen.model import Lumen

with read_base():
    from .nano import _aligner, _lmm

model = dict(
    type=Lumen,
    # Captions take up to 72 of nano's small tokens.
    lmm=dict(_lmm, name_or_path="data/nano4", generation=dict(max_new_tokens=96)),
    # Of 40 x 40 cells; the paper's 2 is for its grid.
    aligner=dict(_aligner, heat=dict(_aligner["heat"], point_sigma=1.5)),
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
