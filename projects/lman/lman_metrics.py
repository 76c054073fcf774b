"""Figures of persons: attributes, identities over cameras, and the miss rate of a detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from lumen.errors import DataError
from lumen.metrics.tables import NOT_MEASURED, require_fields, require_once, share, to_array
from lumen.ops.geometry import box_iou
from lumen.registry import METRICS


@METRICS.register_module()
class AttributeMetric(BaseMetric):
    """Mean accuracy and instance F1 of binary attributes. A prompt is an attribute; its label names it.

    ``mA`` is the mean over attributes of the mean of the accuracy on positives and on negatives, so that one answer to
    all gives 0.5; an attribute with positives or negatives alone counts by those. ``F1`` is that of the means, over
    images, of precision and recall.

    Args:
        threshold: Least score of an attribute that is there.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Source:
        Li et al., "A Richly Annotated Dataset for Pedestrian Attribute Recognition" (2016), section 4.1.
    """

    default_prefix = "attributes"
    needs = frozenset({"scores", "prompt_index"})

    def __init__(self, *, threshold: float = 0.5, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.threshold = threshold

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/mA"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store label, truth and answer of every prompt.

        Raises:
            DataError: A prompt was not answered exactly once.
        """
        for sample in data_samples:
            answers = require_fields(sample, "pred_instances", self.needs)
            asked, scores = to_array(answers["prompt_index"]).astype(int), to_array(answers["scores"])
            if sorted(asked.tolist()) != list(range(len(sample["prompts"]))) or not np.isfinite(scores).all():
                raise DataError(
                    f"image {sample['img_id']}: {len(sample['prompts'])} attributes need one finite score each, got "
                    f"scores {scores.tolist()} for prompts {asked.tolist()}"
                )
            truth = np.zeros(len(asked), dtype=bool)
            truth[to_array(sample["gt_instances"]["prompt_index"]).astype(int)] = True
            labels = np.array([prompt.label for prompt in sample["prompts"]], dtype=int)
            self.results.append((sample["img_id"], labels, truth, (scores >= self.threshold)[asked.argsort()]))

    def compute_metrics(self, results: list[tuple[Any, np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Return the figures, in [0, 1]; -1 where there is nothing to measure.

        Raises:
            DataError: An image was answered twice.
        """
        require_once([result[0] for result in results], "images")
        nothing = (None, np.zeros(0, int), np.zeros(0, bool), np.zeros(0, bool))
        labels, truth, answer = (np.concatenate([each[place] for each in [nothing, *results]]) for place in (1, 2, 3))
        names = (self.dataset_meta or {}).get("classes", ())
        of_name = {name: _balanced(truth[labels == place], answer[labels == place]) for place, name in enumerate(names)}
        measured = np.array([value for value in of_name.values() if value != NOT_MEASURED])
        return {"mA": share(measured), "F1": _instance_f1(results)} | {f"mA_{name}": v for name, v in of_name.items()}


def _balanced(truth: Bool[np.ndarray, " n"], answer: Bool[np.ndarray, " n"]) -> float:
    parts = [share(answer[truth]), share(~answer[~truth])]
    measured = [part for part in parts if part != NOT_MEASURED]
    return float(np.mean(measured)) if measured else NOT_MEASURED


def _instance_f1(results: Sequence[tuple[Any, np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """Return F1 of mean precision and mean recall; an image without answers, or without attributes, has 0 there."""
    if not results:
        return NOT_MEASURED
    right = np.array([(truth & answer).sum() for _, _, truth, answer in results])
    precision = np.mean(right / np.maximum([answer.sum() for *_, answer in results], 1))
    recall = np.mean(right / np.maximum([truth.sum() for *_, truth, _ in results], 1))
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """What ``rank_identities`` finds.

    Args:
        rank_1: Share of the queries whose nearest picture shows the same person.
        mean_ap: Mean over the queries of the average precision of the order.
        num_queries: How many queries count.
        num_skipped: Queries whose person no other camera saw.
    """

    rank_1: float
    mean_ap: float
    num_queries: int
    num_skipped: int


def rank_identities(
    similarity: Float[np.ndarray, "n n"],
    identities: Int[np.ndarray, " n"],
    cameras: Int[np.ndarray, " n"],
    *,
    other_cameras_only: bool = False,
) -> Ranking:
    """Search each picture among all others; pictures of the same person by the same camera are left out.

    Args:
        similarity: Of each picture (rows) to each (columns); larger is nearer. Of equal ones the first counts first.
        identities: Person in each picture.
        cameras: Camera of each picture.
        other_cameras_only: Leave out all pictures of the same camera, which are near by their light alone.

    Raises:
        DataError: No person was seen by two cameras.

    Source:
        Zheng et al., "Scalable Person Re-identification: A Benchmark" (2015), section 4.
    """
    firsts, precisions = [], []
    for query in range(len(identities)):
        same = identities == identities[query]
        wanted = same & (cameras != cameras[query])
        if not wanted.any():
            continue
        others = cameras != cameras[query] if other_cameras_only else ~same
        gallery = np.flatnonzero(wanted | others)
        order = gallery[np.argsort(-similarity[query, gallery], kind="stable")]
        places = np.flatnonzero(wanted[order]) + 1
        firsts.append(places[0] == 1)
        precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
    if not firsts:
        raise DataError(f"no person of {len(identities)} pictures was seen by two cameras: nothing can be found again")
    return Ranking(float(np.mean(firsts)), float(np.mean(precisions)), len(firsts), len(identities) - len(firsts))


@METRICS.register_module()
class ReidMetric(BaseMetric):
    """Rank-1 and mAP of finding a person again in the pictures of other cameras; see ``rank_identities``.

    Every picture is a query. ``skipped`` counts those whose person no other camera saw. ``rank_1_other_cameras`` is
    rank-1 where all pictures of the query's camera are left out.

    Args:
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "reid"
    needs = frozenset({"embeddings", "prompt_index"})

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/rank_1"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store vector, person and camera of some pictures.

        Raises:
            DataError: A picture does not show one person, or has not one vector.
        """
        for sample in data_samples:
            found = to_array(require_fields(sample, "pred_instances", self.needs)["embeddings"])
            truth = require_fields(sample, "gt_instances", {"identity", "camera"})
            if len(found) != 1 or len(truth["identity"]) != 1 or not np.isfinite(found).all():
                raise DataError(
                    f"image {sample['img_id']}: expected one person and one vector of finite numbers, got "
                    f"{len(truth['identity'])} and {len(found)}"
                )
            self.results.append((sample["img_id"], found[0], int(truth["identity"][0]), int(truth["camera"][0])))

    def compute_metrics(self, results: list[tuple[Any, np.ndarray, int, int]]) -> dict[str, float]:
        """Return the figures.

        Raises:
            DataError: A picture was answered twice, or no person was seen by two cameras.
        """
        require_once([result[0] for result in results], "pictures")
        vectors = np.stack([vector for _, vector, _, _ in results]) if results else np.zeros((0, 1))
        identities, cameras = (np.array([result[place] for result in results], dtype=int) for place in (2, 3))
        similarity = vectors @ vectors.T
        found = rank_identities(similarity, identities, cameras)
        across = rank_identities(similarity, identities, cameras, other_cameras_only=True)
        print_log(f"{self.prefix}: {found}", logger="current")
        return {
            "rank_1": found.rank_1,
            "mAP": found.mean_ap,
            "rank_1_other_cameras": across.rank_1,
            "skipped": float(found.num_skipped),
        }


@METRICS.register_module()
class RetrievalMetric(BaseMetric):
    """R@1 of finding the picture of a caption among some pictures; a picture with an equal caption is right too.

    Pictures are taken in the order of the data set, so many at a time; a rest of fewer is left out, unless there is
    nothing else.

    Args:
        pool: Pictures among which is searched.
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.
    """

    default_prefix = "retrieval"
    needs = frozenset({"image_vectors", "text_vectors"})

    def __init__(self, *, pool: int = 100, prefix: str | None = None, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.pool = pool

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models."""
        return f"{self.prefix}/R@1"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the vectors and the caption of some pictures."""
        for sample in data_samples:
            found = require_fields(sample, "pred_instances", self.needs)
            vectors = [to_array(found[name])[0] for name in ("image_vectors", "text_vectors")]
            self.results.append((sample["img_id"], *vectors, sample["prompts"][0].answer))

    def compute_metrics(self, results: list[tuple[Any, np.ndarray, np.ndarray, str]]) -> dict[str, float]:
        """Return the figure, ``chance``, what a random picture would give, and the size of the pools.

        Raises:
            DataError: A picture was answered twice.
        """
        require_once([result[0] for result in results], "pictures")
        pool = min(self.pool, len(results))
        hits, chances = [], []
        for first in range(0, len(results) - pool + 1, pool) if pool else ():
            _, images, texts, captions = zip(*results[first : first + pool], strict=True)
            similarity = np.einsum("iqd,td->tiq", np.stack(images), np.stack(texts)).max(2)
            is_right = np.array(captions)[:, None] == np.array(captions)
            hits += is_right[np.arange(pool), similarity.argmax(1)].tolist()
            chances += is_right.mean(1).tolist()
        return {"R@1": share(np.array(hits)), "chance": share(np.array(chances)), "pool": float(pool)}


@METRICS.register_module()
class MissRate(BaseMetric):
    """MR-2 of a detector: the geometric mean of its miss rate at nine rates of false alarms; lower is better.

    Boxes of an image are taken best first; each finds the free object that it overlaps most, from IoU 0.5 on. One that
    finds none and lies for half in an ignored region does not count. The rates are 0.01 to 1 false alarms an image, in
    equal steps of the logarithm; where a detector has none so low, it misses all.

    Args:
        prefix: First part of the metric names.
        collect_device: ``cpu`` or ``gpu``, see MMEngine.

    Source:
        Dollar et al., "Pedestrian Detection: An Evaluation of the State of the Art" (2012), section 3.1.
    """

    default_prefix = "miss_rate"
    needs = frozenset({"bboxes", "scores", "prompt_index"})

    @property
    def headline(self) -> str:
        """Name of the figure that ranks models; lower is better."""
        return f"{self.prefix}/MR-2"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Match the boxes of some images, in original pixels."""
        for sample in data_samples:
            answers = require_fields(sample, "pred_instances", self.needs)
            hits, scores, num_objects = [], [], 0
            for prompt in range(len(sample["prompts"])):
                asked = answers["prompt_index"] == prompt
                objects, ignored = (_boxes_of(sample, name, prompt) for name in ("gt_instances", "ignored_instances"))
                order = answers["scores"][asked].argsort(descending=True, stable=True)
                boxes = answers["bboxes"][asked][order].cpu()
                found, counts = match_boxes(boxes, objects, ignored)
                hits.append(found[counts])
                scores.append(to_array(answers["scores"][asked][order])[counts])
                num_objects += len(objects)
            # One entry per sample: MMEngine drops what goes beyond the number of samples.
            self.results.append((np.concatenate([*hits, []]), np.concatenate([*scores, []]), num_objects))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray, int]]) -> dict[str, float]:
        """Return the figure, in [0, 1]; -1 where there is no object."""
        num_objects = sum(number for *_, number in results)
        if not num_objects:
            return {"MR-2": NOT_MEASURED}
        hits, scores = (np.concatenate([result[place] for result in results]) for place in (0, 1))
        return {"MR-2": log_average_miss_rate(hits[np.argsort(-scores, kind="stable")] > 0, num_objects, len(results))}


