"""Images with questions, captions or conversations: files in, text prompts out."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from lumen.data.annotations import check_budget, format_report, parse_json
from lumen.data.coco import naming_check_data, take_usable
from lumen.data.faults import grey_in_test
from lumen.data.image import PAD_VALUE, read_image
from lumen.data.mirrored_text import exchange_sides, is_mirrored_wrong
from lumen.data.node_dataset import NodeDataset
from lumen.data.text_files import LAYOUTS, Report
from lumen.errors import ConfigError, DataError, PromptError
from lumen.paths import find_path
from lumen.registry import DATASETS, TRANSFORMS
from lumen.structures import Prompt


@DATASETS.register_module()
class QuestionsDataset(NodeDataset):
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
        test_mode: Put ``ann_file`` in ``metainfo``; an image that cannot be read becomes a grey one with a ``fault``,
            and an unusable text is raised at once instead of taking the next sample.
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

    def full_init(self) -> None:
        """Read the file, once; an error names the command that lists everything that is wrong with it."""
        with naming_check_data(self.ann_file, self.data_prefix["img"]):
            super().full_init()

    def load_data_list(self) -> list[dict]:
        """Read and check the file; MMEngine calls this once."""
        report: Report = defaultdict(list)
        records, num_texts = LAYOUTS[self.layout](parse_json(self.ann_file), self.ann_file, report)
        # Texts and images together: a skipped image takes its texts with it.
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
            # An entry without an image keeps its empty path; it is drawn in grey.
            if record["img_path"]:
                record["img_path"] = os.path.join(self.data_prefix["img"], record["img_path"])
            record["instances"] = _no_instances()
        return records

    def prepare_data(self, index: int) -> Any:
        """Run the pipeline on one record."""
        record = self.get_data_info(index)
        # Texts have no classes; metrics and `PackSample` expect the key.
        record["classes"] = ()
        record["img_root"] = self.data_prefix["img"]
        record["test_mode"] = self.test_mode
        return self.pipeline(record)

    def __getitem__(self, index: int) -> Any:
        """Return a sample; when training, the next usable one, within ``skip_budget``."""
        with naming_check_data(self.ann_file, self.data_prefix["img"]):
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
        forms: Ask questions of these forms only; all when left out.
        weight: How much each answer counts where it is learned.
        exchange_sides: In a mirrored view write "left" for "right", and so on, instead of leaving the question out.
        fit_text: Check of the prompts to learn; the runner takes it from the model. It returns a prompt, perhaps with a
            shorter answer, or None where no part of the answer fits; both are counted and logged. It raises PromptError
            for a text that the model cannot be asked, such as one with a special token of its tokenizer: behind other
            prompts such a text is left out, counted and logged too.

    Raises:
        ConfigError: An option is not accepted.
        DataError: When called, if a sample of texts alone has one that the model cannot be asked, or none that fits.
            Data sets count it against their budget.
    """

    def __init__(
        self,
        *,
        num_prompts: int | None = None,
        task: str = "vqa",
        answer: str = "majority",
        shuffle: bool = True,
        key: str = "questions",
        forms: Sequence[str] | None = None,
        weight: float = 1.0,
        exchange_sides: bool = False,
        fit_text: Callable[[Prompt], Prompt | None] | None = None,
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
        self.forms = None if forms is None else frozenset(forms)
        self.weight = weight
        self.exchange_sides = exchange_sides
        self.fit_text = fit_text
        self.num_cut = 0
        """Texts that were cut or left out so far, in this worker."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts."""
        frame, exchanged = results["frame"], self.exchange_sides
        questions = [
            entry
            for entry in results[self.key]
            if self.forms is None or entry["form"] in self.forms
            # All words count: an answer that names a side is as wrong as a question.
            if not is_mirrored_wrong(_all_words(entry), frame, exchanged=exchanged)
        ]
        if frame.is_flipped and exchanged:
            questions = [_exchanged(entry) for entry in questions]
        order = np.random.permutation(len(questions)) if self.shuffle else np.arange(len(questions))
        asked = tuple(questions[place] for place in order[: self.num_prompts])
        earlier = results.get("prompts", ())
        # After the choice: only texts that would be asked are cut or counted.
        asked, prompts = self._fitting(asked, results.get("img_id"), is_alone=not earlier)
        # One entry per prompt, None for those of other transforms.
        results["questions"] = (*((None,) * len(earlier)), *asked) if earlier else asked
        results["prompts"] = (*earlier, *prompts)
        results.setdefault("gt_instances", no_targets())
        results.setdefault("ignored_instances", no_targets())
        return results

    def _fitting(
        self, asked: Sequence[Mapping[str, Any]], img_id: Any, *, is_alone: bool
    ) -> tuple[tuple[Mapping[str, Any], ...], tuple[Prompt, ...]]:
        """Return the questions that the model can learn, and their prompts."""
        prompts = [self._prompt(entry) for entry in asked]
        if self.fit_text is None:
            return tuple(asked), tuple(prompts)
        fitted: list[Prompt | None] = []
        for prompt in prompts:
            try:
                fitted.append(self.fit_text(prompt))
            except PromptError as error:
                # Nothing else to learn of this sample: the data set takes the next one and counts it.
                if is_alone:
                    raise DataError(f"image {img_id}: a text cannot be learned: {error}") from error
                fitted.append(None)
        # A prompt that was not touched is returned as the same object.
        self._count_cut(sum(new is not old for new, old in zip(fitted, prompts, strict=True)), img_id)
        kept = [(entry, prompt) for entry, prompt in zip(asked, fitted, strict=True) if prompt is not None]
        if asked and not kept and is_alone:
            raise DataError(f"image {img_id}: not one of its {len(asked)} texts fits the context of the LMM")
        return tuple(entry for entry, _ in kept), tuple(prompt for _, prompt in kept)

    def _count_cut(self, number: int, img_id: Any) -> None:
        before, self.num_cut = self.num_cut, self.num_cut + number
        if before.bit_length() < self.num_cut.bit_length():  # log the first one, and whenever the number has doubled
            print_log(
                f"{self.num_cut} texts so far were cut or left out, since they do not fit the context of the LMM or "
                f"hold its special tokens; the last of image {img_id}",
                logger="current",
            )

    def _prompt(self, entry: Mapping[str, Any]) -> Prompt:
        answer = self._choose(entry["answers"])
        return Prompt(entry["question"], self.task, answer=answer, history=entry["history"], weight=self.weight)

    def _choose(self, answers: Sequence[str]) -> str:
        if not answers:
            return ""
        if self.answer == "random":
            return answers[np.random.randint(len(answers))]
        # Counter keeps the order of the file among equals.
        return Counter(answers).most_common(1)[0][0]


def _all_words(entry: Mapping[str, Any]) -> str:
    return " ".join([entry["question"], *entry["answers"], *(part for turn in entry["history"] for part in turn)])


def _exchanged(entry: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"question": exchange_sides(entry["question"]), "answers": tuple(map(exchange_sides, entry["answers"]))}
    history = tuple(tuple(map(exchange_sides, turn)) for turn in entry["history"])
    return {**entry, **texts, "history": history}


def _no_instances() -> dict[str, np.ndarray]:
    return {
        "bboxes": np.zeros((0, 4), dtype=np.float32),
        "labels": np.zeros(0, dtype=np.int64),
        "is_ignored": np.zeros(0, dtype=bool),
        "ann_ids": np.zeros(0, dtype=np.int64),
    }


def no_targets() -> dict[str, torch.Tensor]:
    """Return a table of no objects, for samples of texts."""
    empty = torch.zeros(0, dtype=torch.long)
    return {"bboxes": torch.zeros(0, 4), "labels": empty, "prompt_index": empty.clone()}
