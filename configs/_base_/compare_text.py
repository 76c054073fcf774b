"""The comparison's readout "text": the LLM writes a box as four words, one for each coordinate.

Source:
    InfMLLM (2023) writes boxes with a connector that pools; L-Man with one that reads by queries. Its words are ours.
"""

from mmengine.config import read_base

from lumen.aligners.none import NoAligner
from lumen.decoders.text_box import TextBoxDecoder

with read_base():
    from .compare_nano import *

model = dict(_model, aligner=dict(type=NoAligner), decoders=[dict(type=TextBoxDecoder)])
