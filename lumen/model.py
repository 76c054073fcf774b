"""``Lumen``: adapter, aligner and routed decoders behind MMEngine's model interface.

    images (I, 3, H, W)      prompts: a list per image
           |                        |
           v                        v
    +--------------------------------------+
    | lmm: HFAdapter                       |   one pass: the image once, all its prompts packed behind it
    |   vision tower -> connector -> LLM   |
    +--------------------------------------+
           | grid (I, dim, h, w)    | query (P, dim), the state at the [LOC] of each pair
           | laterals, finer maps   |
           v                        v
    +--------------------------------------+
    | aligner: DenseAligner                |<-- map queries, which the decoders provide
    |   two-way attention, fine levels     |
    +--------------------------------------+
           |
           v  SharedRepresentation of P pairs of I images: heat_logits (P, 1, h, w), presence_logits (P),
           |  query (P, c), dense (I, c, h, w), maps (P, queries, h, w)
           |
           +--> pairs of task "detection" --> DetectionDecoder --> boxes
           +--> pairs of task "pose" -------> PoseDecoder -------> keypoints
           +--> ...

Each of the three parts names in ``losses`` what its loss sums are divided by, and gives them by ``loss``.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from mmengine import dist
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from lumen.data.pipelines import ModelInputs
from lumen.decoders.base import Decoder
from lumen.decoders.checks import check_heat, check_predictions, check_targets
from lumen.errors import CheckpointError, ConfigError, DataError, PromptError, named_faults
from lumen.ops.fields import answer_to_original
from lumen.registry import DECODERS, MODELS
from lumen.routing import pairs_of_task, select_pairs
from lumen.structures import (
    FeatureWidths,
    LocFeatures,
    PerceptionSample,
    SharedRepresentation,
)

MAX_PIXELS = 448 * 448
"""Pixels of the images where neither the config nor the LMM says how large they are."""

ImageBatch = Sequence[Tensor | BaseDataElement] | Tensor
_MODES = ("loss", "predict", "tensor")


@MODELS.register_module()
class Lumen(BaseModel):
    """One LMM pass, one shared representation, and a tiny decoder per task.

    Args:
        lmm: Config of the adapter, or the adapter.
        aligner: Config of the aligner, or the aligner; its ``widths`` are filled in from the adapter.
        decoders: Configs of the decoders, or decoders, at most one per task; ``channels`` is filled in.
        loss_weights: Weight by name, such as ``{"detection/loss_box": 2.0}``; 1 where none is given.
        input_hw: Height and width of the images, for an LMM that takes several sizes; see ``inputs``.
        max_pixels: Bound on the pixels of the square that is used where ``input_hw`` is left out and any size is taken.
        data_preprocessor: MMEngine's; moves a batch to the device when left out.

    Raises:
        ConfigError: If two decoders share a task, one needs a heatmap that the aligner lacks, a loss weight names no
            loss, or the LMM does not take ``input_hw``.
    """

    num_micro_batches: int = 1
    """Pieces that ``train_step`` computes a batch in; ``LumenRunner`` sets it to ``accumulative_counts``."""

    def __init__(
        self,
        lmm: dict | nn.Module,
        aligner: dict | nn.Module,
        decoders: Sequence[dict | Decoder],
        *,
        loss_weights: Mapping[str, float] | None = None,
        input_hw: Sequence[int] | None = None,
        max_pixels: int = MAX_PIXELS,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        # Parts come as configs or built; what one needs of another is filled in, so that a config cannot contradict it.
        if isinstance(lmm, dict):
            path = lmm.get("name_or_path")
            with named_faults(f"the LMM {path!r} cannot be built", CheckpointError, remedy="check config and folder"):
                lmm = MODELS.build(lmm)
        self.lmm = lmm
        if isinstance(aligner, dict):
            aligner = MODELS.build({**aligner, "widths": FeatureWidths.of(self.lmm)})
        self.aligner = aligner
        built = [
            DECODERS.build({**decoder, "channels": aligner.channels}) if isinstance(decoder, dict) else decoder
            for decoder in decoders
        ]
        check_heat(aligner, built)
        # Keyed by task: this is how pairs find their decoder.
        self.decoders = nn.ModuleDict({decoder.spec.name: decoder for decoder in built})
        if len(self.decoders) != len(built):
            raise ConfigError(f"one decoder per task, got {[decoder.spec.name for decoder in built]}")
        self._note_decoders()
        self.loss_weights = dict(loss_weights or {})
        unknown = sorted(set(self.loss_weights) - set(self.loss_counts))
        if unknown:
            raise ConfigError(f"loss_weights name unknown losses {unknown}; known are {sorted(self.loss_counts)}")
        self._input_hw = None if input_hw is None else (int(input_hw[0]), int(input_hw[1]))
        if self.lmm.input_spec is not None:
            self._input_hw = self.lmm.input_spec.chosen_hw(input_hw, max_pixels)

    def add_decoder(self, decoder: Decoder) -> None:
        """Add a task; the answers of the others stay as they are, to the last bit.

        Args:
            decoder: Built for this aligner's width; moved to the device of the model.

        Raises:
            ConfigError: The model has a decoder for this task, which must be removed first, or lacks a heatmap for it.
        """
        check_heat(self.aligner, [decoder])
        if decoder.spec.name in self.decoders:
            raise ConfigError(f"the model has a decoder for {decoder.spec.name!r}: {list(self.decoders)}")
        # The LMM may be spread over several devices; decoders stand beside the aligner.
        device = next(self.aligner.parameters(), next(self.parameters())).device
        self.decoders[decoder.spec.name] = decoder.to(device).train(self.training)
        self._note_decoders()

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint must agree with; see ``HFAdapter.describe``."""
        return {**self.lmm.describe(), "tasks": " ".join(self.decoders)}

    @property
    def inputs(self) -> ModelInputs:
        """What pipelines of the model's data take from it where they do not say: size of images, its only task.

        The size is ``input_hw``, or else the only one that the LMM takes, or else a square of ``max_pixels`` at most.
        """
        return ModelInputs(self._input_hw, next(iter(self.decoders)) if len(self.decoders) == 1 else None)

    @property
    def written_fields(self) -> frozenset[str]:
        """Fields of ``pred_instances`` that some decoder writes; what metrics may need."""
        return frozenset().union(*(decoder.spec.predictions for decoder in self.decoders.values()))

    def forward(
        self,
        inputs: ImageBatch,
        data_samples: Sequence[PerceptionSample],
        mode: str = "tensor",
        *,
        counts: Mapping[str, Tensor] | None = None,
    ) -> SharedRepresentation | dict[str, Tensor] | list[PerceptionSample]:
        """MMEngine's entry point.

        Args:
            inputs: One uint8 RGB image (3, height, width) per sample, all of one size, or for each a clip (frames, 3,
                height, width), or what else the adapter takes in place of an image.
            data_samples: The samples, with their prompts.
            mode: ``loss`` gives named losses, ``predict`` the samples with ``pred_instances`` in original pixels,
                ``tensor`` the shared representation.
            counts: What ``loss`` divides by; the counts of these samples when left out. Those of a larger batch where
                these samples are a piece of it.

        Raises:
            PromptError: If a prompt names a task without a decoder.
            DataError: If a sample lacks a target that its decoder names.
        """
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {mode!r}")
        self._check_tasks(data_samples)
        if mode == "loss" and counts is None:
            counts = self.count(data_samples)
        # The LMM reads each image once, with all of its prompts: a query per pair, a grid per image.
        images, prompts = _stacked(inputs), [sample.prompts for sample in data_samples]
        features = self.lmm(images, prompts, extras=self.extras, predicting=mode == "predict")
        features = self.add_images(features, images, data_samples)
        # The aligner matches queries and grids, the same way for every task.
        shared = self.align(features)
        if mode == "tensor":
            return shared
        # Each decoder reads the pairs of its own task.
        if mode == "predict":
            return self.predict(shared, data_samples)
        return self.normalise(self.sum_losses(features, shared, data_samples), counts)

    def train_step(
        self, data: dict, optim_wrapper: OptimWrapper, *, wrapper: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Do one optimizer step over the whole batch, in ``num_micro_batches`` pieces.

        Every loss is a sum divided by one count over all ranks and pieces, so these add up to the whole, apart from
        batch normalisation. ``wrapper`` is what the model is wrapped in for several ranks.

        Raises:
            ConfigError: On several ranks, a trained parameter got no gradient.
        """
        data, run = self.data_preprocessor(data, True), wrapper or self
        inputs, samples = data["inputs"], data["data_samples"]
        counts, size = self.count(samples), -(-len(samples) // self.num_micro_batches)
        logged: dict[str, Tensor] = {}
        for start in range(0, len(samples), size):
            piece, is_last = slice(start, start + size), start + size >= len(samples)
            # Gradients of the pieces add up; DDP exchanges them with the last piece, FSDP2 with each.
            with nullcontext() if is_last else getattr(run, "no_sync", nullcontext)():
                with optim_wrapper.optim_context(run):
                    losses = run(inputs[piece], samples[piece], mode="loss", counts=counts)
                    total, named = self.parse_losses(losses)
                optim_wrapper.backward(total)
            logged = {key: logged.get(key, 0) + value.detach() for key, value in named.items()}
        if wrapper is not None:
            _check_gradients(self)
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return logged

    def count(self, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Count what losses are divided by, over all ranks: pairs and objects by task, answer tokens, in all.

        Prompts that are answered as text give no pairs, and their objects take no part in the heatmap.
        """
        counted = Counter(self.lmm.count_tokens([sample.prompts for sample in samples]))
        for sample in samples:
            tasks = [prompt.task for prompt in sample.prompts]
            located = [task for task in tasks if task not in self.text_tasks]
            counted["pairs"] += len(located)
            counted.update(f"{task}/pairs" for task in located)
            # An object stands in the table once for each prompt that asks for it.
            objects = [tasks[index] for index in sample.gt_instances.prompt_index.tolist()]
            counted["objects"] += sum(task not in self.text_tasks for task in objects)
            counted.update(f"{task}/objects" for task in objects)
        # One sum over ranks for all counts; at least 1, so that nothing is divided by 0.
        names, device = sorted(set(self.loss_counts.values())), next(self.parameters()).device
        total = torch.tensor([counted[name] for name in names], dtype=torch.float64, device=device)
        dist.all_reduce(total, op="sum")
        return dict(zip(names, total.clamp(min=1).unbind(), strict=True))

    def sum_losses(
        self, features: LocFeatures, shared: SharedRepresentation, samples: Sequence[PerceptionSample]
    ) -> dict[str, Tensor]:
        """Return the loss sums of all parts, by the names in ``loss_counts``.

        Raises:
            DataError: If a sample lacks a target that its decoder names.
            ConfigError: If a decoder gives other losses than its spec names.
        """
        sums = {f"lmm/{name}": total for name, total in self.lmm.loss(features, samples).items()}
        sums |= {f"aligner/{name}": total for name, total in self.aligner.loss(shared, samples).items()}
        for task, decoder in self.decoders.items():
            check_targets(decoder, samples)
            # Every decoder computes in every batch, with no pairs where it has none: all ranks take the same steps.
            losses = decoder.loss(self._pairs_of(task, shared, samples), samples)
            if set(losses) != set(decoder.spec.losses):
                raise ConfigError(
                    f"decoder {task!r} returned {sorted(losses)}, its spec names {sorted(decoder.spec.losses)}"
                )
            sums |= {f"{task}/{name}": total for name, total in losses.items()}
        return sums

    def normalise(self, sums: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each loss: its sum, divided by its count over the global batch, times its weight.

        Times the number of ranks too, since data-parallel training averages gradients over them.
        """
        ranks = dist.get_world_size()
        return {
            name: total.float() * (self.loss_weights.get(name, 1.0) * ranks / counts[self.loss_counts[name]].float())
            for name, total in sums.items()
        }

    def predict(
        self, shared: SharedRepresentation, samples: Sequence[PerceptionSample], *, task: str | None = None
    ) -> list[PerceptionSample]:
        """Answer every sample's prompts; boxes are written in original pixels.

        Args:
            shared: The representation of all pairs.
            samples: The samples that it points to.
            task: Task whose empty table a sample without prompts gets; that of the first decoder when left out.

        Raises:
            DataError: If one sample mixes tasks: their answers have different fields.
        """
        empty_task = next(iter(self.decoders)) if task is None else task
        for sample in samples:
            tasks = sorted({prompt.task for prompt in sample.prompts})
            if len(tasks) > 1:
                raise DataError(f"one sample is asked one task at a time when predicting, got {tasks}")
        self._check_tasks(samples)
        # Every decoder answers every sample; a sample keeps the answer of the task that it was asked.
        for name, decoder in self.decoders.items():
            answers = decoder.predict(self._pairs_of(name, shared, samples), samples)
            for sample, answer in zip(samples, answers, strict=True):
                if name == (sample.prompts[0].task if sample.prompts else empty_task):
                    check_predictions(decoder, answer)
                    sample.pred_instances = answer_to_original(answer, sample.frame, decoder.spec.kinds)
        return list(samples)

    def add_images(self, features: LocFeatures, images: ImageBatch, samples: Sequence[PerceptionSample]) -> LocFeatures:
        """Add ``extras['images']``, the uint8 input, where a decoder that these samples ask for names it.

        Args:
            features: Of the adapter; a cache may hold the images already.
            images: What the adapter was given.
            samples: The samples, with their prompts.

        Raises:
            ConfigError: The adapter was given no images.
        """
        asked = {prompt.task for sample in samples for prompt in sample.prompts}
        wanted = sorted(task for task in asked & set(self.decoders) if "images" in self.decoders[task].spec.extras)
        if not wanted or "images" in features.extras:
            return features
        if not isinstance(images, Tensor):
            raise ConfigError(f"the decoders of {wanted} need images: write the cache with --extras images")
        if images.ndim != 4:
            raise ConfigError(f"the decoders of {wanted} read single images, got clips of {images.shape[1]} frames")
        return dataclasses.replace(features, extras={**features.extras, "images": images})

    def align(self, features: LocFeatures) -> SharedRepresentation:
        """Run the aligner with the map queries of all decoders."""
        return self.aligner(features, torch.cat([decoder.map_queries for decoder in self.decoders.values()]))

    def _pairs_of(
        self, task: str, shared: SharedRepresentation, samples: Sequence[PerceptionSample]
    ) -> SharedRepresentation:
        """Return the representation of a task's pairs, with the maps of its decoder's own map queries."""
        start = 0  # map queries of all decoders lie one after the other, and so do their maps
        for name, decoder in self.decoders.items():
            if name == task:
                maps = slice(start, start + decoder.spec.map_queries)
                return select_pairs(shared, pairs_of_task(samples, shared, task), maps)
            start += decoder.spec.map_queries
        raise PromptError(f"no decoder for task {task!r}; this model has {list(self.decoders)}")

    def _check_tasks(self, samples: Sequence[PerceptionSample]) -> None:
        unknown = {prompt.task for sample in samples for prompt in sample.prompts} - set(self.decoders)
        if unknown:
            raise PromptError(f"no decoder for tasks {sorted(unknown)}; this model has {list(self.decoders)}")

    def _note_decoders(self) -> None:
        """Collect what all decoders need and write."""
        specs = [decoder.spec for decoder in self.decoders.values()]
        self.extras = frozenset().union(*(spec.extras for spec in specs))
        self.text_tasks = frozenset(
            spec.name for spec in specs if "texts" in spec.extras and self.lmm.is_text(spec.name)
        )
        self.loss_counts = self._count_names()

    def _count_names(self) -> dict[str, str]:
        """Return what each loss is divided by; the names of all losses that this model can give."""
        counts = {f"lmm/{name}": count for name, count in self.lmm.losses.items()}
        # Without a task that is answered as text there is no text to learn, and no such loss to weight.
        if not self.text_tasks:
            counts = {name: count for name, count in counts.items() if count != "text_tokens"}
        counts |= {f"aligner/{name}": count for name, count in self.aligner.losses.items()}
        for task, decoder in self.decoders.items():
            counts |= {f"{task}/{name}": f"{task}/{count}" for name, count in decoder.spec.losses.items()}
        return counts


def _stacked(inputs: ImageBatch) -> ImageBatch:
    """Return images as one tensor; what is not an image, such as cached features, stays a list."""
    if isinstance(inputs, Tensor) or not all(isinstance(image, Tensor) for image in inputs):
        return inputs
    shapes = sorted({tuple(image.shape) for image in inputs})
    if len(shapes) > 1:
        raise DataError(
            f"a batch holds images, or clips, of one shape, got {shapes}. All pipelines must draw one size; where a "
            "mixture has images and clips, set run of MixtureSampler to the samples of a batch, over all ranks"
        )
    return torch.stack(list(inputs))


def _check_gradients(model: nn.Module) -> None:
    """Refuse trained parameters without a gradient: DDP would wait for them in the next step."""
    idle = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if idle:
        raise ConfigError(
            f"{len(idle)} trained parameters have no part in any loss, such as {idle[:3]}: freeze them by a FreezeHook"
        )
