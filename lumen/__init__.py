"""Lumen: one shared vision-language heatmap from a large multimodal model, read by tiny task decoders."""

__version__ = "0.1.0"
