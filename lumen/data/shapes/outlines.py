"""Outlines and keypoints of the eight categories, in a unit frame: x to the right, y down, radius about one.

A shape with n-fold symmetry looks the same after 360 / n degrees, so its points could not be named if it turned
freely. ``MAX_TURN`` keeps each shape within four fifths of half that angle: "top corner" then always means one corner.
"""

from functools import cache

import numpy as np
from jaxtyping import Float

CATEGORIES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "arrow")

_SIDES = ("centre", "top", "right", "bottom", "left")
KEYPOINTS: dict[str, tuple[str, ...]] = {
    "circle": _SIDES,
    "square": ("centre", "top left corner", "top right corner", "bottom right corner", "bottom left corner"),
    "triangle": ("centre", "top corner", "right corner", "left corner", "middle of the base"),
    "star": ("top tip", "upper right tip", "lower right tip", "lower left tip", "upper left tip"),
    "cross": ("centre", "top end", "right end", "bottom end", "left end"),
    "ring": _SIDES,
    "heart": ("centre", "notch", "right lobe", "tip", "left lobe"),
    "arrow": ("centre", "tip", "right barb", "tail", "left barb"),
}
"""Names of the five keypoints of each category. Hearts and arrows turn freely: their sides turn with them."""

NUM_KEYPOINTS = 5
MAX_TURN = {
    "circle": 180,
    "square": 36,
    "triangle": 48,
    "star": 29,
    "cross": 36,
    "ring": 180,
    "heart": 180,
    "arrow": 180,
}
"""Largest turn in degrees, either way."""

RING_HOLE = 0.55
_ROUND = ("circle", "ring")


@cache
def outline(category: str) -> Float[np.ndarray, "n 2"]:
    """Return the outer outline of a category as (x, y) in the unit frame.

    Raises:
        ValueError: If the category is unknown.
    """
    if category in _ROUND:
        return _polar(48)
    if category == "square":
        return np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])
    if category == "triangle":
        return _polar(3)
    if category == "star":
        return _polar(10) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]
    if category == "cross":
        a = 0.33
        arm = np.array([(-a, -a), (-a, -1), (a, -1)])
        turn = np.array([(0, 1), (-1, 0)])  # a quarter turn, applied from the right
        return np.concatenate([arm @ np.linalg.matrix_power(turn, k) for k in range(4)])
    if category == "heart":
        return _heart(np.linspace(0, 2 * np.pi, 48, endpoint=False))
    if category == "arrow":
        right = [(0, -1), (0.8, -0.05), (0.3, -0.05), (0.3, 1)]
        return np.array(right + [(-x, y) for x, y in right[:0:-1]])
    raise ValueError(f"unknown category {category!r}, expected one of {CATEGORIES}")


def keypoints(category: str, matrix: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "5 2"]:
    """Return the keypoints as (x, y) after the linear map ``matrix``, in the order of ``KEYPOINTS``."""
    if category in _ROUND:
        return _round_keypoints(matrix)
    return _unit_keypoints(category) @ matrix.T


def _round_keypoints(matrix: np.ndarray) -> np.ndarray:
    """Return centre and extreme points of an ellipse. The points of a circle turn with it, its extremes do not."""
    directions = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)], dtype=float)
    # The extreme point of an ellipse M(circle) in direction d is M M^T d over the length of M^T d.
    pulled = directions @ matrix
    extremes = (pulled / np.linalg.norm(pulled, axis=1, keepdims=True)) @ matrix.T
    return np.concatenate([np.zeros((1, 2)), extremes])


@cache
def _unit_keypoints(category: str) -> np.ndarray:
    centre = np.zeros((1, 2))
    corners = outline(category)
    if category == "square":
        return np.concatenate([centre, corners])
    if category == "triangle":
        return np.concatenate([centre, corners, corners[1:].mean(0, keepdims=True)])
    if category == "star":
        return corners[::2]
    if category == "cross":
        return np.array([(0, 0), (0, -1), (1, 0), (0, 1), (-1, 0)], dtype=float)
    if category == "heart":
        lobe = np.arccos(0.6)
        return np.concatenate([centre, _heart(np.array([0, lobe, np.pi, -lobe]))])
    return np.array([(0, 0), (0, -1), (0.8, -0.05), (0, 1), (-0.8, -0.05)])


def _polar(num_points: int) -> np.ndarray:
    """Return points on the unit circle, the first at the top, clockwise as seen."""
    angle = 2 * np.pi * np.arange(num_points) / num_points
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _heart(t: np.ndarray) -> np.ndarray:
    """Return points of the well-known heart curve; t = 0 is the notch, t = pi the tip."""
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1) / 17
