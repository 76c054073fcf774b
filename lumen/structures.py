"""Data passed between the modules: prompts, samples, LMM features, the shared representation, task descriptions.

Two units. A *sample* is one image with its list of prompts: data sets give samples, decoders answer samples, metrics
read samples. A *pair* is one image with one prompt: only the aligner and the decoders see pairs. ``image_index[p]``
names the sample of pair ``p`` in its batch, ``prompt_index[p]`` the prompt within that sample. Axis names: pairs,
images, dim (width of the LMM), channels (width of the aligner), height, width, queries, n (instances), keypoints.
Pixels are pixels of the network input, unless a name states otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

NO_LABEL = -1
COUNTS = ("pairs", "objects")
FIELD_KINDS = ("points", "directions", "angles", "classes", "numbers")
"""What a field of a plug-in can be; see ``Field``."""
MOVING_KINDS = frozenset({"boxes", "masks", "points", "directions", "angles"})
"""Kinds that change when the image is resized, flipped or cropped."""
STANDARD_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "bboxes": "boxes",
        "masks": "masks",
        "points": "points",
        "keypoints": "points",
        "labels": "classes",
        "prompt_index": "numbers",
        "scores": "numbers",
        "box_scores": "numbers",
        "peak_scores": "numbers",
        "keypoint_scores": "numbers",
        "counts": "numbers",
        "texts": "texts",
    }
)
"""Kind of each field that Lumen knows by name. Plug-ins declare all others as ``Field``."""
LVIS_ABSENT = "neg_category_ids"
"""In an image of an LVIS file: the classes that are verified absent."""
LVIS_INCOMPLETE = "not_exhaustive_category_ids"
"""In an image of an LVIS file: the classes of which only some objects are annotated."""
_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
_PAIR_KINDS = frozenset({"points", "directions"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question about one image. The wording never decides the label.

    Args:
        text: The phrase: a class name, a sentence, a keypoint name. Not yet in a template.
        task: Name of the task that answers it; picks the decoder.
        label: Index into ``metainfo['classes']``, or -1 for a free phrase. Of a keypoint: its index in the skeleton.
        answer: What the LMM is trained to answer, in text tasks; with ``is_cut`` the beginning of a longer answer.
        history: Earlier turns of the conversation, for tasks that are answered in text: (question, answer) each.
        weight: How much the answer counts where it is learned.
    """

    text: str
    task: str = "detection"
    label: int = NO_LABEL
    answer: str = ""
    history: tuple[tuple[str, str], ...] = ()
    is_cut: bool = False
    weight: float = 1.0

    def __deepcopy__(self, memo: dict) -> "Prompt":
        """Return itself: it cannot change, and MMEngine copies metainfo deeply at every move of a sample."""
        return self


@dataclass(frozen=True, slots=True)
class Field:
    """What a field of a plug-in holds for each object, so that geometry can treat it as it must.

    Kinds, and what resizing, flipping and cropping an image do to them:

    - ``points``: (x, y) in pixels; they move with the image, also out of the view.
    - ``directions``: vectors (x, y); they turn under a flip and under unequal scales, and keep their length. A distance
      in pixels is not a direction: declare its two ends as points.
    - ``angles``: radians from the x axis towards the y axis, which points down; they turn as directions do and come
      back in (-pi, pi].
    - ``classes``: integers; they stay.
    - ``numbers``: anything else that does not depend on the view; they stay. Rows of left and right are not swapped.

    Args:
        kind: One of ``FIELD_KINDS``.
        shape: Shape of one object's value, ends in 2 for points and directions; left out (2,) for these, else ().
        dtype: int64 for classes, float32 for others where left out.

    Raises:
        ValueError: The kind is unknown, or the shape does not fit it.
    """

    kind: str
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.kind not in FIELD_KINDS:
            raise ValueError(f"kind of a field must be one of {FIELD_KINDS}, got {self.kind!r}")
        is_pair = self.kind in _PAIR_KINDS
        shape = ((2,) if is_pair else ()) if self.shape is None else tuple(self.shape)
        if is_pair and shape[-1:] != (2,):
            raise ValueError(f"the last axis of {self.kind} holds (x, y), so the shape must end in 2, got {shape}")
        dtype = self.dtype or (torch.int64 if self.kind == "classes" else torch.float32)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", dtype)

    def example(self, num_objects: int) -> Tensor:
        """Return values for objects without annotations: zeros, and directions along x."""
        values = torch.zeros(num_objects, *self.shape, dtype=self.dtype)
        if self.kind == "directions":
            values[..., 0] = 1
        return values


