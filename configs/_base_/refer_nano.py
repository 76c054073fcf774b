"""Referring sentences for nano: what ``grounding/`` and ``referring_segmentation/`` share.

The files of lichengunc/refer lie in ``data/refer``, the photographs (COCO's train2014) where its README puts them.
"""

from mmengine.config import read_base

from lumen.data.refer import AskSentences, ReferDataset

with read_base():
    from .real_nano import *

_data = dict(
    type=ReferDataset,
    layout="refer",
    data_root="data/refer",
    data_prefix=dict(img="images/mscoco/images/train2014"),
)
# A mirrored view says "left" for "right". No view zooms: that could cut off what "the leftmost" means.
_resize["scale_range"] = None
_pipeline = [_load, _resize, _colour, dict(type=AskSentences, num_prompts=8, exchange_sides=True), _pack]
_val_pipeline = [_load, _val_resize, dict(type=AskSentences, num_prompts=None, shuffle=False), _pack]
