"""From the coarse grid of an image to a finer one, once per image."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from lumen.errors import ConfigError


class FinePath(nn.Module):
    """Upsample a coarse image map to a finer lateral map of the tower, adding each lateral on the way.

    Args:
        channels: Of the image map.
        laterals: Channels of all lateral maps, finest first.
        num_levels: How many of them are added, the coarsest first.

    Raises:
        ConfigError: There are fewer, or the number is negative.
    """

    def __init__(self, channels: int, laterals: Sequence[int], num_levels: int) -> None:
        super().__init__()
        if not 0 <= num_levels <= len(laterals):
            raise ConfigError(f"fine_levels={num_levels}, but the LMM has {len(laterals)} finer maps")
        lateral_channels = list(reversed(laterals))[:num_levels]
        self.num_levels = num_levels
        self.laterals = nn.ModuleList(nn.Conv2d(lateral, channels, 1, bias=False) for lateral in lateral_channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in lateral_channels)
        self.mixes = nn.ModuleList(nn.Sequential(_mix(channels), _mix(channels)) for _ in lateral_channels)

    def forward(self, image: Tensor, laterals: Sequence[Tensor]) -> Tensor:
        """Return the dense map: ``image`` itself where there are no levels. ``laterals`` come finest first."""
        chosen = list(reversed(laterals))[: self.num_levels]
        for lateral, project, norm, mix in zip(chosen, self.laterals, self.norms, self.mixes, strict=True):
            image = functional.interpolate(image, size=lateral.shape[-2:], mode="nearest")
            image = mix(functional.silu(image + norm(project(lateral))))
        return image


def _mix(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.SiLU(inplace=True)
    )
