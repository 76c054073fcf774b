"""The whole L-Man on nano: a decoder for every task. See ``_lman_nano.py``."""

from attribute_decoder import AttributeDecoder
from mmengine.config import read_base
from reid_decoder import ReidDecoder

from lumen.decoders.counting import CountingDecoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.semantic_segmentation import SemanticSegmentationDecoder
from lumen.decoders.text import VqaDecoder
from lumen.model import Lumen

with read_base():
    from ...configs._base_.nano import _aligner
    from ...configs._base_.schedule_nano import _tokens
    from ._lman_nano import *

_aligner["heat"]["point_sigma"] = 1.0
# Most words of persons are new to nano.
_lmm["readout"]["phrase_reconstruction"] = True
optim_wrapper["paramwise_cfg"] = dict(
    muon=True,
    adamw=_tokens,
    # The tower goes on from what it knows. The connector keeps what captions taught it: at the rate of the LLM it
    # forgets attributes before the LLM can read them.
    lr_mult={
        "lmm.*": 0.5,
        "lmm.*.vision_tower.*": 0.33,
        "lmm.*.multi_modal_projector.*": 0.2,
        "lmm.*.multi_modal_projector.to_tokens.*": 1.0,
        **dict.fromkeys(_tokens, 0.1),
    },
)
model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=_aligner,
    input_hw=(160, 160),
    decoders=[
        dict(type=DetectionDecoder),
        dict(type=PoseDecoder),
        dict(type=SemanticSegmentationDecoder),
        dict(type=CountingDecoder, mode="density"),
        dict(type=AttributeDecoder),
        dict(type=ReidDecoder),
        dict(type=VqaDecoder),
    ],
    # As they come, the gradient of the counts is hundreds of times those of attributes and masks.
    loss_weights={
        "lmm/loss_phrase_reconstruction": 0.5,
        "lmm/loss_text": 4.0,
        "aligner/loss_presence": 0.5,
        "detection/loss_box": 2.0,
        "semantic_segmentation/loss_mask": 4.0,
        "semantic_segmentation/loss_dice": 4.0,
        "counting/loss_count": 0.02,
        "attributes/loss_attribute": 5.0,
    },
)
