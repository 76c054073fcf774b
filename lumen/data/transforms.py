"""From a record of ``CocoDataset`` to a packed sample. Each transform lists the keys that it reads and writes.

Random draws come from ``np.random``, which MMEngine seeds in each worker.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from PIL import Image
from torch import Tensor

from lumen.data.faults import grey_in_test
from lumen.data.fields import field_rows, fields_to_input
from lumen.data.image import PAD_VALUE, grey_of, read_image, render_image, size_of
from lumen.data.vocabulary import read_names, without_words_of
from lumen.errors import ConfigError, DataError
from lumen.ops.geometry import InputTransform, box_area, clip_boxes
from lumen.ops.masks import codes_to_input
from lumen.registry import TRANSFORMS
from lumen.structures import Field, PerceptionSample, Prompt

_METAINFO = ("prompts", "frame", "classes", "img_id", "img_path")
_OPTIONAL_METAINFO = (
    *("label_map_path", "ref_ids", "kinds", "target_rles"),
    *("instance_id", "box", "box_label", "box_score"),
    *("questions", "fault", "annotation"),
)


@TRANSFORMS.register_module()
class LoadImage:
    """Read the image file.

    Reads ``img_path``, ``img_root``, ``ori_hw``; writes ``image``, uint8 RGB (height, width, 3). Where ``test_mode`` is
    set, an image that cannot be used is replaced by a grey one, and ``fault`` says why; see ``grey_in_test``.

    Args:
        cache_mb: Keep decoded images in memory up to so many megabytes, per worker. Worth it for small data sets.

    Raises:
        DataError: The file cannot be read, or has another size than the annotation file gives.
    """

    def __init__(self, *, cache_mb: int = 0) -> None:
        self._bytes_left = cache_mb * 10**6
        self._cache: dict[str, np.ndarray] = {}

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the image."""
        path = results["img_path"]
        image = self._cache.get(path)
        if image is None:
            image = grey_in_test(_read_as_annotated, results, results["ori_hw"])
            if "fault" not in results and image.nbytes <= self._bytes_left:
                self._bytes_left -= image.nbytes
                self._cache[path] = image
        results["image"] = image
        return results


def _read_as_annotated(results: Mapping[str, Any]) -> np.ndarray:
    path = results["img_path"]
    image = read_image(path, root=results["img_root"] or ".")
    if image.shape[:2] != results["ori_hw"]:
        raise DataError(
            f"{path}: the file has {image.shape[:2]} pixels (height, width), its annotation {results['ori_hw']}"
        )
    return image


