"""Measures one evaluation and writes its protocol card."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from lumen.engine.ddp import unwrapped
from lumen.metrics.protocol import ProtocolCard
from lumen.model import Lumen
from lumen.structures import PerceptionSample, SharedRepresentation


class EvaluationMeter:
    """Counts what an evaluation asks and what it costs, from the moment it is made until ``write``.

    With several ranks each counts its own share; the figures per image in the card are those of rank 0.

    Args:
        model: The model, wrapped or not. For a model that is not a ``Lumen`` fewer fields are known.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)
        self._device = next(self._model.parameters()).device
        self._num_samples = self._num_prompts = 0
        self._seconds = 0.0
        self._stride: int | None = None
        self._unusable: dict[str, str] = {}
        self._hook = None
        if isinstance(self._model, Lumen):
            # Earlier evaluations and training have counted, too.
            self._model.lmm.usage.clear()
            self._model.lmm.answer_report.clear()
            # The stride is known once the aligner has run, and only there.
            self._hook = self._model.aligner.register_forward_hook(self._note_stride)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of what is computed inside."""
        # A GPU computes asynchronously: without waiting only the launches would be timed.
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._seconds += time.perf_counter() - start

    def count(self, samples: Sequence[PerceptionSample | Any]) -> None:
        """Count answered samples and their prompts, and note those whose image could not be used."""
        self._num_samples += len(samples)
        self._unusable |= {s.img_path: s.fault for s in samples if isinstance(s, PerceptionSample) and "fault" in s}
        self._num_prompts += sum(len(sample.prompts) for sample in samples if isinstance(sample, PerceptionSample))

    def write(
        self,
        runner: Runner,
        *,
        dataset: Dataset,
        evaluator: Evaluator,
        dtype: str,
        figures: Mapping[str, Any],
        mode: str,
    ) -> None:
        """Print the card, and write it to ``protocol_<mode>.json`` of the work dir, in place of an older one.

        Args:
            runner: The runner, for its config, weights and work dir.
            dataset: What was evaluated.
            evaluator: Its metrics; a ``protocol`` of theirs goes into the card.
            dtype: Precision of the evaluation.
            figures: The metrics' values.
            mode: ``val`` or ``test``.
        """
        if self._hook is not None:
            self._hook.remove()
        # All ranks meet here, so before the others return.
        unusable = self._all_unusable(runner)
        if not is_main_process():
            return
        meta = evaluator.dataset_meta or {}
        card = ProtocolCard(
            **self._lmm_entries(),
            prompts_per_image=self._per_image(self._num_prompts),
            ms_per_image=self._per_image(self._seconds * 1e3),
            config=str(runner.cfg.filename or runner.experiment_name),
            checkpoint=_weights_of(runner),
            dataset=str(meta.get("ann_file") or type(dataset).__name__),
            num_images=len(dataset),
            unusable_images=unusable,
            boxes=str(meta.get("boxes", "not used")),
            heatmap_stride=self._stride,
            dtype=dtype,
            peak_memory_mb=self._peak_memory_mb(),
            device=_name_of(self._device),
            metrics={type(metric).__name__: getattr(metric, "protocol", {}) for metric in evaluator.metrics},
            figures=figures,
        )
        card.write(Path(runner.work_dir) / f"protocol_{mode}.json")
        runner.logger.info(card.text())
        runner.logger.info(f"{mode} figures of {card.dataset}, {card.num_images} images")

    def _lmm_entries(self) -> dict[str, Any]:
        """Return how the LMM was asked, and what that cost; None throughout where the model has no LMM."""
        if not isinstance(self._model, Lumen):
            names = ("lmm_passes_per_image", "lmm_tokens_per_image", "lmm_padding_share")
            return dict.fromkeys(("template", "answer_mode", "packing", "dialect", "written_answers", *names))
        lmm = self._model.lmm
        return {
            **lmm.protocol,
            "dialect": lmm.text.require_dialect().describe() if "places" in self._model.extras else None,
            "written_answers": asdict(lmm.answer_report),
            "lmm_passes_per_image": self._per_image(lmm.usage.passes),
            "lmm_tokens_per_image": self._per_image(lmm.usage.tokens),
            "lmm_padding_share": lmm.usage.padding_share,
        }

    def _all_unusable(self, runner: Runner) -> dict[str, str]:
        """Return, and list, the images of all ranks that could not be used; every rank calls it."""
        unusable = {path: why for table in all_gather_object(self._unusable) for path, why in table.items()}
        if unusable:
            listed = "\n".join(f"  {why}" for why in unusable.values())
            runner.logger.warning(f"{len(unusable)} images could not be used and count as unanswered:\n{listed}")
        return unusable

    def _note_stride(self, module: nn.Module, inputs: Any, shared: SharedRepresentation) -> None:
        self._stride = shared.stride

    def _per_image(self, amount: int | float) -> float:
        return amount / max(self._num_samples, 1)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _peak_memory_mb(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        # Bytes on macOS, kibibytes on Linux.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _weights_of(runner: Runner) -> str:
    if runner.iter:
        return f"iteration {runner.iter} of {runner.work_dir}"
    source = runner._resume or runner._load_from
    if source is True:
        return f"newest of {runner.work_dir}"
    return str(source["checkpoint"] if isinstance(source, Mapping) else source or "none")


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
