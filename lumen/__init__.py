"""Lumen: one shared vision-language heatmap from a large multimodal model, read by tiny task decoders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumen.inference.hub import push_to_hub
    from lumen.inference.predictor import LumenPredictor
    from lumen.model import Lumen

__version__ = "0.1.0"
__all__ = ["Lumen", "LumenPredictor", "__version__", "push_to_hub"]

_HOMES = {
    "Lumen": "lumen.model",
    "LumenPredictor": "lumen.inference.predictor",
    "push_to_hub": "lumen.inference.hub",
}


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for: ``import lumen`` alone imports no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {__all__}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
