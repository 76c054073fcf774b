"""Instructions about persons, built from records of any source: questions and answers for ``QuestionsDataset``.

HumanIns, the data of L-Man, was never published. What is asked here, and how, is OURS, after the public builder of
HERM: pools of questions, places as text, caps on long answers, random subsets of keypoints, fixed negative answers.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lumen.codecs import BoxCodec, PointCodec, PolygonCodec
from lumen.errors import ConfigError

POOLS: Mapping[str, Mapping[str, Any]] = json.loads(Path(__file__).with_name("lman_questions.json").read_text())
"""For each form of question its wordings, and the fixed answers."""

Report = defaultdict[str, list[Any]]
Xy = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """What a source tells of one person; coordinates in pixels.

    Args:
        box: x1, y1, x2, y2; None where the source has none.
        keypoints: Those that are labelled, by name.
        absent: Names of keypoints and parts that the source knows and this person does not show.
        parts: Outline of each part, x, y, x, y and so on.
        attributes: Whether each known attribute applies.
        identity: Number of the person in the source.
        camera: Number of the camera.
    """

    box: tuple[float, float, float, float] | None = None
    keypoints: Mapping[str, Xy] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    attributes: Mapping[str, bool] = field(default_factory=dict)
    identity: int | None = None
    camera: int | None = None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source.

    Args:
        image: File, relative to the image folder.
        size_hw: Height and width.
        persons: Those that the source names.
        count: How many there are; None where the source does not know, such as with ignored regions.
        same: Whether its halves show the same person; None where it is not such a pair.
        image_id: Number of the image in the source, so that other files about it can be joined; None where it has none.
    """

    image: str
    size_hw: tuple[int, int]
    persons: tuple[PersonRecord, ...] = ()
    count: int | None = None
    same: bool | None = None
    image_id: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a source lies.

    Args:
        path: Its annotation file, or folder.
        images: Folder of its images.
        names: Names of the classes of label maps, the background first, where the layout does not fix them.
    """

    path: Path
    images: Path
    names: tuple[str, ...] = ()


Reader = Callable[[Source, Report], Iterator[ImageRecord]]
READERS: dict[str, Reader] = {}
"""Readers by name; ``lman_readers`` fills it. A reader notes in the report what it skips, by reason."""


def register_reader(name: str) -> Callable[[Reader], Reader]:
    """Enter a reader into ``READERS``.

    Raises:
        ConfigError: The name is taken.
    """

    def enter(reader: Reader) -> Reader:
        if name in READERS:
            raise ConfigError(f"there is a reader {name!r} already: {READERS[name].__qualname__}")
        READERS[name] = reader
        return reader

    return enter


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of what is asked and answered.

    Args:
        questions: Questions of an image, over all forms.
        attributes: Attributes that are asked of each person, each at most once.
        boxes: Boxes of an answer; the largest are kept.
        coordinates: Numbers of an answer of outlines; parts are left out at random until it fits.
        subset: How often a random subset of the keypoints is asked for, instead of all.
        subset_size: Largest such subset.
        negatives: How often a keypoint or part that a person does not show is asked for beside the others.
    """

    questions: int = 4
    attributes: int = 1
    boxes: int = 30
    coordinates: int = 250
    subset: float = 0.4
    subset_size: int = 5
    negatives: float = 0.2


@dataclass(frozen=True, slots=True)
class _Asker:
    """Draws wordings and writes places; ``bins`` are those of the codecs."""

    rng: np.random.Generator
    caps: Caps
    bins: int

    def word(self, form: str, **words: str) -> str:
        pool = POOLS[form]["questions"]
        return pool[self.rng.integers(len(pool))].format(**words)

    def person(self, record: ImageRecord, person: PersonRecord) -> str:
        """Return how a person is spoken of: by the box, where there are others."""
        if len(record.persons) == 1 or person.box is None:
            return "the person"
        return f"the person at {BoxCodec('bins', bins=self.bins).encode([person.box], record.size_hw)}"

    def absent(self, person: PersonRecord, known: Iterable[str]) -> list[str]:
        """Return a name that is asked for although the person does not show it, or none."""
        names = [name for name in person.absent if name not in known]
        return [names[self.rng.integers(len(names))]] if names and self.rng.random() < self.caps.negatives else []


Asked = tuple[str, str]


def _ask_boxes(record: ImageRecord, asker: _Asker) -> Iterator[Asked]:
    boxes = [person.box for person in record.persons if person.box is not None]
    # Of an image without any box it must be known that nobody is there.
    if not boxes and record.count != 0:
        return
    boxes.sort(key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), reverse=True)
    kept = boxes[: asker.caps.boxes]
    shuffled = [kept[place] for place in asker.rng.permutation(len(kept))]
    yield asker.word("boxes"), BoxCodec("bins", bins=asker.bins).encode(shuffled, record.size_hw)


