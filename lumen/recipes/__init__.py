"""Configs that come with the package, for ``lumen train`` and for configs of your own, in a checkout or without one.

A config inherits one by ``with read_base(): from lumen.recipes.detection import *``.
"""