class PerceptionSample(BaseDataElement):
    """One image with its prompts, its targets and, later, its predictions.

    Data fields (all ``InstanceData`` in input pixels until ``Lumen`` restores predictions to original pixels):
        gt_instances: ``bboxes`` (n, 4) xyxy, ``labels`` (n), ``prompt_index`` (n). One row per object *and* prompt
            that asks for it: two prompts for one class give two rows, objects that no prompt asks for give none. A box
            without extent is a point, such as a keypoint. Where a task needs them: ``masks`` (n, height, width) bool,
            and the fields that the data set declares.
        ignored_instances: The same fields for crowd and ignored regions.
        unlabelled: Where a label map tells, a single row: ``masks`` (1, height, width) of the pixels without a class.
        pred_instances: One row per detection, with at least ``scores``, ``labels`` and ``prompt_index``.

    Metainfo: ``prompts`` (tuple of ``Prompt``), ``frame`` (``InputTransform``), ``classes``, ``img_id``, ``img_path``,
        ``ori_shape`` and ``img_shape`` (both height, width). Where a sample is one object, as for pose:
        ``instance_id`` (annotation id, or index in the detection file), ``box`` (xyxy, original pixels), ``box_label``
        (index into ``classes``) and ``box_score`` (1 for an annotated box). ``fields``: kinds of declared fields.
    """

    prompts: tuple[Prompt, ...]
    gt_instances: InstanceData
    ignored_instances: InstanceData
    unlabelled: InstanceData
    pred_instances: InstanceData


@dataclass(frozen=True, slots=True)
class NameScores:
    """Log-probabilities that the LMM's output layer gives to phrases at the image token of each cell.

    Args:
        phrases: Of each pair's phrase, the mean over its tokens; 0 for a pair whose phrase is too long for a name.
        nothing: Of the token for nothing to name.
    """

    phrases: Float[Tensor, "pairs rows columns"]
    nothing: Float[Tensor, "images rows columns"]


