"""The box that a sentence means, from a pretrained LMM: data/mine in COCO's format, with sentences. Not measured.

``train_sentences.json`` holds ``{"refs": [{"image_id": 1, "ann_ids": [7], "sentence": "the left cat"}]}``; its
numbers are those of ``train.json``.
"""

from mmengine.config import read_base

from lumen.data.refer import AskSentences, ReferDataset
from lumen.decoders.grounding import GroundingDecoder
from lumen.metrics.refer import GroundingMetric

with read_base():
    from lumen.recipes.pretrained_lmm import *

_ask = dict(type=AskSentences, num_prompts=8, exchange_sides=True)  # a mirrored view says "left" for "right"
_val_ask = dict(type=AskSentences, num_prompts=None, shuffle=False)
_resize["scale_range"] = None  # a view that zooms could cut off what "the leftmost" means
_sentences = dict(type=ReferDataset, layout="shapes")

model["decoders"] = [dict(type=GroundingDecoder)]
model["loss_weights"]["grounding/loss_box"] = 2.0
_train.update(_sentences, ann_file="train_sentences.json", instances_file="train.json")
_train["pipeline"] = [_load, _resize, _colour, _ask, _pack]
_val.update(_sentences, ann_file="val_sentences.json", instances_file="val.json")
_val["pipeline"] = [_load, _val_resize, _val_ask, _pack]
val_evaluator = dict(type=GroundingMetric)
test_evaluator = val_evaluator
