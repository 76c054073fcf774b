"""How an image lies in the square that Segment Anything sees."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

# The statistics of ImageNet, on which both families were trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class SamView:
    """Images of any size in SAM's square, and what SAM answers about the square back on the image.

    Args:
        side: Side of the square in pixels.
        is_stretched: Whether an image is stretched to the square (SAM 2); else it is padded to it, right and below.
    """

    side: int
    is_stretched: bool

    def prepare(
        self, images: UInt8[Tensor, "images 3 height width"], dtype: torch.dtype
    ) -> Float[Tensor, "images 3 side side"]:
        """Return images as SAM takes them."""
        height, width = images.shape[-2:]
        scale_x, scale_y = self.scale_xy((height, width))
        size = (round(height * scale_y), round(width * scale_x))
        pixels = functional.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) * 255 for values in (_MEAN, _STD))
        padding = (0, self.side - size[1], 0, self.side - size[0])
        return functional.pad((pixels - mean) / std, padding).to(dtype)

    def scale_xy(self, size_hw: tuple[int, int]) -> tuple[float, float]:
        """Return pixels of the square per pixel of an image of this size, along x and y."""
        height, width = size_hw
        if self.is_stretched:
            return self.side / width, self.side / height
        return (self.side / max(size_hw),) * 2

    def rows_cols(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the grid of the answers: SAM's own of a quarter of the square, without the padding."""
        scale_x, scale_y = self.scale_xy(size_hw)
        return max(1, round(size_hw[0] * scale_y / 4)), max(1, round(size_hw[1] * scale_x / 4))

    def cut(self, logits: Float[Tensor, "n 1 side side"], size_hw: tuple[int, int]) -> Float[Tensor, "n rows cols"]:
        """Read the part of the square that the image covers; it need not end between two cells."""
        rows, cols = self.rows_cols(size_hw)
        scale_x, scale_y = self.scale_xy(size_hw)
        # grid_sample counts from -1 to 1 over the whole square.
        x = (torch.arange(cols, device=logits.device) + 0.5) / cols * (2 * size_hw[1] * scale_x / self.side) - 1
        y = (torch.arange(rows, device=logits.device) + 0.5) / rows * (2 * size_hw[0] * scale_y / self.side) - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        return functional.grid_sample(
            logits.transpose(0, 1), grid[None], mode="bilinear", padding_mode="border", align_corners=False
        )[0]
