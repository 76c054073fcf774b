"""Four words of the vocabulary for a box, as the seeing nano learns to write them."""

from lumen.corner_words import CornerWords
from lumen.lmm.dialects.dialect import Dialect

CORNER_WORDS = Dialect("corner_words", question="where is {text}?", codec=CornerWords())
