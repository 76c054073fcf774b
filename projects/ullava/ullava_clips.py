"""Clips in which one shape appears, disappears, grows or shrinks: a generator, and ways to hide the order of frames.

    python projects/ullava/ullava_clips.py data/clips

writes ``{train,val,test}/*.webp`` and for each split ``annotations/questions_*.json`` and ``captions_*.json``. The same
seed gives the same bytes.
"""

import argparse
import colorsys
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from lumen.data.shapes import CATEGORIES, COLOURS, IMAGE_SIZE, ShapeObject, draw_scene
from lumen.data.shapes.outlines import RING_HOLE, outline
from lumen.errors import DataError
from lumen.options import check_choice
from lumen.registry import TRANSFORMS
from lumen.serialization.atomic import publish_folder, temporary_folder

NUM_FRAMES = 8
KINDS = ("appear", "disappear", "grow", "shrink")
TIMES = tuple(time for time in range(1, NUM_FRAMES) if time != NUM_FRAMES // 2)
"""First frame after an event. Without the middle one, each state is as often the longer one, and the one in the middle,
whatever the kind of the event: the middle frame tells nothing, and neither do all frames without their order."""
ORDERS = ("kept", "middle", "shuffled", "reversed")

_FIRST_IDS = {"train": 1, "val": 1_000_001, "test": 2_000_001}
_GROWTH = 1.8
_SIDES = (16.0, 24.0)  # of the small state; a shape that appears has the side of either state
_SUPERSAMPLE = 4
_TRIES = 64
_STREAM = 11  # keeps events apart from the random numbers of scenes
_FRAME_MS = 125
_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Event:
    """What happens in a clip.

    Args:
        kind: One of ``KINDS``.
        time: First frame after it, one of ``TIMES``.
        category: Of the shape to which it happens; no other shape of the clip has this category and colour.
        colour: Of that shape.
        centre: (x, y) of the shape, in pixels.
        sides: Square root of the area of the shape's box before and after, in pixels; 0 where it is not there.
    """

    kind: str
    time: int
    category: str
    colour: str
    centre: tuple[float, float]
    sides: tuple[float, float]


def draw_clip(seed: int, split: str, index: int) -> tuple[UInt8[np.ndarray, "frames height width 3"], Event]:
    """Draw one clip, which depends on nothing but the arguments: a scene that stays, and a shape on it that changes."""
    rng = np.random.default_rng([seed, list(_FIRST_IDS).index(split), index, _STREAM])
    scene, objects = draw_scene(seed, split, index)
    event = None
    while event is None:
        event = _sample_event(index, objects, rng)
        if event is None:  # there is no room: another scene
            scene, objects = draw_scene(int(rng.integers(2**31)), split, index)
    before, after = (_paint(scene, event, side) for side in event.sides)
    return np.stack([before if number < event.time else after for number in range(NUM_FRAMES)]), event


def _sample_event(index: int, objects: Sequence[ShapeObject], rng: np.random.Generator) -> Event | None:
    """Draw an event where no shape lies; kinds and times come in turn, so that all are equally frequent."""
    kind, time = KINDS[index % len(KINDS)], TIMES[index // len(KINDS) % len(TIMES)]
    taken = {(item.colour, item.category) for item in objects}
    names = [(colour, category) for colour in COLOURS for category in CATEGORIES if (colour, category) not in taken]
    colour, category = names[rng.integers(len(names))]
    small = rng.uniform(*_SIDES)
    states = (small, small * _GROWTH) if kind in ("grow", "shrink") else (0.0, small * rng.choice([1.0, _GROWTH]))
    sides = tuple(float(side) for side in (states if kind in ("appear", "grow") else states[::-1]))
    occupied = np.any([item.mask for item in objects], 0) if objects else np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    reach = max(sides) * 0.75  # outlines are at most one and a half times as wide as their side
    for _ in range(_TRIES):
        x, y = rng.uniform(reach, IMAGE_SIZE - reach, 2)
        rows, cols = slice(int(y - reach), int(y + reach) + 1), slice(int(x - reach), int(x + reach) + 1)
        if not occupied[rows, cols].any():
            return Event(kind, time, category, colour, (float(x), float(y)), sides)
    return None


def _paint(scene: np.ndarray, event: Event, side: float) -> np.ndarray:
    """Return the scene with the shape of this side on it."""
    if not side:
        return scene
    rim = outline(event.category)
    rim = (rim - (rim.min(0) + rim.max(0)) / 2) / np.sqrt(np.ptp(rim, axis=0).prod())
    canvas = Image.new("L", (IMAGE_SIZE * _SUPERSAMPLE,) * 2)
    pen = ImageDraw.Draw(canvas)
    for scale, ink in ((1.0, 255), (RING_HOLE, 0))[: 2 if event.category == "ring" else 1]:
        points = (rim * side * scale + event.centre) * _SUPERSAMPLE
        pen.polygon([tuple(point) for point in points.tolist()], fill=ink)
    opacity = np.asarray(canvas.reduce(_SUPERSAMPLE), dtype=np.float32)[..., None] / 255
    ink = 255 * np.array(colorsys.hsv_to_rgb(COLOURS[event.colour] / 360, 0.85, 0.95))
    return (scene + opacity * (ink - scene)).round().astype(np.uint8)


def make_clips(out: Path, numbers: dict[str, int], *, seed: int = 0) -> None:
    """Write the data set: a folder that appears only when it is complete.

    Args:
        out: Folder to write; it must not exist.
        numbers: How many clips of each split, ``train``, ``val`` and ``test``.
        seed: Seed of all clips.

    Raises:
        DataError: The folder exists.
    """
    if out.exists():
        raise DataError(f"{out} exists: remove it, or name another folder")
    with temporary_folder(out) as root:
        (root / "annotations").mkdir()
        for split, number in numbers.items():
            (root / split).mkdir()
            records = [_write_clip(root / split, seed, split, index) for index in range(number)]
            head = {"images": [image for image, _, _ in records]}
            tables = {
                "questions": {**head, "questions": [question for _, question, _ in records]},
                "captions": {**head, "annotations": [caption for _, _, caption in records]},
            }
            for name, content in tables.items():
                path = root / "annotations" / f"{name}_{split}.json"
                path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        publish_folder(root, out)


def _write_clip(folder: Path, seed: int, split: str, index: int) -> tuple[dict[str, Any], ...]:
    """Write a clip and return its records: image, question, caption."""
    clip, event = draw_clip(seed, split, index)
    name, ident = f"{index:06d}.webp", _FIRST_IDS[split] + index
    first, *others = map(Image.fromarray, clip)
    first.save(folder / name, save_all=True, append_images=others, duration=_FRAME_MS, quality=_QUALITY, method=2)
    image = {"id": ident, "file_name": name, "width": IMAGE_SIZE, "height": IMAGE_SIZE, "event": asdict(event)}
    what = f"{event.colour} {event.category}"
    pair = KINDS[:2] if event.kind in KINDS[:2] else KINDS[2:]
    choice = pair if index // (len(KINDS) * len(TIMES)) % 2 else pair[::-1]
    question = {
        "id": ident,
        "image_id": ident,
        "question": f"does the {what} {choice[0]} or {choice[1]}?",
        "answer": event.kind,
        "form": "presence" if pair == KINDS[:2] else "size",
    }
    article = "an" if what[0] in "aeiou" else "a"
    return image, question, {"id": ident, "image_id": ident, "caption": f"{article} {what} {event.kind}s"}


@TRANSFORMS.register_module()
class OrderFrames:
    """Change the order of the frames, to measure what is answered without it.

    Reads and writes ``image``, a clip.

    Args:
        order: ``kept``; ``middle`` shows the frame in the middle all the time; ``shuffled`` draws an order;
            ``reversed`` plays the clip backwards, which makes the other answer the right one.

    Raises:
        ConfigError: There is no such order.
    """

    def __init__(self, *, order: str = "kept") -> None:
        check_choice("OrderFrames.order", order, ORDERS)
        self.order = order

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reorder the frames.

        Raises:
            DataError: The sample is a single image.
        """
        clip = results["image"]
        if clip.ndim != 4:
            raise DataError(f"OrderFrames needs a clip (frames, height, width, 3), got {clip.shape}: use LoadClip")
        count = len(clip)
        if self.order == "middle":
            clip = clip[[count // 2] * count]
        elif self.order == "shuffled":
            clip = clip[np.random.permutation(count)]
        elif self.order == "reversed":
            clip = clip[::-1]
        results["image"] = np.ascontiguousarray(clip)
        return results


def main() -> None:
    """Write all splits."""
    parser = argparse.ArgumentParser(description="Generate clips of shapes.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--num-train", type=int, default=2400)
    parser.add_argument("--num-val", type=int, default=240)
    parser.add_argument("--num-test", type=int, default=480)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    numbers = {split: getattr(arguments, f"num_{split}") for split in _FIRST_IDS}
    make_clips(arguments.out, numbers, seed=arguments.seed)


if __name__ == "__main__":
    main()
