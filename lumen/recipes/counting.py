"""Counts of objects from a pretrained LMM: data/mine in COCO's format, boxes of all objects. Not measured.

A count is the number of peaks of the heatmap: the decoder itself has no weights to train.
"""

from mmengine.config import read_base

from lumen.decoders.counting import CountingDecoder
from lumen.metrics.counting import CountingMetric

with read_base():
    from lumen.recipes.pretrained_lmm import *

model["decoders"] = [dict(type=CountingDecoder)]
val_evaluator = dict(type=CountingMetric)
test_evaluator = val_evaluator
