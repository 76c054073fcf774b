"""Figures of u-LLaVA beside those of ``lumen.metrics.refer``: tags, and the boxes before and after they are fused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor
from ullava_fusion import RULES, fuse_boxes
from ullava_samples import parse_tag

from lumen.ops.geometry import box_iou
from lumen.registry import METRICS

_RIGHT = 0.5
_WITHOUT_DETECTOR = tuple(rule for rule in RULES if rule != "external")


@METRICS.register_module()
class TagAccuracy(BaseMetric):
    """Share of prompts whose answer names what is shown: the tag equals that of ``Prompt.answer``, letter by letter.

    ``accuracy``: Of all prompts; one without an answer, or without a tag in it, is wrong.
    ``missing``: Share of the prompts without an answer or without a tag.
    ``blind``: What the most frequent tag, given to every prompt, would reach.
    """

    default_prefix = "ullava_tag"
    headline = "ullava_tag/accuracy"
    needs = frozenset({"texts", "prompt_index"})

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Note the true and the given tag of each prompt."""
        for sample in data_samples:
            answers = sample["pred_instances"]
            places = zip(answers["prompt_index"].tolist(), answers["texts"], strict=True)
            given = {prompt: parse_tag(text) for prompt, text in places}
            # One entry per sample: MMEngine drops what goes beyond the number of samples.
            rows = [(parse_tag(prompt.answer), given.get(place)) for place, prompt in enumerate(sample["prompts"])]
            self.results.append(rows)

    def compute_metrics(self, results: list[list[tuple[str | None, str | None]]]) -> dict[str, float]:
        """Return the shares, -1 where no prompt has a tag."""
        rows = [(true, given) for of_sample in results for true, given in of_sample if true is not None]
        if not rows:
            return {"accuracy": -1.0, "missing": -1.0, "blind": -1.0}
        return {
            "accuracy": sum(true == given for true, given in rows) / len(rows),
            "missing": sum(given is None for _, given in rows) / len(rows),
            "blind": max(Counter(true for true, _ in rows).values()) / len(rows),
        }


@METRICS.register_module()
class FusedBoxAccuracy(BaseMetric):
    """Share of prompts with one target whose box has an IoU above 0.5, for each way of choosing the box.

    ``region``, ``mask``, ``agree``: The rules of ``fuse_boxes``, whichever the decoder uses; in one run, so that they
    are compared on the same answers. A prompt without an answer is wrong.

    Source:
        The figure is the public code's P@0.5, with more than 0.5.
    """

    default_prefix = "ullava_box"
    headline = "ullava_box/agree"
    needs = frozenset({"region_corners", "mask_corners", "prompt_index"})

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Note which rules give the right box for each prompt."""
        for sample in data_samples:
            answers, targets = sample["pred_instances"], sample["gt_instances"]
            region, mask = (torch.as_tensor(answers[name]).float().reshape(-1, 4) for name in
                            ("region_corners", "mask_corners"))  # fmt: skip
            true = sample["frame"].boxes_to_original(targets["bboxes"].cpu().float())
            index, asked = torch.as_tensor(answers["prompt_index"]).cpu(), targets["prompt_index"].cpu()
            fused = [fuse_boxes(region.cpu(), mask.cpu(), rule=rule) for rule in _WITHOUT_DETECTOR]
            single = (torch.bincount(asked, minlength=len(sample["prompts"])) == 1).nonzero()[:, 0].tolist()
            self.results.append([[_hits(boxes[index == p], true[asked == p]) for boxes in fused] for p in single])

    def compute_metrics(self, results: list[list[list[bool]]]) -> dict[str, float]:
        """Return the shares, -1 where no prompt has one target."""
        rows = np.array([row for of_sample in results for row in of_sample], dtype=float)
        shares = rows.mean(0) if len(rows) else np.full(len(_WITHOUT_DETECTOR), -1.0)
        return dict(zip(_WITHOUT_DETECTOR, shares.tolist(), strict=True))


def _hits(boxes: Tensor, true: Tensor) -> bool:
    return len(boxes) > 0 and float(box_iou(boxes[:1], true)[0, 0]) > _RIGHT
