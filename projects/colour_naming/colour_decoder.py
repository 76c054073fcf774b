"""A task from outside the package: find the objects that a phrase names, and name the colour of each."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from mmengine.evaluator import BaseMetric
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.data.annotations import load_json
from lumen.data.coco import CocoDataset
from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss, boxes_at
from lumen.decoders.peaks import BoxLimits, best_boxes, pick_peaks
from lumen.ops.geometry import box_iou
from lumen.registry import DATASETS, DECODERS, METRICS
from lumen.structures import Field, PerceptionSample, SharedRepresentation, TaskSpec, targets_per_pair

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
FIELDS = {"colours": Field("classes")}


@DATASETS.register_module()
class ColourDataset(CocoDataset):
    """A COCO file whose annotations have a ``colour``; ``instances`` get ``colours``, an index into ``COLOURS``."""

    fields = FIELDS

    def load_data_list(self) -> list[dict]:
        """Add the colours to the checked records, by annotation id."""
        records = super().load_data_list()
        colour_of = {entry["id"]: entry["colour"] for entry in load_json(self.ann_file)["annotations"]}
        for instances in (record["instances"] for record in records):
            colours = [COLOURS.index(colour_of[number]) for number in instances["ann_ids"].tolist()]
            instances["colours"] = np.array(colours, dtype=np.int64)
        return records


@DECODERS.register_module()
class ColourNamingDecoder(Decoder):
    """Boxes as in detection; a linear layer on ``dense`` names the colour at the middle of each object."""

    spec = TaskSpec(
        name="colour_naming",
        targets=frozenset({"bboxes", "colours"}),
        predictions=frozenset({"bboxes", "colours", "scores", "labels", "prompt_index"}),
        headline="colour_naming/accuracy",
        losses={"loss_box": "objects", "loss_colour": "objects"},
        fields=FIELDS,
    )

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.head = BoxHead(channels)
        self.colour = nn.Linear(channels, len(COLOURS))

    def forward(
        self, shared: SharedRepresentation, pair: Int[Tensor, " n"], cells_xy: Int[Tensor, "n 2"]
    ) -> Float[Tensor, "n colours"]:
        """Return the logits of the colours at cells."""
        return self.colour(shared.dense[shared.image_index[pair], :, cells_xy[:, 1], cells_xy[:, 0]]).float()

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of boxes and colours, summed over objects."""
        targets = targets_per_pair(samples, shared, fields=FIELDS)
        centres = (targets.bboxes[:, :2] + targets.bboxes[:, 2:]) / (2 * shared.stride)
        logits = self(shared, targets.pair_index, centres.long())
        return {
            "loss_box": box_loss(self.head(shared), targets, shared),
            "loss_colour": functional.cross_entropy(logits, targets.colours, reduction="sum"),
        }

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return boxes in input pixels, each with the index of its colour."""
        pair, cells_xy, scores, _ = pick_peaks(shared, num_peaks=20, min_score=0.01)
        boxes = boxes_at(self.head(shared), shared.image_index[pair], cells_xy, shared.stride)
        colours = self(shared, pair, cells_xy).argmax(1)
        table = InstanceData(bboxes=boxes, colours=colours, scores=scores, pair_index=pair)
        return best_boxes(table, samples, shared, BoxLimits())


@METRICS.register_module()
class ColourAccuracy(BaseMetric):
    """Share of objects that are found and whose colour is right. An object is found by a box with an IoU of 0.5.

    ``found`` is the share that is found; ``blind`` what the most frequent colour, given to every object, would reach.
    """

    default_prefix = "colour_naming"
    needs = frozenset({"bboxes", "colours", "scores", "prompt_index"})

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Note the true colour of each object, and the colour of the best box on it, -1 where there is none."""
        for sample in data_samples:
            targets, answers = sample["gt_instances"], sample["pred_instances"]
            boxes = sample["frame"].boxes_to_original(targets["bboxes"])
            hits = box_iou(boxes, answers["bboxes"]) >= 0.5
            hits &= targets["prompt_index"][:, None] == answers["prompt_index"]
            # Column 0 stands for "not found"; every box on the object beats it.
            best = functional.pad(torch.where(hits, answers["scores"], -1.0), (1, 0), value=-0.5).argmax(1)
            named = functional.pad(answers["colours"], (1, 0), value=-1)[best]
            # One entry per sample: MMEngine drops what goes beyond the number of samples.
            self.results.append(list(zip(targets["colours"].tolist(), named.tolist(), strict=True)))

    def compute_metrics(self, results: list[list[tuple[int, int]]]) -> dict[str, float]:
        """Return the shares, -1 where there is no object."""
        rows = [row for of_sample in results for row in of_sample]
        if not rows:
            return {"accuracy": -1.0, "found": -1.0, "blind": -1.0}
        true, named = np.array(rows).T
        return {
            "accuracy": float((true == named).mean()),
            "found": float((named >= 0).mean()),
            "blind": float(np.bincount(true).max() / len(true)),
        }
