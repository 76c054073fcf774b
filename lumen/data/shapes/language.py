"""All texts about a scene: referring sentences, captions, questions with answers.

Sentences are drawn at random and kept if they pick exactly the shape they should, by ``Query.find``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np

from lumen.data.shapes.outlines import CATEGORIES
from lumen.data.shapes.phrases import DIRECTIONS, SIZE_SUPERLATIVES, SUPERLATIVES, Phrase, Query
from lumen.data.shapes.records import Record, annotation_id
from lumen.data.shapes.scene import COLOURS, TEXTURES, ShapeObject

_ATTRIBUTES = {"colour": tuple(COLOURS), "texture": TEXTURES, "size": ("small", "large")}
_STREAM, _GROUP_STREAM = 7, 8  # keep the words apart from the random numbers that draw the image
_ATTRIBUTE_RATE, _LONE_RATE, _ABSENT_RATE = 0.7, 0.04, 0.5
_MAX_RELATED, _MAX_DESCRIBED, _MAX_ABSENT = 2, 2, 3  # sentences of a shape; sentences of an image that fit nothing
_COLOURS_AND_COUNTS, _OTHER_QUESTIONS = 10, 5  # rounds of drawing
_COUNTS = ("0", "1", "2", "3")
_T = TypeVar("_T")
_NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven")


@dataclass(frozen=True, slots=True)
class SceneLanguage:
    """Records about one image, not yet numbered."""

    refs: list[Record]
    groups: list[Record]
    captions: list[Record]
    questions: list[Record]


def describe_scene(objects: Sequence[ShapeObject], image_id: int, seed: int) -> SceneLanguage:
    """Draw sentences, captions and questions; they depend on nothing but the arguments. Empty without shapes."""
    if not objects:
        return SceneLanguage([], [], [], [])
    # Streams of their own: more sentences leave images and groups as they are.
    rng = np.random.default_rng([seed, image_id, _STREAM])
    return SceneLanguage(
        refs=[*_refs(objects, image_id, rng), *_absent_refs(objects, image_id, rng)],
        groups=_groups(objects, image_id, np.random.default_rng([seed, image_id, _GROUP_STREAM])),
        captions=[{"image_id": image_id, "caption": caption} for caption in _captions(objects)],
        questions=[{"image_id": image_id, **question} for question in _questions(objects, rng)],
    )


def balance_answers(questions: Sequence[Record]) -> list[Record]:
    """Thin out, evenly over the images, until all answers of a form are as frequent as its rarest."""
    # Over all images: within one, answers cannot be balanced.
    totals = Counter((question["form"], question["answer"]) for question in questions)
    rarest = {form: min(n for (other, _), n in totals.items() if other == form) for form, _ in totals}
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for question in questions:
        key = (question["form"], question["answer"])
        quota = rarest[question["form"]]
        # Kept where the running quota passes a whole number, which spreads the kept ones evenly.
        before = seen[key] * quota // totals[key]
        seen[key] += 1
        if seen[key] * quota // totals[key] > before:
            kept.append(question)
    return kept


def _refs(objects: Sequence[ShapeObject], image_id: int, rng: np.random.Generator) -> list[Record]:
    """Return sentences with one target. All but a few name a noun that fits another shape as well."""
    names = [item.category for item in objects]
    refs = []
    for target, name in enumerate(names):
        if names.count(name) == 1:
            lone = Query(_random_phrase(objects[target], rng))
            if rng.random() < _LONE_RATE and lone.find(objects) == [target]:
                refs.append(_ref(lone, image_id, [target]))
            continue
        refs += [_ref(query, image_id, [target]) for query in _queries(objects, target, rng)]
    return refs


def _queries(objects: Sequence[ShapeObject], target: int, rng: np.random.Generator) -> list[Query]:
    """Return sentences that need a relation and sometimes such that do with attributes, where they exist."""
    # Kept only where the sentence picks exactly this shape.
    related = [query for query in _related(objects, target) if query.find(objects) == [target]]
    phrases = [Query(phrase) for phrase in _phrases(objects[target])]
    described = [query for query in phrases if query.find(objects) == [target]]
    rate = _ATTRIBUTE_RATE if related else _LONE_RATE
    chosen = _draw(related, _MAX_RELATED, rng)
    if described and rng.random() < rate:
        chosen += _draw(described, _MAX_DESCRIBED, rng)
    return chosen


def _related(objects: Sequence[ShapeObject], target: int) -> list[Query]:
    """Return the sentences with a relation whose description alone fits the target and another shape too."""
    queries = []
    for phrase in _phrases(objects[target]):
        fits = phrase.find(objects) or []
        if phrase.size or len(fits) < 2:
            continue
        # "The heart above the yellow heart" needs no looking up where there are but two hearts.
        anchors = [anchor for number, anchor in anchors_of(objects).items() if len(fits) - (number in fits) > 1]
        queries += [Query(phrase, relation) for relation in (*SUPERLATIVES, *SIZE_SUPERLATIVES)]
        queries += [Query(phrase, relation, anchor) for relation, anchor in product(DIRECTIONS, anchors)]
    return queries


def anchors_of(objects: Sequence[ShapeObject]) -> dict[int, Phrase]:
    """Return the shortest description, by position, of each shape that has one without a relation."""
    anchors = {}
    for number, item in enumerate(objects):
        unique = [phrase for phrase in _phrases(item)[:3] if phrase.find(objects) == [number]]
        if unique:
            anchors[number] = unique[0]
    return anchors


def _phrases(item: ShapeObject) -> list[Phrase]:
    """Return the descriptions of a shape, short ones first. Medium shapes are described without their size."""
    noun, colour, texture, size = item.category, item.colour, item.texture, item.size
    phrases = [
        Phrase(noun),
        Phrase(noun, colour=colour),
        Phrase(noun, texture=texture),
        Phrase(noun, size=size),
        Phrase(noun, colour=colour, texture=texture),
        Phrase(noun, colour=colour, size=size),
    ]
    return [phrase for phrase in phrases if phrase.size != "medium"]


def _absent_refs(objects: Sequence[ShapeObject], image_id: int, rng: np.random.Generator) -> list[Record]:
    """Return a few sentences that fit nothing, though their noun is there."""
    drawn = [_absent(objects, rng) for _ in range(_MAX_ABSENT) if rng.random() < _ABSENT_RATE]
    return [_ref(query, image_id, []) for query in dict.fromkeys(filter(None, drawn))]


def _absent(objects: Sequence[ShapeObject], rng: np.random.Generator) -> Query | None:
    item = objects[rng.integers(len(objects))]
    if rng.random() < 0.5:
        attribute = _pick(tuple(_ATTRIBUTES), rng)
        queries = [Query(Phrase(item.category, **{attribute: value})) for value in _ATTRIBUTES[attribute]]
    else:
        phrase = _random_phrase(item, rng)
        anchors = anchors_of(objects).values()
        queries = [Query(phrase, relation, anchor) for relation, anchor in product(DIRECTIONS, anchors)]
        # A phrase that fits the anchor only would read "the star left of the star".
        queries = [query for query in queries if query.anchor and query.anchor.noun != item.category]
    queries = [query for query in queries if query.find(objects) == []]
    return _pick(queries, rng) if queries else None


def _groups(objects: Sequence[ShapeObject], image_id: int, rng: np.random.Generator) -> list[Record]:
    """Return sentences for all shapes of one look: every colour and texture, every colour of a kind; some for none."""
    colours = [*dict.fromkeys(item.colour for item in objects)]
    textures = [*dict.fromkeys(item.texture for item in objects)]
    pairs = [*dict.fromkeys((item.colour, item.category) for item in objects)]
    absent = [name for name in COLOURS if name not in colours]
    mixed = [pair for pair in product(colours, dict.fromkeys(item.category for item in objects)) if pair not in pairs]
    looks = [(word, "") for word in (*colours, *textures)] + pairs
    looks += [(absent[index], "") for index in rng.permutation(len(absent))[:2]]
    looks += [mixed[index] for index in rng.permutation(len(mixed))[:2]]
    return [_group(look, objects, image_id) for look in looks]


def _group(look: tuple[str, str], objects: Sequence[ShapeObject], image_id: int) -> Record:
    word, noun = look
    fits = [
        index
        for index, item in enumerate(objects)
        if word in (item.colour, item.texture) and noun in ("", item.category)
    ]
    return {
        "image_id": image_id,
        "ann_ids": [annotation_id(image_id, number) for number in fits],
        "sentence": f"the {word} {plural(noun or 'shape')}",
        "kind": "group",
        "no_target": not fits,
    }


def _ref(query: Query, image_id: int, targets: list[int]) -> Record:
    return {
        "image_id": image_id,
        "ann_ids": [annotation_id(image_id, number) for number in targets],
        "sentence": query.text,
        "kind": "relation" if query.relation else "attribute",
        "no_target": not targets,
    }


def _captions(objects: Sequence[ShapeObject]) -> list[str]:
    """Return two captions: one counts the shapes of each kind, one names their colours."""
    counts = Counter(item.category for item in objects)
    groups = [_noun_phrase(name, number) for name, number in counts.items()]
    coloured = [with_article(f"{item.colour} {item.category}") for item in objects]
    return [f"A picture of {listing(groups)}.", f"There is {listing(coloured)}."]


def _questions(objects: Sequence[ShapeObject], rng: np.random.Generator) -> list[Record]:
    # More than are kept, since balancing thins them out.
    drawn: list[_Question | None] = []
    for _ in range(_COLOURS_AND_COUNTS):
        drawn += [_ask_colour(objects, rng), *_ask_counts(objects, rng)]
    for _ in range(_OTHER_QUESTIONS):
        drawn += [_ask_existence(objects, rng), _ask_relation(objects, rng)]
    different = dict.fromkeys(filter(None, drawn))
    return [{"question": question, "answer": answer, "form": form} for form, question, answer in different]


_Question = tuple[str, str, str]


def _ask_colour(objects: Sequence[ShapeObject], rng: np.random.Generator) -> _Question | None:
    item = objects[rng.integers(len(objects))]
    for phrase in _phrases(item):
        if phrase.colour is None and len(phrase.find(objects) or ()) == 1:
            return "colour", f"what colour is the {phrase.text}?", item.colour
    return None


def _ask_counts(objects: Sequence[ShapeObject], rng: np.random.Generator) -> list[_Question]:
    """Return a question for a random answer and one for the largest, which is rare."""
    names, colours = Counter(item.category for item in objects), Counter(item.colour for item in objects)
    subjects = {plural(name): str(names[name]) for name in CATEGORIES}
    subjects |= {f"{colour} shapes": str(colours[colour]) for colour in COLOURS}
    answers = sorted(set(subjects.values()) & set(_COUNTS))
    questions = []
    for answer in dict.fromkeys([_pick(answers, rng), answers[-1]]):
        subject = _pick([name for name, number in subjects.items() if number == answer], rng)
        questions.append(("count", f"how many {subject} are there?", answer))
    return questions


def _ask_existence(objects: Sequence[ShapeObject], rng: np.random.Generator) -> _Question | None:
    """Ask for a colour and a shape; where the answer is no, one of the two is there."""
    item = objects[rng.integers(len(objects))]
    present = {(other.category, other.colour) for other in objects}
    pair, answer = (item.category, item.colour), "yes"
    if rng.random() < 0.5:
        nearly = [(item.category, colour) for colour in COLOURS] + [(name, item.colour) for name in CATEGORIES]
        pair, answer = _pick([pair for pair in nearly if pair not in present], rng), "no"
    return "existence", f"is there {with_article(f'{pair[1]} {pair[0]}')}?", answer


def _ask_relation(objects: Sequence[ShapeObject], rng: np.random.Generator) -> _Question | None:
    anchors = list(anchors_of(objects).values())
    if len(anchors) < 2:
        return None
    first, second = rng.permutation(len(anchors))[:2]
    subject, anchor = anchors[first], anchors[second]
    wanted = bool(rng.random() < 0.5)
    found = {relation: Query(subject, relation, anchor).find(objects) for relation in DIRECTIONS}
    relations = [relation for relation, targets in found.items() if targets is not None and bool(targets) == wanted]
    if not relations:
        return None
    question = f"is the {subject.text} {_pick(relations, rng)} the {anchor.text}?"
    return "relation", question, "yes" if wanted else "no"


def _random_phrase(item: ShapeObject, rng: np.random.Generator) -> Phrase:
    return _pick(_phrases(item)[:3], rng)


def _pick(values: Sequence[_T], rng: np.random.Generator) -> _T:
    return values[rng.integers(len(values))]


def _draw(values: Sequence[_T], number: int, rng: np.random.Generator) -> list[_T]:
    """Return so many different values, or all that there are."""
    return [values[index] for index in rng.permutation(len(values))[:number]]


def plural(noun: str) -> str:
    """Return the plural of a category name."""
    return noun + ("es" if noun.endswith("s") else "s")


def _noun_phrase(noun: str, number: int) -> str:
    return with_article(noun) if number == 1 else f"{_NUMBER_WORDS[number]} {plural(noun)}"


def with_article(words: str) -> str:
    """Return words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def listing(parts: Sequence[str]) -> str:
    """Return parts with commas between them, and "and" before the last."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