@TRANSFORMS.register_module()
class ResizeToInput:
    """Choose where the image goes, draw it there once, and move the objects with it.

    Reads ``image``, ``ori_hw``, ``instances`` and, if there, ``fields``; writes ``frame``, ``image`` (input pixels) and
    ``instances``, whose ``bboxes`` become a clipped float32 tensor in input pixels, and whose declared ``fields``
    become tensors that are moved by their kind. Objects outside the view leave; objects with too small a visible part
    become ignored regions, neither target nor background. Where ``instances`` have ``segmentations``, these become
    ``masks``, a bool tensor (n, height, width) in input pixels; an object whose mask shows no pixel is ignored.
    ``unlabelled``, where a data set gives it, becomes such a mask (1, height, width) too.

    Args:
        input_hw: Height and width of the network input. A config may leave it out: the runner takes it from the model.
        mode: ``letterbox`` keeps the ratio, ``stretch`` fills the input.
        flip_probability: How often left and right are swapped. Leave at 0 where a phrase may name a side.
        vertical_flip_probability: How often top and bottom are swapped; for images that have no upright, such as cells.
        scale_range: Smallest and largest random zoom, such as (0.7, 1.4), drawn log-uniformly and placed at random:
            a larger image is cropped, a smaller one padded. ``None`` gives the plain view.
        aspect_range: Smallest and largest random ratio of the horizontal to the vertical zoom.
        min_visible: Smallest visible share of an object's area that counts as an object.
        pad_value: Grey value beside the image.

    Raises:
        ConfigError: A setting is out of range, or ``instances`` hold a field that is not declared; see ``Field``.
    """

    def __init__(
        self,
        *,
        input_hw: Sequence[int] | None = None,
        mode: str = "letterbox",
        flip_probability: float = 0.0,
        vertical_flip_probability: float = 0.0,
        scale_range: Sequence[float | int] | None = None,
        aspect_range: Sequence[float | int] = (1.0, 1.0),
        min_visible: float = 0.25,
        pad_value: int = PAD_VALUE,
    ) -> None:
        if mode not in ("letterbox", "stretch"):
            raise ConfigError(f"mode must be 'letterbox' or 'stretch', got {mode!r}")
        for name, (low, high) in {"scale_range": scale_range or (1, 1), "aspect_range": aspect_range}.items():
            if not 0 < low <= high:
                raise ConfigError(f"{name} must be two positive numbers in order, got {(low, high)}")
        self.input_hw = size_of(input_hw, type(self).__name__)
        self.mode = mode
        self.flip_probability = flip_probability
        self.vertical_flip_probability = vertical_flip_probability
        self.scale_range = scale_range
        self.aspect_range = aspect_range
        self.min_visible = min_visible
        self.pad_value = grey_of(pad_value, type(self).__name__)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace the image and its boxes by what the network will see."""
        frame = self.draw_frame(results["ori_hw"])
        results["frame"] = frame
        results["image"] = render_image(results["image"], frame, pad_value=self.pad_value)
        results["instances"] = _frame_instances(
            results["instances"], frame, self.min_visible, results.get("fields", {})
        )
        if "unlabelled" in results:
            results["unlabelled"] = codes_to_input([results["unlabelled"]], frame)
        return results

    def draw_frame(self, ori_hw: tuple[int, int]) -> InputTransform:
        """Return the frame for an image of ``ori_hw``; a random one if augmentation is on."""
        build = InputTransform.letterbox if self.mode == "letterbox" else InputTransform.stretch
        frame = build(ori_hw, self.input_hw)
        if self.scale_range is not None:
            frame = self._zoom(frame)
        if np.random.random() < self.flip_probability:
            frame = frame.flip_horizontal()
        return frame.flip_vertical() if np.random.random() < self.vertical_flip_probability else frame

    def _zoom(self, frame: InputTransform) -> InputTransform:
        # Log-uniform: half as large is as likely as twice as large.
        zoom = np.exp(np.random.uniform(*np.log(self.scale_range)))
        stretch = np.exp(np.random.uniform(*np.log(self.aspect_range)) / 2)
        scale_xy = (float(frame.scale_xy[0] * zoom * stretch), float(frame.scale_xy[1] * zoom / stretch))
        # Space beside a smaller image, or, negative, what a larger one loses: placed at random either way.
        free_x = frame.input_hw[1] - scale_xy[0] * frame.ori_hw[1]
        free_y = frame.input_hw[0] - scale_xy[1] * frame.ori_hw[0]
        shift_xy = (free_x * np.random.random(), free_y * np.random.random())
        return InputTransform(frame.ori_hw, frame.input_hw, scale_xy, shift_xy)


@TRANSFORMS.register_module()
class Photometric:
    """Change brightness, contrast and colourfulness at random, each in half of the images.

    Reads and writes ``image``; all frames of a clip change alike.

    Args:
        brightness: Largest change, in grey levels of 255.
        contrast: Smallest and largest factor, around mid grey.
        saturation: Smallest and largest factor; 0 would be grey.
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: Sequence[float | int] = (0.6, 1.4),
        saturation: Sequence[float | int] = (0.5, 1.5),
    ) -> None:
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change the colours."""
        chosen = np.random.random(3) < 0.5
        image = Image.fromarray(results["image"].reshape(-1, *results["image"].shape[-2:]))
        if chosen[0] or chosen[1]:
            offset = np.random.uniform(-self.brightness, self.brightness) if chosen[0] else 0.0
            factor = np.random.uniform(*self.contrast) if chosen[1] else 1.0
            levels = np.clip((np.arange(256) - 127.5) * factor + 127.5 + offset, 0, 255).round().astype(int)
            image = image.point(levels.tolist() * 3)
        if chosen[2]:
            grey = image.convert("L").convert("RGB")
            image = Image.blend(grey, image, float(np.random.uniform(*self.saturation)))
        results["image"] = np.array(image).reshape(results["image"].shape)
        return results


@TRANSFORMS.register_module()
class BlackenImage:
    """Paint images black, to measure what a model answers without seeing the image.

    Reads and writes ``image``.

    Args:
        share: Share of the images that turn black, drawn at random.
    """

    def __init__(self, *, share: float = 1.0) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"share must lie in [0, 1], got {share}")
        self.share = share

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace the image."""
        if self.share and np.random.random() < self.share:
            results["image"] = np.zeros_like(results["image"])
        return results