@dataclass(frozen=True, slots=True)
class LocFeatures:
    """What an LMM adapter gives for P prompts on I images.

    Args:
        query: State of the first slot of each pair, which is ``[LOC]`` unless the template names others.
        grid: Dense image features on the coarse grid.
        laterals: Finer feature maps of the vision tower, finest first; empty where the tower has none.
        stride: Input pixels per cell of ``grid``.
        image_index: Sample of each pair.
        prompt_index: Prompt of each pair within its sample.
        text_losses: Sums of text losses by name; ``losses`` of the adapter names what each is divided by.
        extras: Costly features that a routed decoder asked for by name.
        names: What the LMM's image tokens name; None where they do not learn it.
        slots: State of each slot of the template, by its token; none where features come from a cache.
    """

    query: Float[Tensor, "pairs dim"]
    grid: Float[Tensor, "images vision_dim height width"]
    laterals: tuple[Tensor, ...]
    stride: int
    image_index: Int[Tensor, " pairs"]
    prompt_index: Int[Tensor, " pairs"]
    text_losses: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    names: NameScores | None = None
    slots: Mapping[str, Float[Tensor, "pairs dim"]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeatureWidths:
    """How wide the features of an LMM adapter are; an aligner is built for them.

    Args:
        query: Width of ``LocFeatures.query``.
        grid: Channels of ``LocFeatures.grid``.
        laterals: Channels of ``LocFeatures.laterals``, finest first.
        slots: Tokens of ``LocFeatures.slots``.
    """

    query: int
    grid: int
    laterals: tuple[int, ...] = ()
    slots: tuple[str, ...] = ()

    @classmethod
    def of(cls, adapter: Any) -> "FeatureWidths":
        """Return those of an adapter, whose properties name them."""
        return cls(adapter.dim, adapter.vision_dim, tuple(adapter.lateral_channels), tuple(adapter.slots))


@dataclass(frozen=True, slots=True)
class SharedRepresentation:
    """What every decoder reads, for P pairs of I images. ``maps`` holds one channel per map query of the decoders.

    ``heat_logits`` and ``maps`` lie on the grid of ``dense``: cell (row, col) covers the square of ``stride`` input
    pixels whose top-left corner is (col * stride, row * stride). An aligner that matches nothing with the image gives
    neither heatmap nor presence (``TaskSpec.needs_heat``), and perhaps a ``dense`` without cells. ``slots`` holds a
    vector of each pair for each slot that the aligner reads.
    """

    heat_logits: Float[Tensor, "pairs 1 height width"] | None
    presence_logits: Float[Tensor, " pairs"] | None
    query: Float[Tensor, "pairs channels"]
    dense: Float[Tensor, "images channels height width"]
    image_index: Int[Tensor, " pairs"]
    prompt_index: Int[Tensor, " pairs"]
    maps: Float[Tensor, "pairs queries height width"]
    stride: int
    extras: Mapping[str, Any] = field(default_factory=dict)
    slots: Mapping[str, Float[Tensor, "pairs channels"]] = field(default_factory=dict)

    @property
    def num_pairs(self) -> int:
        """Number of pairs; zero when no prompt of the batch is routed here."""
        return len(self.image_index)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a decoder asks for, writes, and is judged by. Data, so that it can be printed and checked.

    Args:
        name: Task name; prompts carry it and are routed by it.
        targets: Fields of ``gt_instances`` that ``loss`` reads.
        predictions: Fields of ``pred_instances`` that ``predict`` writes, exactly.
        headline: Metric key that ranks checkpoints, such as ``coco/bbox_mAP``.
        losses: For each loss the decoder returns, what its sum is divided by: ``pairs`` or ``objects``.
        map_queries: Learnable queries that it provides for the aligner; it gets as many ``maps``.
        extras: Optional, costly features it needs, such as ``texts``, what the LMM answered to text prompts, or
            ``words``, what it wrote behind the last slot of location prompts.
        fields: What each target and prediction is that is not among ``STANDARD_KINDS``. A data set that gives such a
            target declares the same.
        needs_heat: Whether it reads the heatmap or presence, which not every aligner gives, or has map queries.

    Raises:
        ValueError: A loss, or a target or prediction that is not standard, is declared wrongly or not at all.
    """

    name: str
    targets: frozenset[str]
    predictions: frozenset[str]
    headline: str
    losses: Mapping[str, str]
    map_queries: int = 0
    extras: frozenset[str] = frozenset()
    fields: Mapping[str, Field] = field(default_factory=dict)
    needs_heat: bool = True

    def __post_init__(self) -> None:
        if self.map_queries and not self.needs_heat:
            raise ValueError(f"task {self.name!r}: maps of {self.map_queries} map queries need an aligner with heat")
        bad_names = [name for name in self.losses if not name.startswith("loss_")]
        if bad_names:
            raise ValueError(f"task {self.name!r}: names of losses must start with 'loss_', got {bad_names}")
        bad_counts = {count for count in self.losses.values() if count not in COUNTS}
        if bad_counts:
            raise ValueError(f"task {self.name!r}: a loss is divided by one of {COUNTS}, got {sorted(bad_counts)}")
        used = self.targets | self.predictions
        undeclared = sorted(used - STANDARD_KINDS.keys() - self.fields.keys())
        if undeclared:
            line = ", ".join(f"{name!r}: Field('numbers')" for name in undeclared)
            raise ValueError(
                f"task {self.name!r}: no kind is declared for {undeclared}. Add to its TaskSpec fields={{{line}}}, "
                f"each with the kind that it has: one of {FIELD_KINDS}"
            )
        surplus = sorted((self.fields.keys() - used) | (self.fields.keys() & STANDARD_KINDS.keys()))
        if surplus:
            raise ValueError(
                f"task {self.name!r}: fields declares {surplus}, which are neither targets nor predictions, or are "
                "standard fields of Lumen; leave them out"
            )

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each field that the task declares itself."""
        return {name: declared.kind for name, declared in self.fields.items()}


def targets_per_pair(
    samples: Sequence[PerceptionSample],
    shared: SharedRepresentation | LocFeatures,
    name: str = "gt_instances",
    *,
    fields: Mapping[str, Field] = _NO_FIELDS,
) -> InstanceData:
    """Collect the targets of all pairs in one flat table: the only place that matches instances with pairs.

    Args:
        samples: The samples that ``shared.image_index`` points to.
        shared: Names the pairs.
        name: ``gt_instances`` or ``ignored_instances``.
        fields: ``fields`` of the reader's ``TaskSpec``: a table without rows has them too.

    Returns:
        The instances of every pair one after the other, with ``pair_index`` (n) added. Instances whose prompt is not
        among the pairs are left out. A table without rows may lack all but ``bboxes``, ``labels``, ``prompt_index``,
        ``pair_index`` and ``fields``: a batch may hold nothing but other tasks.
    """
    slots = torch.full(
        (len(samples), max((len(sample.prompts) for sample in samples), default=0) + 1), -1, dtype=torch.long
    )
    slots[shared.image_index.cpu(), shared.prompt_index.cpu()] = torch.arange(len(shared.image_index))
    device = shared.image_index.device
    tables = []
    for image, sample in enumerate(samples):
        instances = sample.get(name)
        if instances is None or len(instances) == 0:
            continue
        pair_index = slots[image, instances.prompt_index.cpu()]
        chosen = pair_index >= 0
        if not bool(chosen.any()):
            continue
        table = instances if bool(chosen.all()) else instances[chosen.to(instances.prompt_index.device)]
        table = InstanceData(**dict(table.items())).to(device)
        table.pair_index = pair_index[chosen].to(device)
        tables.append(table)
    if not tables:
        return _no_instances(samples, shared, name, fields)
    # Samples of different tasks carry different fields; a reader of several tasks gets the fields that all have.
    common = set.intersection(*(set(table.keys()) for table in tables))
    return InstanceData.cat([InstanceData(**{key: table[key] for key in common}) for table in tables])


def gather_pairs(
    per_pair: InstanceData, samples: Sequence[PerceptionSample], shared: SharedRepresentation
) -> list[InstanceData]:
    """Turn a flat table of answers, which names its pairs in ``pair_index``, into one table per sample.

    ``pair_index`` is replaced by ``prompt_index``, and ``labels`` are filled in from the prompts.
    """
    labels = _prompt_labels(samples, shared)
    answers = InstanceData(**{key: value for key, value in per_pair.items() if key != "pair_index"})
    answers.prompt_index = shared.prompt_index[per_pair.pair_index]
    answers.labels = labels[per_pair.pair_index]
    image_index = shared.image_index[per_pair.pair_index]
    return [answers[image_index == image] for image in range(len(samples))]


def _prompt_labels(samples: Sequence[PerceptionSample], shared: SharedRepresentation) -> Tensor:
    pairs = zip(shared.image_index.tolist(), shared.prompt_index.tolist(), strict=True)
    labels = [samples[image].prompts[prompt].label for image, prompt in pairs]
    return torch.tensor(labels, dtype=torch.long, device=shared.image_index.device)


def _no_instances(
    samples: Sequence[PerceptionSample],
    shared: SharedRepresentation | LocFeatures,
    name: str,
    fields: Mapping[str, Field],
) -> InstanceData:
    """Return a table without rows, with the further fields of the first sample that is asked, where it has any."""
    device = shared.image_index.device
    asked = [samples[image].get(name) for image in shared.image_index[:1].tolist()]
    further = dict(asked[0][:0].to(device).items()) if asked and asked[0] is not None else {}
    empty = torch.zeros(0, dtype=torch.long, device=device)
    needed = {"bboxes": torch.zeros(0, 4, device=device), "labels": empty, "prompt_index": empty.clone()}
    declared = {key: declared.example(0).to(device) for key, declared in fields.items()}
    return InstanceData(**{**needed, **declared, **further, "pair_index": empty.clone()})
