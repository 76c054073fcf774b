"""Referring expressions: a data set whose samples are images with all their sentences, and the transform that asks."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from lumen.data.annotations import format_report
from lumen.data.coco import naming_check_data, take_usable
from lumen.data.fields import field_rows
from lumen.data.mirrored_text import exchange_sides, is_mirrored_wrong
from lumen.data.node_dataset import NodeDataset
from lumen.data.refer_files import read_refer
from lumen.errors import ConfigError, DataError
from lumen.options import check_choice
from lumen.paths import find_path
from lumen.registry import DATASETS, TRANSFORMS
from lumen.structures import NO_LABEL, Prompt


@DATASETS.register_module()
class ReferDataset(NodeDataset):
    """Images with referring sentences; a sample is one image with all its objects and all its sentences.

    The pipeline receives a record of ``read_refer`` with ``classes``, ``img_root`` and ``sample_idx`` added, so that
    ``AskClasses`` can ask for classes and ``AskSentences`` for sentences. ``metainfo`` holds ``classes`` and
    ``cat_ids``. ``report`` maps the reason of each skip to the ids it concerns, of sentences to their numbers.

    Args:
        ann_file: File with the sentences, relative to ``data_root``.
        layout: ``refer``, ``grefcoco``, ``mdetr`` or ``shapes``; see ``read_refer``.
        instances_file: COCO file with images and objects, relative to ``data_root``; not for layout ``mdetr``.
        split: Part of the file, for layouts ``refer`` and ``grefcoco``; ``groups`` adds these in layout ``shapes``.
        data_root: Folder of the data set.
        data_prefix: ``img`` is the image folder, relative to ``data_root``. No image may lie outside it.
        pipeline: Transforms applied to each record.
        with_masks: Read masks too; an annotation without a sound one is skipped, and its sentences.
        skip_budget: Share of the images, annotations and sentences, each, that may be skipped before it is an error.
        test_mode: Give a grey image with a ``fault`` in place of an unusable one, instead of taking the next one.

    Raises:
        ConfigError: The layout is unknown, or an argument is missing or does not belong to it.
        DataError: A file is broken, no image is usable, or the budget is exceeded.
    """

    def __init__(
        self,
        *,
        ann_file: str,
        layout: str,
        instances_file: str | None = None,
        split: str | None = None,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        pipeline: Sequence[dict | Callable[[dict], dict]] = (),
        with_masks: bool = False,
        skip_budget: float = 0.001,
        test_mode: bool = False,
    ) -> None:
        root = find_path(data_root) if data_root else ""
        self.layout = layout
        self.instances_file = None if instances_file is None else os.path.join(root, instances_file)
        self.split = split
        self.with_masks = with_masks
        self.skip_budget = skip_budget
        self.report: dict[str, list[int]] = {}
        super().__init__(
            ann_file=str(ann_file),
            data_root=root,
            data_prefix={"img": ""} if data_prefix is None else dict(data_prefix),
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    def full_init(self) -> None:
        """Read the files, once; where one of them is in COCO format, an error names the command that checks it."""
        if self.instances_file is None:
            super().full_init()
            return
        with naming_check_data(self.instances_file, self.data_prefix["img"]):
            super().full_init()

    def load_data_list(self) -> list[dict]:
        """Read and check the files; MMEngine calls this once."""
        content = read_refer(
            self.ann_file,
            layout=self.layout,
            instances_file=self.instances_file,
            split=self.split,
            image_root=self.data_prefix["img"],
            skip_budget=self.skip_budget,
            with_masks=self.with_masks,
        )
        if not content.records:
            raise DataError(f"{self.ann_file}: no image with a sentence")
        self._metainfo.update(classes=content.classes, cat_ids=content.cat_ids)
        self.report = dict(content.report)
        if self.report:
            print_log(f"{self.ann_file}: skipped or changed\n{format_report(self.report)}", logger="current")
        return content.records

    def prepare_data(self, index: int) -> Any:
        """Run the pipeline on one record."""
        record = self.get_data_info(index)
        # So that `AskClasses` can stand in front of the sentences.
        record["classes"] = self._metainfo["classes"]
        record["img_root"] = self.data_prefix["img"]
        record["test_mode"] = self.test_mode
        return self.pipeline(record)

    def __getitem__(self, index: int) -> Any:
        """Return a sample; when training, the next usable one, within ``skip_budget``."""
        return take_usable(self, index)


@DATASETS.register_module()
class ShuffledReferDataset(ReferDataset):
    """The same images and targets, but every image is asked sentences of other images.

    A model that reads the sentences must fail. What remains is what the images alone give away.
    """

    def load_data_list(self) -> list[dict]:
        """Read and check the files, and exchange the sentences, always in the same way."""
        return exchange_sentences(super().load_data_list(), seed=0)


def exchange_sentences(records: Sequence[dict], *, seed: int) -> list[dict]:
    """Return the records with their sentences permuted so that each one belongs to another image than before.

    Targets, ``kind`` and ``ref_id`` stay where they are.

    Raises:
        DataError: One image holds more than half of all sentences, so that there is no such permutation.
    """
    rng = np.random.default_rng(seed)
    places = [
        (record, place)
        for record in rng.permutation(len(records))
        for place in rng.permutation(len(records[record]["refs"]))
    ]
    # The places of an image follow each other: a turn by as many as the fullest image has gives every image sentences
    # of others.
    turn = max((len(record["refs"]) for record in records), default=0)
    if 2 * turn > len(places):
        raise DataError(f"one image has {turn} of all {len(places)} sentences; they cannot be exchanged with others")
    exchanged = [{**record, "refs": [dict(ref) for ref in record["refs"]]} for record in records]
    for number, (record, place) in enumerate(places):
        # Sentences change places; targets stay, so that the statistics of both are the same.
        giver, giver_place = places[(number + turn) % len(places)]
        exchanged[record]["refs"][place]["sentence"] = records[giver]["refs"][giver_place]["sentence"]
    return exchanged


@TRANSFORMS.register_module()
class AskSentences:
    """Ask referring sentences of an image, each as its own prompt without label, and name its targets.

    Reads ``refs``, ``instances``, ``frame`` and, if there, ``prompts``, ``gt_instances`` and ``ignored_instances``: put
    behind ``AskClasses``, it adds its prompts to those of the classes, so that one pass of the LMM learns both. Writes
    ``prompts``; ``gt_instances`` with one row per target and sentence: ``bboxes``, ``labels`` (-1), ``prompt_index``
    and, where ``instances`` has them, ``masks``; ``ignored_instances``, none of its own; and, one value per prompt,
    ``ref_ids`` (-1 for other prompts), ``kinds`` and, where the data set has masks, ``target_rles``, the union of the
    targets' masks in original pixels, ``None`` without target.

    With ``num_prompts``, a sentence is left out when one of its targets has left the view or is ignored there, and, in
    a mirrored image, when it names a mirrored side in English; keep the flips of ``ResizeToInput`` at 0 for other
    languages. ``None`` asks for all sentences and needs a view that shows the whole image, not mirrored.

    Args:
        num_prompts: Number of sentences at most; ``None`` asks for all, for evaluation.
        task: ``grounding``, ``referring_segmentation`` or ``written_boxes``.
        no_target: Ask sentences without target too.
        max_targets: Leave out sentences with more targets; None asks all.
        shuffle: Choose and order at random; otherwise in the order of the file.
        kinds: Ask sentences of these kinds only, for data sets that know them.
        exchange_sides: In a mirrored view write "left" for "right", and so on, instead of leaving the sentence out.
        weight: How much an answer that is written counts where it is learned.

    Raises:
        ConfigError: An argument is not an accepted value.
        DataError: All sentences are asked for, but the view does not show all targets, or is mirrored.
    """

    def __init__(
        self,
        *,
        num_prompts: int | None = 8,
        task: str = "grounding",
        no_target: bool = True,
        max_targets: int | None = None,
        shuffle: bool = True,
        kinds: Sequence[str] | None = None,
        exchange_sides: bool = False,
        weight: float = 1.0,
    ) -> None:
        if num_prompts is not None and num_prompts < 1:
            raise ConfigError(f"num_prompts must be None or at least 1, got {num_prompts}")
        check_choice("task", task, ("grounding", "referring_segmentation", "written_boxes"))
        self.num_prompts = num_prompts
        self.task = task
        self.no_target = no_target
        self.max_targets = max_targets
        self.shuffle = shuffle
        self.kinds = None if kinds is None else frozenset(kinds)
        self.exchange_sides = exchange_sides
        self.weight = weight

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts and targets."""
        refs, instances = self._choose(results), results["instances"]
        earlier = results.get("prompts", ())
        others = len(earlier)
        # By annotation id: rows of objects that left the view are gone from `instances`.
        is_answer = np.array([np.isin(instances["ann_ids"], ref["ann_ids"]) for ref in refs], dtype=bool)
        is_answer = is_answer.reshape(len(refs), len(instances["ann_ids"]))
        rows = _target_rows(is_answer, instances, others, results.get("fields", {}))
        # Only after the view is known: sentences are the file's own until then.
        is_exchanged = results["frame"].is_flipped and self.exchange_sides
        texts = [exchange_sides(ref["sentence"]) if is_exchanged else ref["sentence"] for ref in refs]
        results["prompts"] = (*earlier, *(Prompt(text=text, task=self.task, weight=self.weight) for text in texts))
        # Sentences have no ignored regions, but tables need equal columns to be joined.
        nothing = {key: column[:0] for key, column in rows.items()}
        results["gt_instances"] = _append(results.get("gt_instances"), rows)
        results["ignored_instances"] = _append(results.get("ignored_instances"), nothing)
        results["ref_ids"] = (*results.get("ref_ids", (NO_LABEL,) * others), *(ref["ref_id"] for ref in refs))
        results["kinds"] = (*results.get("kinds", ("",) * others), *(ref["kind"] for ref in refs))
        # For metrics on masks in original pixels; only data sets that read masks have them.
        if all("target_rle" in ref for ref in results["refs"]):
            masks = results.get("target_rles", (None,) * others)
            results["target_rles"] = (*masks, *(ref["target_rle"] for ref in refs))
        return results

    def _choose(self, results: Mapping[str, Any]) -> list[dict]:
        refs = [ref for ref in results["refs"] if self.no_target or len(ref["ann_ids"])]
        refs = [ref for ref in refs if self.kinds is None or ref["kind"] in self.kinds]
        refs = [ref for ref in refs if self.max_targets is None or len(ref["ann_ids"]) <= self.max_targets]
        if self.num_prompts is None:
            _check_view(refs, results)
        else:
            # A target that is partly out of view would make the sentence wrong.
            visible = results["instances"]["ann_ids"][~results["instances"]["is_ignored"]]
            frame, exchanged = results["frame"], self.exchange_sides
            refs = [
                ref
                for ref in refs
                if np.isin(ref["ann_ids"], visible).all()
                and not is_mirrored_wrong(ref["sentence"], frame, exchanged=exchanged)
            ]
        if self.shuffle:
            refs = [refs[place] for place in np.random.permutation(len(refs))]
        return refs[: self.num_prompts]


