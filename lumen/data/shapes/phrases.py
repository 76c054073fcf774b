"""What a phrase means: descriptions, relations, and which shapes of a scene they pick."""

from collections.abc import Sequence
from dataclasses import dataclass

from lumen.data.shapes.scene import SIZE_BOUNDS, ShapeObject

DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
"""Relations to another shape: axis of the centres (x, y) and the sign of the way."""

SUPERLATIVES = {"leftmost": (0, -1), "rightmost": (0, 1), "highest": (1, -1), "lowest": (1, 1)}
"""Relations to all shapes of the same description: axis of the centres and sign of the extreme."""

SIZE_SUPERLATIVES = {"largest": 1, "smallest": -1}

_CLEAR_PIXELS = 8.0
_CLEAR_RATIO = 1.25
_CLEAR_OF_BOUND = 0.08


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun with any of three attributes, as in "small striped red star"."""

    noun: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    @property
    def text(self) -> str:
        """The words, without an article."""
        return " ".join(word for word in (self.size, self.texture, self.colour, self.noun) if word)

    def find(self, objects: Sequence[ShapeObject]) -> list[int] | None:
        """Return the positions of all shapes that fit, or None if a size is too close to call."""
        fits = [
            number
            for number, item in enumerate(objects)
            if self.noun == item.category
            and self.colour in (None, item.colour)
            and self.texture in (None, item.texture)
        ]
        if self.size is None:
            return fits
        # A size near a bound is neither; the phrase is not used in such a scene.
        if not all(_has_clear_size(objects[number]) for number in fits):
            return None
        return [number for number in fits if objects[number].size == self.size]


@dataclass(frozen=True, slots=True)
class Query:
    """A phrase, possibly with a relation: a direction from an anchor, or a superlative without one."""

    phrase: Phrase
    relation: str | None = None
    anchor: Phrase | None = None

    @property
    def text(self) -> str:
        """The sentence, as "the red star left of the ring" or "the leftmost star"."""
        if self.anchor is not None:
            return f"the {self.phrase.text} {self.relation} the {self.anchor.text}"
        return " ".join(word for word in ("the", self.relation, self.phrase.text) if word)

    def find(self, objects: Sequence[ShapeObject]) -> list[int] | None:
        """Return the positions of the shapes that are meant; None where a person could not tell for sure."""
        fits = self.phrase.find(objects)
        if fits is None or self.relation is None:
            return fits
        if self.relation in DIRECTIONS:
            return _find_beside(self, objects, fits)
        return _find_extreme(self.relation, objects, fits)


def _has_clear_size(item: ShapeObject) -> bool:
    return all(abs(item.side / bound - 1) > _CLEAR_OF_BOUND for bound in SIZE_BOUNDS)


def _find_beside(query: Query, objects: Sequence[ShapeObject], fits: list[int]) -> list[int] | None:
    anchors = query.anchor.find(objects) if query.anchor else None
    if anchors is None or len(anchors) != 1:
        return None
    axis, sign = DIRECTIONS[query.relation or ""]
    origin = objects[anchors[0]].centre[axis]
    ways = {number: sign * (objects[number].centre[axis] - origin) for number in fits if number != anchors[0]}
    # Nearly level with the anchor: two readers could differ.
    if any(abs(way) < _CLEAR_PIXELS for way in ways.values()):
        return None
    return [number for number, way in ways.items() if way > 0]


def _find_extreme(relation: str, objects: Sequence[ShapeObject], fits: list[int]) -> list[int] | None:
    # A superlative needs something to compare with.
    if len(fits) < 2:
        return None
    if relation in SIZE_SUPERLATIVES:
        order = sorted(fits, key=lambda number: -SIZE_SUPERLATIVES[relation] * objects[number].side)
        pair = sorted(objects[number].side for number in order[:2])
        return order[:1] if pair[1] / pair[0] >= _CLEAR_RATIO else None
    axis, sign = SUPERLATIVES[relation]
    order = sorted(fits, key=lambda number: -sign * objects[number].centre[axis])
    gap = abs(objects[order[0]].centre[axis] - objects[order[1]].centre[axis])
    return order[:1] if gap >= _CLEAR_PIXELS else None
