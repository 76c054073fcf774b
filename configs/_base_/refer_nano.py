"""Referring sentences for nano: what ``grounding/`` and ``referring_segmentation/`` share.

The files of lichengunc/refer lie in ``data/refer``, the photographs (COCO's train2014) where its README puts them.
"""

from lumen.data.refer import AskSentences, ReferDataset
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.referring_segmentation import ReferringSegmentationDecoder
from lumen.metrics.refer import GroundingMetric, ReferringMaskMetric

_data = dict(
    type=ReferDataset,
    layout="refer",
    data_root="data/refer",
    data_prefix=dict(img="images/mscoco/images/train2014"),
)
# A mirrored view says "left" for "right". No view zooms: that could cut off what "the leftmost" means.
_ask = dict(type=AskSentences, num_prompts=8, exchange_sides=True)
_ask_all = dict(type=AskSentences, num_prompts=None, shuffle=False)
_boxes = dict(type=GroundingDecoder)
_masks = dict(type=ReferringSegmentationDecoder)
_box_metric = dict(type=GroundingMetric)
_mask_metric = dict(type=ReferringMaskMetric)
_refer_weights = {"lmm/loss_phrase_reconstruction": 0.5, "aligner/loss_presence": 0.5}