def _ask_points(record: ImageRecord, asker: _Asker) -> Iterator[Asked]:
    codec = PointCodec("bins", bins=asker.bins)
    for person in record.persons:
        names = list(person.keypoints)
        if not names:
            continue
        if asker.rng.random() < asker.caps.subset:
            number = int(asker.rng.integers(1, min(asker.caps.subset_size, len(names)) + 1))
            names = [names[place] for place in asker.rng.permutation(len(names))[:number]]
        written = [f"{name} {codec.encode([person.keypoints[name]], record.size_hw)}" for name in names]
        yield _named("points", record, person, asker, names, written)


def _ask_polygons(record: ImageRecord, asker: _Asker) -> Iterator[Asked]:
    codec = PolygonCodec("bins", bins=asker.bins)
    for person in record.persons:
        names = [list(person.parts)[place] for place in asker.rng.permutation(len(person.parts))]
        while sum(len(person.parts[name]) for name in names) > asker.caps.coordinates:
            names.pop()
        if names:
            written = [f"{name} {codec.encode([person.parts[name]], record.size_hw)}" for name in names]
            yield _named("polygons", record, person, asker, names, written)


def _named(
    form: str, record: ImageRecord, person: PersonRecord, asker: _Asker, names: Sequence[str], written: Sequence[str]
) -> Asked:
    """Return a question for named places, and its answer; perhaps with a name that the person does not show."""
    missing = asker.absent(person, names)
    lines = [*written, *(POOLS[form]["negative"].format(name=name) for name in missing)]
    asked = asker.word(form, person=asker.person(record, person), names=", ".join([*names, *missing]))
    return asked, "; ".join(lines)


def _ask_attributes(record: ImageRecord, asker: _Asker) -> Iterator[Asked]:
    for person in record.persons:
        unasked = dict(person.attributes)
        for _ in range(min(asker.caps.attributes, len(unasked))):
            of_answer = {truth: [name for name, value in unasked.items() if value is truth] for truth in (True, False)}
            truth = bool(asker.rng.integers(2))
            # Both answers equally often, as far as a person has both.
            names = of_answer[truth] or of_answer[not truth]
            name = names[asker.rng.integers(len(names))]
            answer = POOLS["attributes"]["positive" if unasked.pop(name) else "negative"]
            yield asker.word("attributes", person=asker.person(record, person), name=name), answer


def _ask_number(record: ImageRecord, asker: _Asker) -> Iterator[Asked]:
    if record.count is not None:
        yield asker.word("number"), str(record.count)


def _ask_same(record: ImageRecord, asker: _Asker) -> Iterator[Asked]:
    if record.same is not None:
        yield asker.word("same"), POOLS["same"]["positive" if record.same else "negative"]


_ASKERS: dict[str, Callable[[ImageRecord, _Asker], Iterator[Asked]]] = {
    "boxes": _ask_boxes,
    "points": _ask_points,
    "polygons": _ask_polygons,
    "attributes": _ask_attributes,
    "number": _ask_number,
    "same": _ask_same,
}


def build_instructions(
    records: Iterable[ImageRecord],
    *,
    forms: Sequence[str] = tuple(_ASKERS),
    caps: Caps | None = None,
    bins: int = 40,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the content of a questions file, which ``QuestionsDataset`` reads; the ``form`` of a question is its kind.

    Of an image at most ``caps.questions`` are drawn. The same records and seed give the same content; an image's
    questions do not depend on the other images.

    Args:
        records: The images; those of which nothing can be asked are left out.
        forms: What is asked: some of boxes, points, polygons, attributes, number, same.
        caps: Limits; those of ``Caps`` when left out.
        bins: Intervals of a side in which places are written.
        seed: Not negative.

    Raises:
        ConfigError: There is no such form.
    """
    unknown = sorted(set(forms) - set(_ASKERS))
    if unknown or not forms:
        raise ConfigError(f"forms name some of {list(_ASKERS)}, got {list(forms)}")
    images, questions = [], []
    for number, record in enumerate(records, start=1):
        asker = _Asker(np.random.default_rng([seed, number]), caps or Caps(), bins)
        asked = [(form, *pair) for form in forms for pair in _ASKERS[form](record, asker)]
        drawn = sorted(asker.rng.permutation(len(asked))[: asker.caps.questions].tolist())
        if not drawn:
            continue
        height, width = record.size_hw
        image_id = number if record.image_id is None else record.image_id
        images.append({"id": image_id, "file_name": record.image, "height": height, "width": width})
        for form, text, answer in (asked[place] for place in drawn):
            entry = {"id": len(questions) + 1, "image_id": image_id, "question": text, "answer": answer, "form": form}
            questions.append(entry)
    return {"images": images, "questions": questions}
