"""Texts about a view of shapes, made on the fly from the labels of its objects: relations, and lists of all shapes."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from lumen.corner_words import CornerWords
from lumen.data.shapes.language import anchors_of, listing, with_article
from lumen.data.shapes.outlines import CATEGORIES
from lumen.data.shapes.phrases import DIRECTIONS, Query
from lumen.data.shapes.scene import COLOURS, SIZES, TEXTURES, ShapeObject
from lumen.registry import TRANSFORMS
from lumen.structures import Prompt

_CELL = 16
_NO_MASK = np.zeros((0, 0), dtype=bool)
_NO_POINTS = np.zeros((5, 3))


@TRANSFORMS.register_module()
class AskRelations:
    """Ask whether one shape lies left of, right of, above or below another; half of the answers are yes.

    Reads ``objects`` with ``colour``, ``texture`` and ``size``, of ``KeepObjects``; adds to ``prompts``. The questions
    are worded as those of the files, and agree with the view: a mirrored one needs no other words.

    Args:
        num_prompts: Number of questions at most.
        weight: How much each answer counts where it is learned.
    """

    def __init__(self, *, num_prompts: int = 4, weight: float = 1.0) -> None:
        self.num_prompts = num_prompts
        self.weight = weight

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts."""
        objects = shapes_of(results["objects"])
        described = list(anchors_of(objects).values())
        pairs = list(permutations(described, 2))
        asked: dict[Prompt, None] = {}
        for place in np.random.permutation(len(pairs))[: self.num_prompts].tolist():
            subject, anchor = pairs[place]
            wanted = np.random.random() < 0.5
            answers = {name: Query(subject, name, anchor).find(objects) for name in DIRECTIONS}
            fitting = [name for name, found in answers.items() if found is not None and bool(found) == wanted]
            if fitting:
                relation = fitting[np.random.randint(len(fitting))]
                text = f"is the {subject.text} {relation} the {anchor.text}?"
                asked[Prompt(text, "vqa", answer="yes" if wanted else "no", weight=self.weight)] = None
        results["prompts"] = (*results["prompts"], *asked)
        return results


@TRANSFORMS.register_module()
class ListShapes:
    """Ask for a list of all shapes, row by row: as a caption, or with texture and written box.

    Reads ``objects`` and ``frame``; adds to ``prompts``.

    Args:
        caption_share: How often a caption is asked, otherwise the list with boxes.
        bins: See ``CornerWords``.
        weight: How much each answer counts where it is learned.
    """

    question = "name every shape with its place."

    def __init__(self, *, caption_share: float = 0.5, bins: int = 40, weight: float = 1.0) -> None:
        self.caption_share = caption_share
        self.words = CornerWords(bins)
        self.weight = weight

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add a prompt; none for an image without shapes."""
        objects = shapes_of(results["objects"])
        if not objects:
            return results
        order = sorted(range(len(objects)), key=lambda number: _reading_order(objects[number]))
        if np.random.random() < self.caption_share:
            looks = [f"{objects[number].colour} {objects[number].category}" for number in order]
            answer = f"There is {listing([with_article(look) for look in looks])}."
            prompt = Prompt("", "caption", answer=answer, weight=self.weight)
        else:
            boxes = results["objects"]["bboxes"].tolist()
            parts = [self._with_box(objects[number], boxes[number], results) for number in order]
            prompt = Prompt(self.question, "vqa", answer=", ".join(parts), weight=self.weight)
        results["prompts"] = (*results["prompts"], prompt)
        return results

    def _with_box(self, item: ShapeObject, box: Sequence[float], results: Mapping[str, Any]) -> str:
        look = f"{item.texture} {item.colour} {item.category}"
        return f"{look}{self.words.encode([box], results['frame'].input_hw)}"


def shapes_of(objects: Mapping[str, Any]) -> list[ShapeObject]:
    """Return the objects of a view as shapes, with the middle and the side of their boxes, without masks."""
    columns = (objects[name].tolist() for name in ("labels", "colour", "texture", "size", "bboxes"))
    return [
        ShapeObject(
            category=CATEGORIES[label],
            colour=tuple(COLOURS)[colour],
            texture=TEXTURES[texture],
            size=SIZES[size],
            side=((x1 - x0) * (y1 - y0)) ** 0.5,
            centre=((x0 + x1) / 2, (y0 + y1) / 2),
            mask=_NO_MASK,
            keypoints=_NO_POINTS,
            visible_fraction=1.0,
        )
        for label, colour, texture, size, (x0, y0, x1, y1) in zip(*columns, strict=True)
    ]


def _reading_order(item: ShapeObject) -> tuple[int, float]:
    return int(item.centre[1] // _CELL), item.centre[0]
