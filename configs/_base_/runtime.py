"""What every run has in common; see the file that it names."""

from mmengine.config import read_base

with read_base():
    from lumen.recipes.runtime import *
