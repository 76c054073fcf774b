"""Loops: training by iteration that continues exactly, evaluation in the asked precision that disturbs nothing."""

from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch import nn
from torch.utils.data import DataLoader

from lumen.engine.evaluation_meter import EvaluationMeter
from lumen.engine.optim import autocast, check_dtype
from lumen.engine.reproducible import kept_rng, set_rng_state
from lumen.errors import ConfigError
from lumen.model import Lumen
from lumen.registry import LOOPS


@LOOPS.register_module()
class LumenTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop by iteration; after a resume the generators continue where the checkpoint left them."""

    _pending_rng: dict[str, Any] | None = None

    def resume(self, *, num_iters: int, rng: dict[str, Any] | None) -> None:
        """Continue after ``num_iters`` iterations; ``rng`` is put back just before the next one.

        Earlier would be too early: starting the data loader draws random numbers, and a run that was not interrupted
        started it long ago.
        """
        self._iter = num_iters
        self._pending_rng = rng

    def run(self) -> nn.Module:
        """Train to the end and return the model."""
        try:
            return super().run()
        finally:
            # Stops the loader workers now; when the garbage collector does it, each takes five seconds.
            self.dataloader_iterator = None

    def run_iter(self, data_batch: Any) -> None:
        """Run one iteration on a batch that is loaded already."""
        if self._pending_rng is not None:
            set_rng_state(self._pending_rng)
            self._pending_rng = None
        super().run_iter(data_batch)


@LOOPS.register_module()
class LumenValLoop(ValLoop):
    """Validation that leaves the random numbers of training alone.

    Args:
        runner: The runner.
        dataloader: Validation data.
        evaluator: Metrics.
        dtype: ``float32``, or ``bfloat16`` for mixed precision.
    """

    def __init__(
        self, runner: Any, dataloader: DataLoader | dict, evaluator: Evaluator | dict | list, dtype: str = "float32"
    ) -> None:
        super().__init__(runner, dataloader, evaluator)
        self._dtype = check_dtype(dtype)
        check_needs(self.evaluator, runner.model)

    def run(self) -> dict[str, float]:
        """Evaluate, write the protocol card and return the metrics."""
        self._meter = EvaluationMeter(self.runner.model)
        with kept_rng():
            figures = super().run()
        _write_card(self, figures, "val")
        return figures

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Answer one batch and hand the answers to the metrics."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        with autocast(self._dtype, self.runner.model), self._meter.timed():
            outputs = self.runner.model.val_step(data_batch)
        self._meter.count(outputs)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


@LOOPS.register_module()
class LumenTestLoop(TestLoop):
    """Test in the asked precision.

    Args:
        runner: The runner.
        dataloader: Test data.
        evaluator: Metrics.
        dtype: ``float32``, or ``bfloat16`` for mixed precision.
    """

    def __init__(
        self, runner: Any, dataloader: DataLoader | dict, evaluator: Evaluator | dict | list, dtype: str = "float32"
    ) -> None:
        super().__init__(runner, dataloader, evaluator)
        self._dtype = check_dtype(dtype)
        check_needs(self.evaluator, runner.model)

    def run(self) -> dict[str, float]:
        """Test, write the protocol card and return the metrics."""
        self._meter = EvaluationMeter(self.runner.model)
        figures = super().run()
        _write_card(self, figures, "test")
        return figures

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Answer one batch and hand the answers to the metrics."""
        self.runner.call_hook("before_test_iter", batch_idx=idx, data_batch=data_batch)
        with autocast(self._dtype, self.runner.model), self._meter.timed():
            outputs = self.runner.model.test_step(data_batch)
        self._meter.count(outputs)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_test_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


def _write_card(loop: LumenValLoop | LumenTestLoop, figures: dict[str, float], mode: str) -> None:
    parts = {"dataset": loop.dataloader.dataset, "evaluator": loop.evaluator, "dtype": loop._dtype}
    loop._meter.write(loop.runner, **parts, figures=figures, mode=mode)


def check_needs(evaluator: Evaluator, model: nn.Module) -> None:
    """Refuse metrics that read what no decoder writes, before the first image instead of after the last.

    Raises:
        ConfigError: If a metric's ``needs`` holds a field that is in no decoder's ``spec.predictions``.
    """
    model = model.module if is_model_wrapper(model) else model
    if not isinstance(model, Lumen):
        return
    for metric in evaluator.metrics:
        lacking = getattr(metric, "needs", frozenset()) - model.written_fields
        if lacking:
            raise ConfigError(
                f"{type(metric).__name__} needs {sorted(lacking)}, but the decoders {list(model.decoders)} write "
                f"{sorted(model.written_fields)}"
            )
