r"""The files of public benchmarks, written as a questions file that ``QuestionsDataset`` reads.

    python projects/infmllm/infmllm_layouts.py vqa data/vqa/v2_OpenEnded_mscoco_val2014_questions.json \
        --answers data/vqa/v2_mscoco_val2014_annotations.json --images data/coco/val2014 \
        --out data/infmllm/vqa_v2_val.json

The images stay where they are: the folder that is given as ``--images`` is ``data_prefix.img`` of the data set. Nothing
is downloaded. What a file holds is what its makers publish; licences are theirs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from PIL import Image

from lumen.engine.tool import run_tool
from lumen.errors import DataError
from lumen.serialization.atomic import write_text

_LETTERS = "ABCDEFGHIJ"
_BY_LETTER = "Answer with the option's letter from the given choices directly."
_BY_WORD = "Please answer yes or no."


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark.

    Args:
        image: File, relative to the image folder.
        ident: Its id in the benchmark.
        text: What is asked.
        answers: Right answers, as many as people gave.
        form: Its kind; a metric reports each apart.
    """

    image: str
    ident: str
    text: str
    answers: tuple[str, ...]
    form: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a benchmark lies.

    Args:
        questions: File with the questions; of MME the folder with a folder per subtask.
        answers: File with the answers, where they are in a file of their own.
        split: Part of the file, where it holds several.
    """

    questions: Path
    answers: Path | None = None
    split: str = ""


def read_vqa(source: Source) -> Iterator[Question]:
    """VQA v2 and OK-VQA: a file of questions, a file of answers by ten people, COCO's images of 2014.

    Args:
        source: With ``answers``; ``split`` names the images, ``val2014`` when left out.

    Raises:
        DataError: There is no file of answers, or a question has none.
    """
    if source.answers is None:
        raise DataError("VQA v2 and OK-VQA keep their answers in a file of their own: give --answers")
    answers = {entry["question_id"]: entry for entry in _entries(source.answers, "annotations")}
    split = source.split or "val2014"
    for entry in _entries(source.questions, "questions"):
        ident = entry["question_id"]
        if ident not in answers:
            raise DataError(f"{source.answers}: no answers to question {ident} of {source.questions}")
        given = tuple(str(answer["answer"]) for answer in answers[ident]["answers"])
        form = str(answers[ident].get("answer_type", ""))
        yield Question(f"COCO_{split}_{entry['image_id']:012d}.jpg", str(ident), entry["question"], given, form)


def read_gqa(source: Source) -> Iterator[Question]:
    """GQA: a dict of questions by id, such as ``testdev_balanced_questions.json``."""
    for ident, entry in _mapping(source.questions).items():
        form = str((entry.get("types") or {}).get("structural", ""))
        yield Question(f"{entry['imageId']}.jpg", ident, entry["question"], (entry["answer"],), form)


def read_textvqa(source: Source) -> Iterator[Question]:
    """TextVQA: ``TextVQA_0.5.1_val.json``, with ten answers each."""
    for entry in _entries(source.questions, "data"):
        answers = tuple(map(str, entry["answers"]))
        yield Question(f"{entry['image_id']}.jpg", str(entry["question_id"]), entry["question"], answers)


def read_ocrvqa(source: Source) -> Iterator[Question]:
    """OCR-VQA: ``dataset.json``, a dict by image; ``split`` is 1, 2 or 3: training, validation or test, the default."""
    wanted = int(source.split or 3)
    for key, entry in _mapping(source.questions).items():
        if entry["split"] != wanted:
            continue
        image = key + (Path(entry["imageURL"]).suffix or ".jpg")
        for number, (text, answer) in enumerate(zip(entry["questions"], entry["answers"], strict=True)):
            yield Question(image, f"{key}/{number}", text, (answer,))


def read_scienceqa(source: Source) -> Iterator[Question]:
    """ScienceQA: ``problems.json``, those of a split (``test`` when left out) that have an image; answers are letters.

    Raises:
        DataError: A question has more options than there are letters.
    """
    split = source.split or "test"
    for ident, entry in _mapping(source.questions).items():
        if entry["split"] != split or not entry.get("image"):
            continue
        hint = f"{entry['hint'].strip()}\n" if (entry.get("hint") or "").strip() else ""
        text = hint + _with_options(entry["question"], entry["choices"], ident)
        image = f"{split}/{ident}/{entry['image']}"
        yield Question(image, ident, text, (_LETTERS[entry["answer"]],), str(entry.get("subject", "")))


def read_pope(source: Source) -> Iterator[Question]:
    """POPE: a line of json per question; the form is the file's last word: random, popular or adversarial."""
    form = source.questions.stem.rpartition("_")[2]
    for number, line in enumerate(source.questions.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            entry = _parsed(line, f"{source.questions}, line {number}")
            yield Question(entry["image"], str(entry["question_id"]), entry["text"], (entry["label"],), form)


def read_mme(source: Source) -> Iterator[Question]:
    """MME: a folder per subtask; beside each image, or in ``questions_answers_YN``, a text with two questions.

    Raises:
        DataError: A line is not a question and an answer with a tab between them, or an image is missing.
    """
    for task in sorted(path for path in source.questions.iterdir() if path.is_dir()):
        apart = (task / "questions_answers_YN").is_dir()
        images = task / "images" if apart else task
        for file in sorted((task / "questions_answers_YN" if apart else task).glob("*.txt")):
            found = [path for path in sorted(images.glob(f"{file.stem}.*")) if path.suffix != ".txt"]
            if not found:
                raise DataError(f"{file}: there is no image of this name in {images}")
            image = str(found[0].relative_to(source.questions))
            for number, line in enumerate(filter(str.strip, file.read_text(encoding="utf-8").splitlines())):
                text, tab, answer = line.rstrip().rpartition("\t")
                if not tab or answer.strip().casefold() not in ("yes", "no"):
                    raise DataError(f"{file}: a line is a question, a tab and Yes or No, got {line!r}")
                text = text.strip() if text.strip().endswith(_BY_WORD) else f"{text.strip()} {_BY_WORD}"
                yield Question(image, f"{task.name}/{file.stem}/{number}", text, (answer.strip(),), task.name)


def read_seed(source: Source) -> Iterator[Question]:
    """SEED-Bench: ``SEED-Bench.json``, its questions about images; those about videos are left out."""
    names = {number: name for name, number in _mapping(source.questions).get("question_type", {}).items()}
    for entry in _entries(source.questions, "questions"):
        if entry["data_type"] == "image":
            ident, number = str(entry["question_id"]), entry["question_type_id"]
            choices = [entry[f"choice_{letter}"] for letter in "abcd"]
            text = _with_options(entry["question"], choices, ident)
            yield Question(entry["data_id"], ident, text, (entry["answer"],), names.get(number, str(number)))


LAYOUTS: dict[str, Callable[[Source], Iterator[Question]]] = {
    "vqa": read_vqa,
    "gqa": read_gqa,
    "textvqa": read_textvqa,
    "ocrvqa": read_ocrvqa,
    "scienceqa": read_scienceqa,
    "pope": read_pope,
    "mme": read_mme,
    "seed": read_seed,
}
"""By the name on the command line."""


def to_content(layout: str, source: Source, images: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the content of a questions file.

    Args:
        layout: A key of ``LAYOUTS``.
        source: Where the benchmark lies.
        images: The image folder; the size of each image is read from its file.

    Raises:
        DataError: A file is not of this layout, an image is missing, or there is no question.
    """
    numbers: dict[str, int] = {}
    tables: dict[str, list[dict[str, Any]]] = {"images": [], "questions": []}
    try:
        for question in LAYOUTS[layout](source):
            if question.image not in numbers:
                numbers[question.image] = len(numbers) + 1
                tables["images"].append(_image(numbers[question.image], question.image, images))
            tables["questions"].append(
                {
                    "id": question.ident,
                    "image_id": numbers[question.image],
                    "question": question.text,
                    "answers": list(question.answers),
                    "form": question.form,
                }
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source.questions} is not of layout {layout!r}: {type(error).__name__} {error}") from error
    if not tables["questions"]:
        raise DataError(f"{source.questions} holds no question of layout {layout!r}, split {source.split!r}")
    return tables


def _image(number: int, name: str, folder: Path) -> dict[str, Any]:
    try:
        with Image.open(folder / name) as image:
            width, height = image.size
    except OSError as error:
        raise DataError(f"the image {folder / name} cannot be read: {error}") from error
    return {"id": number, "file_name": name, "width": width, "height": height}


def _with_options(question: str, choices: list[str], ident: str) -> str:
    if not 2 <= len(choices) <= len(_LETTERS):
        raise DataError(f"question {ident} has {len(choices)} options, expected 2 to {len(_LETTERS)}")
    options = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False)]
    return "\n".join([question.strip(), *options, _BY_LETTER])


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place} is not json: {error}") from error


def _mapping(file: Path) -> Mapping[str, Any]:
    content = _parsed(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a dict, got a {type(content).__name__}")
    return content


def _entries(file: Path, key: str) -> list[Mapping[str, Any]]:
    entries = _mapping(file).get(key)
    if not isinstance(entries, list):
        raise DataError(f"{file}: expected a dict with the list {key!r}")
    return entries


def main(options: argparse.Namespace) -> None:
    """Read, write, and print what was written."""
    content = to_content(options.layout, Source(options.questions, options.answers, options.split), options.images)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps(content))
    print(f"{options.out}: {len(content['questions'])} questions about {len(content['images'])} images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=sorted(LAYOUTS))
    parser.add_argument("questions", type=Path, help="file with the questions; of MME the folder with its subtasks")
    parser.add_argument("--answers", type=Path, help="file with the answers, of VQA v2 and OK-VQA")
    parser.add_argument("--split", default="", help="part of the file, where it holds several")
    parser.add_argument("--images", type=Path, required=True, help="image folder")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    run_tool(main, parser.parse_args())
