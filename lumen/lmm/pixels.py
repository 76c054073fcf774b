"""From raw pixels to what a vision tower takes, as a model's image processor would do it without its geometry.

The data pipeline has resized the image already, so only rescaling and normalising are left, done on the whole batch.
``AutoProcessor`` needs torchvision for several families; the numbers it would use lie in a small file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import ImageProcessingMixin

from lumen.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """How raw pixels become ``pixel_values``: (value * scale - mean) / std, per channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 height width"]:
        """Return ``pixel_values`` of a uint8 RGB batch; equal to the image processor's without its geometry."""
        factor = torch.tensor([self.scale / value for value in self.std])
        shift = torch.tensor(self.mean) / torch.tensor(self.std)
        factor, shift = (each.view(3, 1, 1).to(images.device, non_blocking=True) for each in (factor, shift))
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        return pixels.mul_(factor).sub_(shift)


def load_statistics(name_or_path: str) -> ImageStatistics:
    """Read the statistics from the settings of a model's image processor, without building it.

    ``do_rescale`` and ``do_normalize`` count: without them, scale and statistics are 1, 0 and 1.

    Raises:
        ConfigError: If the settings lack a number.
    """
    settings, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
    numbers: dict[str, float | Sequence[float] | None] = {"rescale_factor": 1.0, "image_mean": 0.0, "image_std": 1.0}
    if settings.get("do_rescale") is not False:
        numbers["rescale_factor"] = settings.get("rescale_factor", 1 / 255)
    if settings.get("do_normalize") is not False:
        numbers |= {name: settings.get(name) for name in ("image_mean", "image_std")}
    lacking = sorted(name for name, value in numbers.items() if value is None)
    if lacking:
        raise ConfigError(f"preprocessor_config.json of {name_or_path} lacks {lacking}: write them there")
    return ImageStatistics(
        float(numbers["rescale_factor"]), _per_channel(numbers["image_mean"]), _per_channel(numbers["image_std"])
    )


def _per_channel(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(value)
