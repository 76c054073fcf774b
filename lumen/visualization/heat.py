"""Heatmaps over their image."""

import numpy as np
from jaxtyping import Float

from lumen.visualization.canvas import RgbImage, magnification, magnified, with_caption

# Dark violet, magenta, orange, pale yellow: grows in lightness, so that it also reads in grey.
_HEAT_STOPS = np.array([[20, 11, 53], [129, 37, 129], [229, 80, 57], [252, 165, 10], [252, 255, 164]], dtype=np.float32)


def draw_heatmap(
    image: RgbImage, heat: Float[np.ndarray, "rows cols"], title: str = "", *, strength: float = 0.75
) -> RgbImage:
    """Lay a heatmap over its image: grey where it is 0, bright where it is 1.

    Args:
        image: The image, which is left as it is.
        heat: Values from 0 to 1, one per pixel of ``image``. Not stretched: a weak map looks weak.
        title: Written below the picture, with the highest value; nothing where empty.
        strength: Opacity of the colours where the heatmap is 1.

    Returns:
        The picture; a small image is magnified by a whole number.

    Raises:
        ValueError: If the heatmap has another size than the image.
    """
    if heat.shape != image.shape[:2]:
        raise ValueError(f"the heatmap covers {heat.shape} pixels (height, width), the image has {image.shape[:2]}")
    heat = np.nan_to_num(heat.astype(np.float32)).clip(0, 1)
    grey = image.astype(np.float32).mean(-1, keepdims=True) * 0.6
    # The square root shows weak answers, too.
    opacity = np.sqrt(heat)[..., None] * strength
    mixed = grey * (1 - opacity) + heat_colours(heat) * opacity
    canvas = magnified(mixed.round().astype(np.uint8), magnification(image.shape[:2]))
    if title:
        canvas = with_caption(canvas, f"{title}   max {float(heat.max(initial=0)):.2f}")
    return np.array(canvas)


def spread_heat(
    heat: Float[np.ndarray, "height width"], stride: int, size_hw: tuple[int, int]
) -> Float[np.ndarray, "rows cols"]:
    """Return a heatmap per pixel of an image: cells as they are, so that their borders can be seen.

    Args:
        heat: One value per cell.
        stride: Pixels per cell.
        size_hw: Height and width of the image; 0 where no cell lies.
    """
    spread = heat.repeat(stride, 0).repeat(stride, 1)[: size_hw[0], : size_hw[1]]
    return np.pad(spread, ((0, size_hw[0] - spread.shape[0]), (0, size_hw[1] - spread.shape[1])))


def heat_colours(heat: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width 3"]:
    """Return colours from 0 to 255 for values from 0 to 1."""
    places = np.linspace(0, 1, len(_HEAT_STOPS))
    channels = [np.interp(heat, places, _HEAT_STOPS[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).astype(np.float32)
