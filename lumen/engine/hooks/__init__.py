"""Hooks of training: image files checked beforehand, safe checkpoints, freezing, averaged weights, CPU clock.

A hook keeps what it needs for an exact resume in ``checkpoint['hooks'][<its name>]``, as plain data. On a resume
``after_load_checkpoint`` gets the whole checkpoint; when weights alone are loaded it gets no ``hooks``.
"""

from lumen.engine.hooks.check_images import CheckImagesHook
from lumen.engine.hooks.checkpoint import SafeCheckpointHook
from lumen.engine.hooks.cpu_clock import CpuClockHook
from lumen.engine.hooks.ema import EmaHook
from lumen.engine.hooks.freeze import FreezeHook, eval_frozen_modules, freeze_parameters, parameter_table
from lumen.engine.hooks.tokens import FewTokensHook

__all__ = [
    "CheckImagesHook",
    "CpuClockHook",
    "EmaHook",
    "FewTokensHook",
    "FreezeHook",
    "SafeCheckpointHook",
    "freeze_parameters",
    "parameter_table",
    "eval_frozen_modules",
]
