"""Images with questions, captions or conversations: files in, text prompts out."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from lumen.data.annotations import check_budget, check_images, format_report, parse_json
from lumen.data.coco import take_usable
from lumen.data.faults import grey_in_test
from lumen.data.image import PAD_VALUE, read_image
from lumen.data.mirrored_text import exchange_sides, is_mirrored_wrong
from lumen.errors import ConfigError, DataError
from lumen.paths import find_path
from lumen.registry import DATASETS, TRANSFORMS
from lumen.structures import Prompt

_IMAGE_MARK = "<image>"
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_Report = defaultdict[str, list[Any]]


@DATASETS.register_module()
class QuestionsDataset(BaseDataset):
    """Images with texts; a sample is one image with all its questions.

    A record holds ``img_path``, ``img_id``, ``ori_hw`` (None where the file lacks it), ``instances`` without rows
    and ``questions``: dicts with ``id``, ``question``, ``answers`` (a tuple; none in test files without answers),
    ``history`` (earlier turns) and ``form`` (kind of question, may be empty). ``report`` maps the reason of each skip
    to the ids it concerns.

    Args:
        ann_file: Json file, relative to ``data_root``.
        layout: ``questions``: the lists ``images`` and ``questions`` (``image_id``, ``question``, ``answer`` or
            ``answers``, perhaps ``form``). ``captions``: COCO captions; the references of an image are the answers of
            one empty question. ``conversations``: a list of entries as LLaVA has them (``id``, ``image``,
            ``conversations``); each turn of the assistant is a question with the turns before it as history. An entry
            without an image gets an empty ``img_path``, which ``LoadImageOrBlank`` draws in grey.
        data_root: Folder of the data set.
        data_prefix: ``img`` is the image folder, relative to ``data_root``. No image may lie outside it.
        pipeline: Transforms applied to each record.
        skip_budget: Share of the images, and of the texts, that may be skipped before it is an error.
        test_mode: Put ``ann_file`` in ``metainfo``; an image that cannot be read becomes a grey one with a ``fault``.
        indices: Keep only the first so many records, or these.

    Raises:
        ConfigError: The layout is unknown.
        DataError: The file is not of this layout, holds no usable image, or the budget is exceeded.
    """

    def __init__(
        self,
        *,
        ann_file: str,
        layout: str = "questions",
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        pipeline: Sequence[dict | Callable[[dict], dict]] = (),
        skip_budget: float = 0.001,
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise ConfigError(f"layout must be one of {sorted(LAYOUTS)}, got {layout!r}")
        self.layout = layout
        self.skip_budget = skip_budget
        self.report: dict[str, list[Any]] = {}
        super().__init__(
            ann_file=str(ann_file),
            data_root=find_path(data_root) if data_root else "",
            data_prefix={"img": ""} if data_prefix is None else dict(data_prefix),
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
        )

    def load_data_list(self) -> list[dict]:
        """Read and check the file; MMEngine calls this once."""
        report: _Report = defaultdict(list)
        records, num_texts = LAYOUTS[self.layout](parse_json(self.ann_file), self.ann_file, report)
        check_budget(report, num_texts, self.skip_budget, f"{self.ann_file}: texts and images")
        records = [record for record in records if record["questions"]]
        if not records:
            raise DataError(f"{self.ann_file}: no image with a usable text\n{format_report(report)}")
        self._metainfo.update(classes=())
        if self.test_mode:
            self._metainfo["ann_file"] = self.ann_file
        self.report = dict(report)
        if report:
            print_log(f"{self.ann_file}: skipped\n{format_report(report)}", logger="current")
        for record in records:
            if record["img_path"]:
                record["img_path"] = os.path.join(self.data_prefix["img"], record["img_path"])
            record["instances"] = _no_instances()
        return records

    def prepare_data(self, index: int) -> Any:
        """Run the pipeline on one record."""
        record = self.get_data_info(index)
        record["classes"] = ()
        record["img_root"] = self.data_prefix["img"]
        record["test_mode"] = self.test_mode
        return self.pipeline(record)

    def __getitem__(self, index: int) -> Any:
        """Return a sample; when training, the next usable one, within ``skip_budget``."""
        return take_usable(self, index)


@TRANSFORMS.register_module()
class LoadImageOrBlank:
    """Read the image file, of any size; draw a grey image for a record without one.

    Reads ``img_path``, ``img_root``; writes ``image``, uint8 RGB (height, width, 3), and ``ori_hw``. An LMM is trained
    on text alone this way, without a second kind of batch.

    Args:
        blank_hw: Height and width of a grey image.

    Raises:
        DataError: The file cannot be read; in an evaluation it becomes a grey image with a ``fault``, see
            ``grey_in_test``.
    """

    def __init__(self, *, blank_hw: Sequence[int] = (224, 224)) -> None:
        self.blank_hw = (int(blank_hw[0]), int(blank_hw[1]))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the image."""
        if results["img_path"]:
            image = grey_in_test(_read, results, self.blank_hw)
        else:
            image = np.full((*self.blank_hw, 3), PAD_VALUE, dtype=np.uint8)
        results["image"] = image
        results["ori_hw"] = (image.shape[0], image.shape[1])
        return results


