"""Read files with questions, captions or conversations: every fault is an error or a counted skip, never silent."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from lumen.data.annotations import check_images, is_id, is_printable
from lumen.errors import DataError
from lumen.prompts import MAX_TEXT_CHARACTERS, has_whole_characters

_IMAGE_MARK = "<image>"
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_TOO_LONG = f"a text is longer than {MAX_TEXT_CHARACTERS} characters"
Report = defaultdict[str, list[Any]]


def read_questions(content: Any, ann_file: str, report: Report) -> tuple[list[dict], int]:
    """Return a record per image of a file with ``images`` and ``questions``, and the number of its entries."""
    images, entries = _tables(content, ann_file, "questions", report)
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_text(entry.get("question")):
            report["question is missing or empty"].append(position)
            continue
        # Test files have questions without answers.
        answers = entry["answers"] if "answers" in entry else [entry["answer"]] if "answer" in entry else []
        if not isinstance(answers, list) or not all(map(_is_text, answers)):
            report["an answer is not a text, or empty"].append(_ident(entry, position))
        elif any(len(text) > MAX_TEXT_CHARACTERS for text in (entry["question"], *answers)):
            report[_TOO_LONG].append(_ident(entry, position))
        elif not _is_about(entry, images):
            report["question about an unknown or skipped image"].append(_ident(entry, position))
        else:
            ident = _ident(entry, position)
            form = str(entry.get("form", ""))
            images[entry["image_id"]]["questions"].append(_question(ident, entry["question"], answers, form=form))
    return list(images.values()), len(images) + len(entries)


def read_captions(content: Any, ann_file: str, report: Report) -> tuple[list[dict], int]:
    """Return a record per image of a COCO captions file, with one empty question, and the number of its entries."""
    images, entries = _tables(content, ann_file, "annotations", report)
    captions: defaultdict[Any, list[str]] = defaultdict(list)
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_text(entry.get("caption")):
            report["caption is missing or empty"].append(position)
        elif len(entry["caption"]) > MAX_TEXT_CHARACTERS:
            report[_TOO_LONG].append(_ident(entry, position))
        elif not _is_about(entry, images):
            report["caption of an unknown or skipped image"].append(_ident(entry, position))
        else:
            # Captions of an image stand apart in the file.
            captions[entry["image_id"]].append(entry["caption"])
    for img_id, of_image in captions.items():
        images[img_id]["questions"].append(_question(img_id, "", of_image))
    return list(images.values()), len(images) + len(entries)


def read_conversations(content: Any, ann_file: str, report: Report) -> tuple[list[dict], int]:
    """Return a record per conversation of a LLaVA-style file, and the number of its entries."""
    if not isinstance(content, list):
        raise DataError(f"{ann_file}: a conversations file holds a list, this one a {type(content).__name__}")
    records = []
    for position, entry in enumerate(content):
        ident = _ident(entry, position)
        problem = _conversation_problem(entry)
        if problem:
            report[problem].append(ident)
            continue
        turns = [turn["value"].replace(_IMAGE_MARK, "").strip() for turn in entry["conversations"]]
        # Turns alternate, as checked above.
        pairs = tuple(zip(turns[::2], turns[1::2], strict=False))  # a question at the end has no answer to learn
        # A turn is learned with those before it: what comes before one that is too long stays.
        usable = tuple(takewhile(lambda pair: max(map(len, pair)) <= MAX_TEXT_CHARACTERS, pairs))
        if len(usable) < len(pairs):
            report[_TOO_LONG].append(ident)
        questions = [
            _question(f"{ident}/{turn}", asked, [answer], history=pairs[:turn])
            for turn, (asked, answer) in enumerate(usable)
        ]
        records.append({"img_path": entry.get("image", ""), "img_id": ident, "ori_hw": None, "questions": questions})
    return records, len(content)


LAYOUTS: dict[str, Callable[[Any, str, Report], tuple[list[dict], int]]] = {
    "questions": read_questions,
    "captions": read_captions,
    "conversations": read_conversations,
}


def _conversation_problem(entry: Any) -> str | None:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        return "conversations is not a list of two turns or more"
    roles = [_ROLES.get(str(turn.get("from"))) for turn in turns]
    if roles != [("human", "gpt")[place % 2] for place in range(len(turns))]:
        return "turns do not alternate, human first"
    values = [turn.get("value") for turn in turns]
    if not all(_is_text(value) and value.replace(_IMAGE_MARK, "").strip() for value in values):
        return "a turn is empty"
    # As for COCO files: no image outside of the folder.
    name = entry.get("image", "")
    if (
        not isinstance(name, str)
        or (name and not is_printable(name))
        or os.path.isabs(name)
        or ".." in name.replace("\\", "/").split("/")
    ):
        return "image is not a file name, or leaves the image folder"
    has_image = bool(name)
    # The mark itself is taken out: the prefix shows the image in front of all turns.
    if [value.count(_IMAGE_MARK) for value in values] not in (
        [int(has_image)] + [0] * (len(values) - 1),
        [0] * len(values),
    ):
        return "<image> does not occur exactly once, in the first turn, or there is no image"
    return None


def _tables(content: Any, ann_file: str, key: str, report: Report) -> tuple[dict[Any, dict], list]:
    for name in ("images", key):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{ann_file}: expected a dict with the lists 'images' and {key!r}; {name!r} is none")
    images = {
        img_id: {
            "img_path": entry["file_name"],
            "img_id": img_id,
            "ori_hw": (int(entry["height"]), int(entry["width"])),
            "questions": [],
        }
        for img_id, entry in check_images(content["images"], report).items()
    }
    return images, content[key]


def _question(
    ident: Any, question: str, answers: Sequence[str], *, history: tuple[tuple[str, str], ...] = (), form: str = ""
) -> dict[str, Any]:
    return {
        "id": ident,
        "question": question.strip(),
        "answers": tuple(answer.strip() for answer in answers),
        "history": history,
        "form": form,
    }


def _ident(entry: Any, position: int) -> int | str:
    """Return the id of an entry, its position where it has none that can be one."""
    ident = entry.get("id", entry.get("question_id")) if isinstance(entry, dict) else None
    return ident if is_id(ident) or is_printable(ident) else position


def _is_about(entry: Mapping[str, Any], images: Mapping[int, Any]) -> bool:
    return is_id(entry.get("image_id")) and entry["image_id"] in images


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and has_whole_characters(value)