@TRANSFORMS.register_module()
class AskClasses:
    """Choose the prompts of a sample: one phrase per class, and for each the objects that answer it.

    Reads ``classes``, ``instances`` and, if there, ``fields`` and ``absent_labels`` (the only labels known to be
    absent; without this key a label without any box is absent, as in exhaustively annotated sets). Writes ``prompts``,
    and ``gt_instances`` and ``ignored_instances`` with one row per object and prompt that asks for it; with ``masks``
    where there are any, and with the declared fields.

    With ``num_prompts``, present classes come first, then absent ones up to that number. A class with nothing
    but crowd or ignored boxes is neither.

    A model that learns few names answers to every name. ``negatives`` are names that no image of the data set shows:
    they are asked beside the classes, with label -1 and without an object. Name none that an image may show, be it by
    another word for a class; names that share a word with a class or its wording are left out.

    Args:
        num_prompts: Number of classes to ask for at most; ``None`` asks for all.
        task: Task of the prompts. A config may leave it out where the model has one decoder: the runner takes its task.
        wording: Phrases for a class name; a class that is not listed is called by its name.
        every_wording: Ask all phrases of a class, each as its own prompt; otherwise one, the first or a random one.
        shuffle: Ask in random order, with random wording; otherwise in class order.
        max_absent: Upper bound on absent classes; ``None`` fills up to ``num_prompts``.
        negatives: Names that no image shows, or ``everyday`` for those of ``lumen.data.vocabulary``.
        num_negatives: How many of them are asked about an image, beyond ``num_prompts``, drawn at random.

    Raises:
        ConfigError: A class or phrase is empty, ``wording`` names an unknown class, there is no such vocabulary, or no
            negative name is left.
    """

    def __init__(
        self,
        *,
        num_prompts: int | None = 8,
        task: str = "detection",
        wording: Mapping[str, Sequence[str]] | None = None,
        every_wording: bool = False,
        shuffle: bool = True,
        max_absent: int | None = None,
        negatives: str | Sequence[str] | None = None,
        num_negatives: int = 4,
    ) -> None:
        if num_prompts is not None and num_prompts < 1:
            raise ConfigError(f"num_prompts must be None or at least 1, got {num_prompts}")
        if type(num_negatives) is not int or num_negatives < 0:
            raise ConfigError(f"num_negatives must be a whole number that is not negative, got {num_negatives!r}")
        self.num_prompts, self.task = num_prompts, task
        self.wording = dict(wording or {})
        for name, phrases in self.wording.items():
            if isinstance(phrases, str) or not phrases or not all(isinstance(p, str) and p.strip() for p in phrases):
                raise ConfigError(f"wording[{name!r}] must be a list of phrases that are not empty, got {phrases!r}")
        self.every_wording = every_wording
        self.shuffle = shuffle
        self.max_absent = max_absent
        self.negatives = read_names(negatives)
        self.num_negatives = num_negatives
        self._foreign: tuple[str, ...] = ()
        self._checked_classes: tuple[str, ...] | None = None

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts and targets."""
        classes, instances = results["classes"], results["instances"]
        self._check(classes)
        fields = results.get("fields", {})
        labels, is_ignored = instances["labels"], instances["is_ignored"]
        asked = self._choose(labels, is_ignored, len(classes), results.get("absent_labels"))
        prompts = [
            Prompt(text=text, task=self.task, label=label)
            for label in asked.tolist()
            for text in self._phrases(classes[label])
        ]
        if self._foreign:
            drawn = np.random.permutation(len(self._foreign))[: self.num_negatives].tolist()
            prompts += [Prompt(text=self._foreign[number], task=self.task) for number in drawn]
        prompt_labels = np.array([prompt.label for prompt in prompts], dtype=np.int64)
        is_answer = prompt_labels[:, None] == labels[None]
        results["prompts"] = tuple(prompts)
        results["gt_instances"] = _rows(is_answer & ~is_ignored, instances, fields)
        results["ignored_instances"] = _rows(is_answer & is_ignored, instances, fields)
        return results

    def _choose(
        self, labels: np.ndarray, is_ignored: np.ndarray, num_classes: int, absent_labels: Sequence[int] | None
    ) -> np.ndarray:
        if self.num_prompts is None:
            return np.random.permutation(num_classes) if self.shuffle else np.arange(num_classes)
        is_present = np.bincount(labels[~is_ignored], minlength=num_classes) > 0
        is_absent = np.bincount(labels, minlength=num_classes) == 0
        if absent_labels is not None:
            is_absent &= np.bincount(np.asarray(absent_labels, dtype=np.int64), minlength=num_classes) > 0
        present, absent = np.flatnonzero(is_present), np.flatnonzero(is_absent)
        if self.shuffle:
            present, absent = np.random.permutation(present), np.random.permutation(absent)
        # Present classes first: a target that is not asked for would be lost.
        asked = np.concatenate([present, absent[: self.max_absent]])[: self.num_prompts]
        return np.random.permutation(asked) if self.shuffle else np.sort(asked)

    def _phrases(self, name: str) -> Sequence[str]:
        phrases = self.wording.get(name, (name,))
        if self.every_wording or len(phrases) == 1:
            return phrases
        return [phrases[np.random.randint(len(phrases)) if self.shuffle else 0]]

    def _check(self, classes: tuple[str, ...]) -> None:
        if classes == self._checked_classes:
            return
        if not classes or not all(isinstance(name, str) and name.strip() for name in classes):
            raise ConfigError(f"class names must be strings that are not empty, got {classes!r}")
        unknown = set(self.wording) - set(classes)
        if unknown:
            raise ConfigError(f"wording names unknown classes {sorted(unknown)}; known are {list(classes)}")
        self._foreign = without_words_of(self.negatives, [*classes, *chain.from_iterable(self.wording.values())])
        if self.negatives and not self._foreign:
            raise ConfigError(f"each of the negatives {list(self.negatives)} shares a word with a class; name others")
        self._checked_classes = classes


@TRANSFORMS.register_module()
class PackSample:
    """Pack what the network, the decoders and the metrics need.

    Reads ``image``, ``frame``, ``prompts``, ``gt_instances``, ``ignored_instances``, ``classes``, ``img_id``,
    ``img_path``, and what some data sets add: ``label_map_path``, ``ref_ids``, ``kinds``, ``target_rles``,
    ``instance_id``, ``box``, ``box_label``, ``box_score``, ``questions``, ``fault``, ``annotation``, ``unlabelled``,
    ``fields``, ``objects``, ``cells``.
    Returns ``inputs``, uint8 (3, height, width) or (frames, 3, height, width), and ``data_samples``, the sample.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack one sample."""
        sample = PerceptionSample(
            gt_instances=InstanceData(**results["gt_instances"]),
            ignored_instances=InstanceData(**results["ignored_instances"]),
        )
        if "unlabelled" in results:
            sample.unlabelled = InstanceData(masks=results["unlabelled"])
        for key in ("objects", "cells"):
            if key in results:
                setattr(sample, key, InstanceData(**results[key]))
        # `set_metainfo` copies deeply, which costs more than loading a small image; all of these are immutable.
        for key in (*_METAINFO, *(name for name in _OPTIONAL_METAINFO if name in results)):
            sample.set_field(results[key], key, field_type="metainfo")
        if results.get("fields"):
            kinds = {name: declared.kind for name, declared in results["fields"].items()}
            sample.set_field(kinds, "fields", field_type="metainfo")
        sample.set_field(results["frame"].ori_hw, "ori_shape", field_type="metainfo")
        sample.set_field(results["frame"].input_hw, "img_shape", field_type="metainfo")
        return {"inputs": torch.from_numpy(results["image"]).movedim(-1, -3).contiguous(), "data_samples": sample}


def _frame_instances(
    instances: dict[str, Any], frame: InputTransform, min_visible: float, fields: Mapping[str, Field]
) -> dict[str, Any]:
    moved = frame.boxes_to_input(torch.from_numpy(instances["bboxes"]))
    bboxes = clip_boxes(moved, frame.input_hw)
    visible_share = (box_area(bboxes) / box_area(moved).clamp(min=1e-12)).numpy()
    is_kept = visible_share > 0
    instances = {key: value[is_kept] for key, value in instances.items() if key != "bboxes"}
    instances["bboxes"] = bboxes[torch.from_numpy(is_kept)]
    instances["is_ignored"] = instances["is_ignored"] | (visible_share[is_kept] < min_visible)
    if "segmentations" in instances:
        masks = codes_to_input(list(instances.pop("segmentations")), frame)
        instances["is_ignored"] = instances["is_ignored"] | ~masks.flatten(1).any(1).numpy()
        instances["masks"] = masks
    return fields_to_input(instances, frame, fields)


def _rows(is_answer: np.ndarray, instances: dict[str, Any], fields: Iterable[str]) -> dict[str, Tensor]:
    """Return a row per true (prompt, object) of ``is_answer``, ordered by prompt."""
    prompt_index, objects = np.nonzero(is_answer)
    rows = {
        "bboxes": instances["bboxes"][torch.from_numpy(objects)],
        "labels": torch.from_numpy(instances["labels"][objects]),
        "prompt_index": torch.from_numpy(prompt_index),
    }
    if "masks" in instances:
        rows["masks"] = instances["masks"][torch.from_numpy(objects)]
    return rows | field_rows(instances, torch.from_numpy(objects), fields)