def _read(results: Mapping[str, Any]) -> np.ndarray:
    return read_image(results["img_path"], root=results["img_root"] or ".")


@TRANSFORMS.register_module()
class AskQuestions:
    """Choose the questions of a sample and the answer to learn for each.

    Reads ``questions`` and ``frame``; writes ``prompts``, ``gt_instances`` and ``ignored_instances`` (both without
    rows), and ``questions``, those that are asked, one per prompt. Behind other prompts it adds its own, and leaves
    targets as they are. In a mirrored view a question that names a mirrored side in English is left out.

    Args:
        num_prompts: Number of questions to ask at most; ``None`` asks all.
        task: Task of the prompts, such as ``vqa``, ``caption`` or ``chat``.
        answer: Which of several answers is learnt: the ``majority``, the first among equals, or a ``random`` one.
        shuffle: Ask in random order; otherwise the first ones, in the order of the file.
        key: Key of the questions in the record.
        exchange_sides: In a mirrored view write "left" for "right", and so on, instead of leaving the question out.

    Raises:
        ConfigError: An option has no such value.
    """

    def __init__(
        self,
        *,
        num_prompts: int | None = None,
        task: str = "vqa",
        answer: str = "majority",
        shuffle: bool = True,
        key: str = "questions",
        exchange_sides: bool = False,
    ) -> None:
        if num_prompts is not None and num_prompts < 1:
            raise ConfigError(f"num_prompts must be None or at least 1, got {num_prompts}")
        if answer not in ("majority", "random"):
            raise ConfigError(f"answer must be 'majority' or 'random', got {answer!r}")
        self.num_prompts = num_prompts
        self.task = task
        self.answer = answer
        self.shuffle = shuffle
        self.key = key
        self.exchange_sides = exchange_sides

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts."""
        frame, exchanged = results["frame"], self.exchange_sides
        questions = [
            entry for entry in results[self.key] if not is_mirrored_wrong(_all_words(entry), frame, exchanged=exchanged)
        ]
        if frame.is_flipped and exchanged:
            questions = [_exchanged(entry) for entry in questions]
        order = np.random.permutation(len(questions)) if self.shuffle else np.arange(len(questions))
        asked = tuple(questions[place] for place in order[: self.num_prompts])
        earlier = results.get("prompts", ())
        results["questions"] = (*((None,) * len(earlier)), *asked) if earlier else asked
        results["prompts"] = (
            *earlier,
            *(self._prompt(entry) for entry in asked),
        )
        results.setdefault("gt_instances", _no_targets())
        results.setdefault("ignored_instances", _no_targets())
        return results

    def _prompt(self, entry: Mapping[str, Any]) -> Prompt:
        answer = self._choose(entry["answers"])
        return Prompt(entry["question"], self.task, answer=answer, history=entry["history"])

    def _choose(self, answers: Sequence[str]) -> str:
        if not answers:
            return ""
        if self.answer == "random":
            return answers[np.random.randint(len(answers))]
        return Counter(answers).most_common(1)[0][0]


def _all_words(entry: Mapping[str, Any]) -> str:
    return " ".join([entry["question"], *entry["answers"], *(part for turn in entry["history"] for part in turn)])


def _exchanged(entry: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"question": exchange_sides(entry["question"]), "answers": tuple(map(exchange_sides, entry["answers"]))}
    history = tuple(tuple(map(exchange_sides, turn)) for turn in entry["history"])
    return {**entry, **texts, "history": history}


def read_questions(content: Any, ann_file: str, report: _Report) -> tuple[list[dict], int]:
    """Return a record per image of a file with ``images`` and ``questions``, and the number of its entries."""
    images, entries = _tables(content, ann_file, "questions", report)
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_text(entry.get("question")):
            report["question is missing or empty"].append(position)
            continue
        answers = entry["answers"] if "answers" in entry else [entry["answer"]] if "answer" in entry else []
        if not isinstance(answers, list) or not all(map(_is_text, answers)):
            report["an answer is not a text, or empty"].append(entry.get("id", position))
        elif entry.get("image_id") not in images:
            report["question about an unknown or skipped image"].append(entry.get("id", position))
        else:
            ident = entry.get("id", entry.get("question_id", position))
            form = str(entry.get("form", ""))
            images[entry["image_id"]]["questions"].append(_question(ident, entry["question"], answers, form=form))
    return list(images.values()), len(images) + len(entries)


def read_captions(content: Any, ann_file: str, report: _Report) -> tuple[list[dict], int]:
    """Return a record per image of a COCO captions file, with one empty question, and the number of its entries."""
    images, entries = _tables(content, ann_file, "annotations", report)
    captions: defaultdict[Any, list[str]] = defaultdict(list)
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_text(entry.get("caption")):
            report["caption is missing or empty"].append(position)
        elif entry.get("image_id") not in images:
            report["caption of an unknown or skipped image"].append(entry.get("id", position))
        else:
            captions[entry["image_id"]].append(entry["caption"])
    for img_id, of_image in captions.items():
        images[img_id]["questions"].append(_question(img_id, "", of_image))
    return list(images.values()), len(images) + len(entries)


def read_conversations(content: Any, ann_file: str, report: _Report) -> tuple[list[dict], int]:
    """Return a record per conversation of a LLaVA-style file, and the number of its entries."""
    if not isinstance(content, list):
        raise DataError(f"{ann_file}: a conversations file holds a list, this one a {type(content).__name__}")
    records = []
    for position, entry in enumerate(content):
        ident = entry.get("id", position) if isinstance(entry, dict) else position
        problem = _conversation_problem(entry)
        if problem:
            report[problem].append(ident)
            continue
        turns = [turn["value"].replace(_IMAGE_MARK, "").strip() for turn in entry["conversations"]]
        pairs = tuple(zip(turns[::2], turns[1::2], strict=False))  # a question at the end has no answer to learn
        questions = [
            _question(f"{ident}/{turn}", asked, [answer], history=pairs[:turn])
            for turn, (asked, answer) in enumerate(pairs)
        ]
        records.append({"img_path": entry.get("image", ""), "img_id": ident, "ori_hw": None, "questions": questions})
    return records, len(content)


LAYOUTS: dict[str, Callable[[Any, str, _Report], tuple[list[dict], int]]] = {
    "questions": read_questions,
    "captions": read_captions,
    "conversations": read_conversations,
}


def _conversation_problem(entry: Any) -> str | None:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        return "conversations is not a list of two turns or more"
    if [_ROLES.get(turn.get("from")) for turn in turns] != [("human", "gpt")[place % 2] for place in range(len(turns))]:
        return "turns do not alternate, human first"
    values = [turn.get("value") for turn in turns]
    if not all(_is_text(value) and value.replace(_IMAGE_MARK, "").strip() for value in values):
        return "a turn is empty"
    name = entry.get("image", "")
    if not isinstance(name, str) or os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        return "image is not a file name, or leaves the image folder"
    has_image = bool(name)
    if [value.count(_IMAGE_MARK) for value in values] not in (
        [int(has_image)] + [0] * (len(values) - 1),
        [0] * len(values),
    ):
        return "<image> does not occur exactly once, in the first turn, or there is no image"
    return None


def _tables(content: Any, ann_file: str, key: str, report: _Report) -> tuple[dict[Any, dict], list]:
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


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _no_instances() -> dict[str, np.ndarray]:
    return {
        "bboxes": np.zeros((0, 4), dtype=np.float32),
        "labels": np.zeros(0, dtype=np.int64),
        "is_ignored": np.zeros(0, dtype=bool),
        "ann_ids": np.zeros(0, dtype=np.int64),
    }


def _no_targets() -> dict[str, torch.Tensor]:
    empty = torch.zeros(0, dtype=torch.long)
    return {"bboxes": torch.zeros(0, 4), "labels": empty, "prompt_index": empty.clone()}
