"""What can be answered without looking: the figures that a model has to beat on the person world.

    python projects/lman/lman_blind.py data/persons

A mean pose and a mean layout know the box of the person; the nearest neighbour by colour knows the person's pixels. A
figure above its bound means that the pictures are too easy: then the generator must change.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from lman_metrics import rank_identities
from lman_world.figure import PARTS
from PIL import Image
from pycocotools import mask as rle_codec

from lumen.data.annotations import load_json
from lumen.errors import DataError

BOUNDS = {"mean_pose_pck": 0.45, "mean_layout_miou": 0.30, "colour_rank_1": 0.45}
"""Largest value of each figure."""

_CELLS = 32
_BINS = 6


@dataclass(frozen=True, slots=True)
class Portraits:
    """Pictures of one person each.

    Args:
        boxes: The person, x, y, width, height in pixels.
        points: Keypoints in pixels.
        parts: Number of the part at each pixel, 0 for none.
    """

    boxes: Float[np.ndarray, "n 4"]
    points: Float[np.ndarray, "n k 2"]
    parts: UInt8[np.ndarray, "n height width"]


def mean_pose_pck(train: Portraits, test: Portraits) -> float:
    """Return PCK@.1 (longer side of the box) of the mean pose of training, put into each box."""
    relative = (train.points - train.boxes[:, None, :2]) / train.boxes[:, None, 2:]
    guess = relative.mean(0) * test.boxes[:, None, 2:] + test.boxes[:, None, :2]
    distance = np.linalg.norm(guess - test.points, axis=-1)
    return float((distance <= 0.1 * test.boxes[:, 2:].max(1)[:, None]).mean())


def mean_layout_miou(train: Portraits, test: Portraits) -> float:
    """Return the mean IoU, background among the classes, of the most frequent part at each place of the box."""
    crops = np.stack([_resize(_crop(*each), (_CELLS, _CELLS)) for each in zip(train.parts, train.boxes, strict=True)])
    layout = np.argmax([(crops == part).sum(0) for part in range(len(PARTS) + 1)], axis=0).astype(np.uint8)
    areas = np.zeros((3, len(PARTS) + 1), dtype=np.int64)
    for parts, box in zip(test.parts, test.boxes, strict=True):
        guess = np.zeros_like(parts)
        window = _crop(guess, box)
        window[:] = _resize(layout, window.shape)
        chosen = (parts[parts == guess], parts.ravel(), guess.ravel())
        areas += np.stack([np.bincount(values, minlength=len(PARTS) + 1) for values in chosen])
    common, true, found = areas
    return float((common / np.maximum(true + found - common, 1))[true > 0].mean())


def colour_rank_1(
    colours: Float[np.ndarray, "n bins"], identities: Int[np.ndarray, " n"], cameras: Int[np.ndarray, " n"]
) -> float:
    """Return rank-1 of the nearest neighbour by the overlap of histograms, among pictures of other cameras alone.

    Among all pictures it would find the twin by the same camera, whose colours are the same.
    """
    overlap = np.stack([np.minimum(each, colours).sum(1) for each in colours])
    return rank_identities(overlap, identities, cameras, other_cameras_only=True).rank_1


def colour_histogram(pixels: UInt8[np.ndarray, "n 3"]) -> Float[np.ndarray, " bins"]:
    """Return the shares of the colours of some pixels."""
    places = (pixels.astype(int) * _BINS // 256) @ (1, _BINS, _BINS**2)
    return np.bincount(places, minlength=_BINS**3) / max(len(pixels), 1)


def _crop(parts: np.ndarray, box: np.ndarray) -> np.ndarray:
    x, y, width, height = (round(float(value)) for value in box)
    return parts[y : y + height, x : x + width]


def _resize(parts: np.ndarray, shape_hw: tuple[int, ...]) -> np.ndarray:
    return np.asarray(Image.fromarray(parts).resize(shape_hw[::-1], Image.Resampling.NEAREST))


# --- from files -------------------------------------------------------------------------------------------------------


def read_portraits(root: Path, split: str, limit: int | None = None) -> Portraits:
    """Read the portraits of a split, the first ones up to a number."""
    content = load_json(root / "annotations" / f"portraits_{split}.json")
    name_of = {image["id"]: image["file_name"] for image in content["images"]}
    persons = content["annotations"][:limit]
    points = np.array([person["keypoints"] for person in persons], dtype=float).reshape(len(persons), -1, 3)
    folder = root / "parts" / "portraits" / split
    parts = [np.asarray(Image.open((folder / name_of[each["image_id"]]).with_suffix(".png"))) for each in persons]
    return Portraits(np.array([person["bbox"] for person in persons], dtype=float), points[..., :2], np.stack(parts))


def read_colours(root: Path, split: str, limit: int | None = None) -> dict[str, np.ndarray]:
    """Read the arguments of ``colour_rank_1``: histograms of the pixels of each person."""
    content = load_json(root / "annotations" / f"identities_{split}.json")
    name_of = {image["id"]: image["file_name"] for image in content["images"]}
    persons, colours = content["annotations"][:limit], []
    for person in persons:
        image = np.asarray(Image.open(root / "identities" / split / name_of[person["image_id"]]))
        colours.append(colour_histogram(image[rle_codec.decode(person["segmentation"]) > 0]))
    identities, cameras = (np.array([person[key] for person in persons]) for key in ("identity", "camera"))
    return {"colours": np.stack(colours), "identities": identities, "cameras": cameras}


def blind_figures(root: Path, limit: int | None = None) -> dict[str, float]:
    """Return each figure of ``BOUNDS`` on the test split; the means are those of the training split."""
    train, test = (read_portraits(root, split, limit) for split in ("train", "test"))
    return {
        "mean_pose_pck": mean_pose_pck(train, test),
        "mean_layout_miou": mean_layout_miou(train, test),
        "colour_rank_1": colour_rank_1(**read_colours(root, "test", limit)),
    }


def above_bounds(figures: Mapping[str, float]) -> list[str]:
    """Return the names of the figures that are above their bounds."""
    return [name for name, bound in BOUNDS.items() if figures[name] > bound]


def main() -> None:
    """Print the figures; fail where one is above its bound."""
    parser = argparse.ArgumentParser(description="Figures that a model has to beat on the person world.")
    parser.add_argument("root", type=Path, nargs="?", default=Path("data/persons"), help="folder of the data set")
    try:
        figures = blind_figures(parser.parse_args().root)
    except (DataError, FileNotFoundError) as error:
        sys.exit(f"error: {error}; python projects/lman/make_persons.py makes the data set")
    for name, value in figures.items():
        print(f"{name:18} {value:.3f}  (at most {BOUNDS[name]})")
    if above_bounds(figures):
        sys.exit(f"above their bounds: {above_bounds(figures)}")


if __name__ == "__main__":
    main()