def _boxes_of(sample: Mapping[str, Any], name: str, prompt: int) -> Any:
    table = sample[name]
    return sample["frame"].boxes_to_original(table["bboxes"][table["prompt_index"] == prompt]).cpu()


def match_boxes(boxes: Any, objects: Any, ignored: Any) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return which boxes find an object, and which count.

    Args:
        boxes: Tensor (n, 4), xyxy, best first.
        objects: Tensor (m, 4).
        ignored: Regions where a false alarm does not count, tensor (k, 4).
    """
    overlap, free = to_array(box_iou(boxes, objects)), np.ones(len(objects), dtype=bool)
    found, counts = np.zeros(len(boxes), dtype=bool), np.ones(len(boxes), dtype=bool)
    inside = _share_inside(to_array(boxes), to_array(ignored)).max(1, initial=0.0)
    for place in range(len(boxes)):
        near = np.where(free, overlap[place], -1.0)
        if len(near) and near.max() >= 0.5:
            found[place], free[near.argmax()] = True, False
        else:
            counts[place] = inside[place] < 0.5
    return found, counts


def _share_inside(boxes: Float[np.ndarray, "n 4"], regions: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, "n k"]:
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (high - low).clip(min=0).prod(2) / np.maximum(area, 1e-12)[:, None]


def log_average_miss_rate(hits: Bool[np.ndarray, " n"], num_objects: int, num_images: int) -> float:
    """Return MR-2.

    Args:
        hits: Whether each box finds an object, best first over all images.
        num_objects: Objects in all images, at least 1.
        num_images: Images.
    """
    alarms, misses = np.cumsum(~hits) / num_images, 1 - np.cumsum(hits) / num_objects
    rates = []
    for rate in np.logspace(-2, 0, 9):
        allowed = np.flatnonzero(alarms <= rate)
        rates.append(misses[allowed[-1]] if len(allowed) else 1.0)
    return float(np.exp(np.mean(np.log(np.maximum(rates, 1e-10)))))
