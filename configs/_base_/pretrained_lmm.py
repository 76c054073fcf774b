"""Fine-tuning of a pretrained LMM on data/mine; see the file that it names."""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.pretrained_lmm import *
