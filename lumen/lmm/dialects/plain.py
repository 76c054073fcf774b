"""Shares of the sides with three decimals: what an LMM is taught here that has no way of its own to write boxes."""

from lumen.codecs import BoxCodec
from lumen.lmm.dialects.dialect import Dialect

DECIMALS = Dialect("decimals", question="Where is {text}? Answer with boxes.", codec=BoxCodec())
