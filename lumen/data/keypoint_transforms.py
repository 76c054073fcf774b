"""From a record of ``CocoKeypointsDataset`` to prompts and targets; for ``ResizeToInput`` and ``AskClasses``."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lumen.data.fields import fields_to_input
from lumen.data.image import PAD_VALUE, grey_of, render_image, size_of
from lumen.errors import ConfigError, PromptError
from lumen.ops.geometry import InputTransform, clip_boxes
from lumen.prompts import places_in
from lumen.registry import TRANSFORMS
from lumen.structures import Prompt

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])")
_OTHER_SIDE = {"left": "right", "right": "left"}


@TRANSFORMS.register_module()
class CropInstance:
    """Cut out one object with its surroundings and draw it as large as fits; keypoints move along.

    Reads ``image``, ``ori_hw``, ``box``, ``keypoints``, ``keypoint_names``, ``instances``; writes ``frame``, ``image``
    (input pixels), ``keypoints``, a float32 tensor (k, 3) of x, y in input pixels and visibility, and ``instances``,
    whose ``bboxes`` become a clipped tensor in input pixels, and whose declared ``fields`` are moved by their kind.

    A flip swaps the rows of left and right keypoints: the left shoulder of the mirrored person is the right one's
    mirror image. Partners are the names that differ in "left" and "right" alone, unless ``flip_pairs`` names them.

    Args:
        input_hw: Height and width of the network input. A config may leave it out: the runner takes it from the model.
        padding: Sides of the crop over sides of the box.
        scale_range: Smallest and largest random factor on the sides of the crop, drawn log-uniformly.
        max_shift: Largest random shift of the crop, along each axis, as a share of the box; at most a half.
        flip_probability: How often left and right are swapped.
        flip_pairs: Names that swap at a flip; the others stay. Pairs whose names a category lacks are ignored for it.
        pad_value: Grey value beside the image.

    Raises:
        ConfigError: A number is out of range, or, at a flip, a side has no partner.
    """

    def __init__(
        self,
        *,
        input_hw: Sequence[int] | None = None,
        padding: float = 1.25,
        scale_range: Sequence[float | int] = (1.0, 1.0),
        max_shift: float = 0.0,
        flip_probability: float = 0.0,
        flip_pairs: Sequence[Sequence[str]] | None = None,
        pad_value: int = PAD_VALUE,
    ) -> None:
        if not (padding > 0 and 0 < scale_range[0] <= scale_range[1] and 0 <= max_shift <= 0.5):
            raise ConfigError(
                "padding and scale_range must be positive, scale_range in order, max_shift within 0 ... 0.5, got "
                f"padding={padding}, scale_range={tuple(scale_range)}, max_shift={max_shift}"
            )
        self.input_hw = size_of(input_hw, type(self).__name__)
        self.padding = padding
        self.scale_range = scale_range
        self.max_shift = max_shift
        self.flip_probability = flip_probability
        self.flip_pairs = flip_pairs
        self.pad_value = grey_of(pad_value, type(self).__name__)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace image, keypoints and box by what the network will see."""
        # The view comes from the box, which may be a detected one; the targets move with it.
        frame = self.draw_frame(results["ori_hw"], results["box"])
        points = torch.from_numpy(results["keypoints"])
        # Coordinates move; visibility stays as it was annotated.
        points = torch.cat([frame.points_to_input(points[:, :2]), points[:, 2:]], 1)
        # After the move: rows change places, since their names hold the side.
        if frame.is_flipped:
            points = points[flip_order(results["keypoint_names"], self.flip_pairs)]
        instances = fields_to_input(results["instances"], frame, results.get("fields", {}))
        bboxes = frame.boxes_to_input(torch.from_numpy(instances["bboxes"]))
        results["frame"] = frame
        results["image"] = render_image(results["image"], frame, pad_value=self.pad_value)
        results["keypoints"] = points
        results["instances"] = {**instances, "bboxes": clip_boxes(bboxes, self.input_hw)}
        return results

    def draw_frame(self, ori_hw: tuple[int, int], box: Sequence[float | int]) -> InputTransform:
        """Return the frame around a box in original pixels; a random one if augmentation is on."""
        corners = np.array(box, dtype=np.float64).reshape(2, 2)
        size = corners[1] - corners[0]
        # The shift is a share of the box, before any padding.
        middle = corners.mean(0) + size * np.random.uniform(-self.max_shift, self.max_shift, 2)
        half = size / 2 * self.padding * np.exp(np.random.uniform(*np.log(self.scale_range)))
        crop = np.concatenate([middle - half, middle + half]).tolist()
        frame = InputTransform.crop(ori_hw, crop, self.input_hw)
        return frame.flip_horizontal() if np.random.random() < self.flip_probability else frame