def _check_view(refs: Sequence[dict], results: Mapping[str, Any]) -> None:
    is_shown = all(np.isin(ref["ann_ids"], results["instances"]["ann_ids"]).all() for ref in refs)
    if not is_shown or min(results["frame"].scale_xy) < 0:
        raise DataError(
            f"{results['img_path']}: all sentences are to be asked, but a target has left the view, or the view is "
            "mirrored; set num_prompts, or neither zoom nor flip"
        )


def _target_rows(
    is_answer: np.ndarray, instances: Mapping[str, Any], first_prompt: int, fields: Iterable[str]
) -> dict[str, Tensor]:
    """Return a row per true (sentence, object), ordered by sentence."""
    sentences, objects = map(torch.from_numpy, np.nonzero(is_answer))
    rows = {
        "bboxes": instances["bboxes"][objects],
        "labels": torch.full_like(sentences, NO_LABEL),
        "prompt_index": sentences + first_prompt,
    }
    masks = {"masks": instances["masks"][objects]} if "masks" in instances else {}
    return rows | masks | field_rows(instances, objects, fields)


def _append(earlier: Mapping[str, Tensor] | None, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return both tables as one, with the columns that both have."""
    if earlier is None:
        return dict(rows)
    return {key: torch.cat([earlier[key], column]) for key, column in rows.items() if key in earlier}
