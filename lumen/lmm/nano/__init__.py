"""Nano: a tiny LMM made of transformers' classes. Importing it registers its towers with transformers."""

from lumen.lmm.nano import efficientnet, vision

__all__ = ["efficientnet", "vision"]