@TRANSFORMS.register_module()
class AskKeypoints:
    """Ask for the keypoints of one object, each by its name.

    Reads ``frame``, ``keypoints``, ``keypoint_names``, ``classes``, ``box_label``; writes ``prompts``, whose label is
    the keypoint's place in the skeleton, ``gt_instances`` with a box without extent per labelled keypoint in view
    (covered ones too), and ``ignored_instances`` with a box over the whole input for each other prompt: of a keypoint
    that is not labelled or not in view, nothing is learned.

    Args:
        wording: Phrase, with ``{keypoint}`` and, if wanted, ``{category}``. Underscores in names are read as spaces.
        num_prompts: Ask so many keypoints at most, drawn at random, those with a target first; ``None`` asks all.

    Raises:
        ConfigError: The wording has no ``{keypoint}`` or something unknown in braces, or ``num_prompts`` is below 1.
    """

    def __init__(self, *, wording: str = "{keypoint} of the {category}", num_prompts: int | None = None) -> None:
        try:
            places = set(places_in(wording))
        except PromptError:
            places = set()
        if not {"keypoint"} <= places <= {"keypoint", "category"}:
            raise ConfigError(f"wording must hold {{keypoint}}, and may hold {{category}}, got {wording!r}")
        if num_prompts is not None and num_prompts < 1:
            raise ConfigError(f"num_prompts must be None or at least 1, got {num_prompts}")
        self.wording = wording
        self.num_prompts = num_prompts

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add prompts and targets."""
        points, (height, width) = results["keypoints"], results["frame"].input_hw
        # A crop may cut off keypoints of an object that is larger than its box.
        in_view = ((points[:, :2] >= 0) & (points[:, :2] < torch.tensor([width, height]))).all(1)
        is_target = (points[:, 2] > 0) & in_view
        asked = self._choose(is_target)
        names = [results["keypoint_names"][place] for place in asked.tolist()]
        phrases = self.phrases(names, results["classes"][results["box_label"]])
        results["prompts"] = tuple(
            Prompt(text=phrase, task="pose", label=place) for phrase, place in zip(phrases, asked.tolist(), strict=True)
        )
        # An ignored region over the whole input: no cell of such a prompt is background.
        whole = torch.tensor([[0.0, 0.0, width, height]]).expand(len(asked), 4)
        results["gt_instances"] = _rows(is_target[asked], points[asked, :2].repeat(1, 2), asked)
        results["ignored_instances"] = _rows(~is_target[asked], whole, asked)
        return results

    def phrases(self, names: Sequence[str], category: str) -> list[str]:
        """Return the phrase of each keypoint of an object."""
        spoken = category.replace("_", " ")
        return [self.wording.format(keypoint=name.replace("_", " "), category=spoken) for name in names]

    def _choose(self, is_target: Bool[Tensor, " k"]) -> Int[Tensor, " asked"]:
        if self.num_prompts is None or self.num_prompts >= len(is_target):
            return torch.arange(len(is_target))
        drawn = np.random.permutation(len(is_target))
        # A stable sort of a random order: targets first, at random within both kinds.
        first = drawn[np.argsort(~is_target.numpy()[drawn], kind="stable")]
        return torch.from_numpy(np.sort(first[: self.num_prompts]))


def flip_order(names: Sequence[str], flip_pairs: Sequence[Sequence[str]] | None = None) -> list[int]:
    """Return, for each keypoint, the place of the one that takes its row when the image is mirrored.

    Args:
        names: Names of the keypoints, in order.
        flip_pairs: Names that swap. When left out, names swap that differ in "left" and "right" alone.

    Raises:
        ConfigError: A name with a side has no partner.
    """
    if flip_pairs is None:
        # `Left` and `left` are one side; the order of the names stays.
        lowered = [name.lower() for name in names]
        partners = {name: _SIDE.sub(lambda side: _OTHER_SIDE[side[0]], name) for name in lowered}
    else:
        lowered = list(names)
        pairs = [(a, b) for a, b in flip_pairs if a in lowered and b in lowered]
        # Pairs are given once and hold both ways.
        partners = dict(pairs) | {b: a for a, b in pairs}
    missing = [name for name in lowered if partners.get(name, name) not in lowered]
    if missing:
        raise ConfigError(f"at a flip {missing} have no partner among {list(names)}; name flip_pairs")
    return [lowered.index(partners.get(name, name)) for name in lowered]


def _rows(
    chosen: Bool[Tensor, " asked"], boxes: Float[Tensor, "asked 4"], labels: Int[Tensor, " asked"]
) -> dict[str, Tensor]:
    prompt_index = chosen.nonzero()[:, 0]
    return {"bboxes": boxes[prompt_index], "labels": labels[prompt_index], "prompt_index": prompt_index}
