"""The demo's training with the paper's box head: [H] and [W], whose maps are read at the peaks; see docs/ablations.md.

python tools/ablate.py run --cell paper_head
"""

from mmengine.config import read_base

from lumen.decoders.detection_paper import PaperDetectionDecoder

with read_base():
    from .base import *

model["decoders"] = [dict(type=PaperDetectionDecoder)]
model["loss_weights"] = {"aligner/loss_presence": 0.5, "detection/loss_size": 0.2}
