"""Loops: training by iteration that continues exactly, evaluation in a chosen precision without effect on training."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch import nn
from torch.utils.data import DataLoader

from lumen.engine.ddp import unwrapped
from lumen.engine.ending import EXIT_AGAIN
from lumen.engine.evaluation_meter import EvaluationMeter
from lumen.engine.foreign import ForeignNames
from lumen.engine.optim import autocast, check_dtype
from lumen.engine.reproducible import kept_rng, set_rng_state
from lumen.engine.stopping import StopRequested
from lumen.engine.work_folder import note_evaluation, was_evaluated
from lumen.errors import CheckpointError, ConfigError
from lumen.model import Lumen
from lumen.registry import LOOPS
from lumen.serialization.checkpoint import find_checkpoint
from lumen.structures import PerceptionSample


@LOOPS.register_module()
class LumenTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop by iteration; after a resume the generators continue where the checkpoint left them.

    Args:
        runner: The runner.
        dataloader: Training data.
        max_iters: Iterations of the run.
        val_begin: First iteration that may be followed by validation.
        val_interval: Iterations between validations; None for one at the end alone. There is always one at the end.
        dynamic_intervals: Pairs of an iteration and the interval from there on.
    """

    _is_resumed: bool = False
    _pending_rng: dict[str, Any] | None = None

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int | None = None,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        # MMEngine has no validation without an interval; one of the whole run comes once, at the end.
        interval = max_iters if val_interval is None else val_interval
        super().__init__(runner, dataloader, max_iters, val_begin, interval, dynamic_intervals)

    def resume(self, *, num_iters: int, rng: dict[str, Any] | None) -> None:
        """Continue after ``num_iters`` iterations; ``rng`` is put back just before the next one.

        Earlier would be too early: starting the data loader draws random numbers, and a run that was not interrupted
        started it long ago.
        """
        # Iterations done, which is also how many batches the sampler skips.
        self._iter = num_iters
        self._is_resumed = True
        self._pending_rng = rng

    def run(self) -> nn.Module:
        """Train to the end and return the model.

        An evaluation that was due at the checkpoint of a resume, and was not finished then, is repeated first. After a
        SIGTERM the run is saved and the process exits with ``EXIT_AGAIN``.
        """
        runner = self.runner
        with runner.stop:
            try:
                self._train()
            except StopRequested:
                runner.call_hook("before_stop")
                runner.logger.warning(f"stopped by SIGTERM after {self._iter} iterations; continue with --resume")
                sys.exit(EXIT_AGAIN)
            finally:
                # Stops the loader workers now; when the garbage collector does it, each takes five seconds.
                # Persistent workers belong to the loader's own iterator.
                self.dataloader_iterator = None
                self.dataloader._iterator = None
        return runner.model

    def _train(self) -> None:
        """Run MMEngine's loop by iteration, with the evaluation that a resume has to repeat."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        if self._iter > 0:
            self.dataloader_iterator.skip_iter(self._iter)
        if self._must_evaluate_first():
            if self._pending_rng is not None:  # a checkpoint of the best weights holds the generators of this moment
                set_rng_state(self._pending_rng)
            runner.val_loop.run()
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            runner.stop.leave_if_requested()
            if self._is_evaluation_due():
                runner.val_loop.run()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")

    def _must_evaluate_first(self) -> bool:
        """Return whether a resumed run lacks the evaluation at its checkpoint; all ranks get the answer of rank 0."""
        folder = Path(self.runner.work_dir)
        if not self._is_resumed:
            if is_main_process():
                note_evaluation(folder, None)
            return False
        lacking = [self._is_evaluation_due() and not was_evaluated(folder, self._iter)]
        broadcast_object_list(lacking)
        return lacking[0]

    def _is_evaluation_due(self) -> bool:
        self._decide_current_val_interval()
        is_last = self._iter == self._max_iters
        is_due = self._iter >= self.val_begin and (self._iter % self.val_interval == 0 or is_last)
        return self.runner.val_loop is not None and is_due

    def run_iter(self, data_batch: Any) -> None:
        """Run one iteration on a batch that is loaded already."""
        # The batch is drawn already; from here on the generators serve dropout and the model alone.
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
        self._evaluation = Evaluation(self, "val", dtype)

    def run(self) -> dict[str, float]:
        """Evaluate, write the protocol card and return the metrics."""
        # An evaluation draws random numbers, too, which would change the steps after it.
        runner = self.runner
        with kept_rng(), hint_at_checkpoint(runner):
            figures = self._evaluation.run(super().run)
        if runner.iter and is_main_process():
            note_evaluation(Path(runner.work_dir), runner.iter)
        return figures

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Answer one batch and hand the answers to the metrics."""
        self._evaluation.run_iter(idx, data_batch)
        if self.runner.iter:  # amid training; several ranks leave after the evaluation: they may have unequal batches
            self.runner.stop.leave_if_requested(with_ranks=False)


@LOOPS.register_module()
class LumenTestLoop(TestLoop):
    """Test in the asked precision.

    Args:
        runner: The runner.
        dataloader: Test data.
        evaluator: Metrics.
        dtype: ``float32``, or ``bfloat16`` for mixed precision.
        foreign_names: Ask about each image for so many names of things that it does not show, 100 at most, and report
            ``foreign/false_alarms``; see ``ForeignNames``. Right where no image of the data set shows them.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        dtype: str = "float32",
        foreign_names: int = 0,
    ) -> None:
        super().__init__(runner, dataloader, evaluator)
        self._evaluation = Evaluation(self, "test", dtype, foreign_names=foreign_names)

    def run(self) -> dict[str, float]:
        """Test, write the protocol card and return the metrics."""
        return self._evaluation.run(super().run)

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Answer one batch and hand the answers to the metrics."""
        self._evaluation.run_iter(idx, data_batch)


class Evaluation:
    """What validation and test share: answer each batch in the asked precision, measure, write the protocol card.

    Args:
        loop: The loop, with its data and its metrics.
        mode: ``val`` or ``test``: names the hooks, the step of the model and the card.
        dtype: ``float32``, or ``bfloat16`` for mixed precision.
        foreign_names: How many names of things that are not there to ask for, see ``ForeignNames``.

    Raises:
        ConfigError: ``dtype`` is not accepted, or a metric needs what no decoder writes, or the model cannot be asked
            for foreign names.
    """

    def __init__(self, loop: ValLoop | TestLoop, mode: str, dtype: str, *, foreign_names: int = 0) -> None:
        self._loop = loop
        self._mode = mode
        self._dtype = check_dtype(dtype)
        # Now, not after the last image: metrics read their fields when all is answered.
        check_needs(loop.evaluator, loop.runner.model)
        classes = (loop.evaluator.dataset_meta or {}).get("classes", ())
        model = loop.runner.model
        self._foreign = ForeignNames(model, number=foreign_names, classes=classes) if foreign_names else None

    def run(self, run_loop: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Run MMEngine's loop, write the protocol card and return the metrics."""
        loop = self._loop
        self._meter = EvaluationMeter(loop.runner.model)
        # MMEngine's loop calls `run_iter` below for each batch, then the metrics.
        figures = run_loop()
        if self._foreign is not None:
            # After the metrics: the figures of the test itself are not touched by these questions.
            foreign = self._foreign.figures(len(loop.dataloader.dataset))
            loop.runner.logger.info(f"names of things that are not there: {foreign}")
            figures = {**figures, **foreign}
        parts = {"dataset": loop.dataloader.dataset, "evaluator": loop.evaluator, "dtype": self._dtype}
        self._meter.write(loop.runner, **parts, figures=figures, mode=self._mode)
        return figures

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Answer one batch and hand the answers to the metrics, with the hooks around it."""
        runner, mode = self._loop.runner, self._mode
        runner.call_hook(f"before_{mode}_iter", batch_idx=idx, data_batch=data_batch)
        step = runner.model.val_step if mode == "val" else runner.model.test_step
        # Only the model is timed: reading images and metrics are not part of the cost that is reported.
        with autocast(self._dtype, runner.model), self._meter.timed():
            outputs = without_answers(step(data_batch))
        self._meter.count(outputs)
        if self._foreign is not None:
            # A second question about the same images, outside of what is timed and counted.
            with autocast(self._dtype, runner.model):
                self._foreign.ask(data_batch)
        self._loop.evaluator.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook(f"after_{mode}_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


@contextmanager
def hint_at_checkpoint(runner: Any) -> Iterator[None]:
    """Add to an error of an evaluation amid training where the trained weights are and how to go on."""
    try:
        yield
    except StopRequested:
        raise
    except Exception as error:
        newest = None
        with suppress(CheckpointError):  # a pointer to a file that is gone must not hide the error
            newest = find_checkpoint(runner.work_dir) if runner.iter else None
        if newest is not None:
            config = runner.cfg.filename or "CONFIG"
            error.add_note(
                f"The evaluation failed after {runner.iter} iterations; the weights are kept in {newest}. Once the "
                f"cause is removed, continue with: python tools/train.py {config} --work-dir {runner.work_dir} "
                f"--resume, or evaluate with: python tools/test.py {config} {newest}"
            )
        raise


def without_answers(samples: Sequence[Any]) -> Sequence[Any]:
    """Take away the answers to samples whose image could not be used, and return all samples.

    A table with a row for every prompt keeps its rows: a count of 0, an empty text.
    """
    for sample in samples:
        if isinstance(sample, PerceptionSample) and "fault" in sample:
            answer = sample.pred_instances
            # A text or a count stands for its prompt by its row; all other tables may be empty.
            if "texts" in answer:
                answer.texts = [""] * len(answer.texts)
            elif "counts" in answer:
                answer.counts, answer.scores = torch.zeros_like(answer.counts), torch.zeros_like(answer.scores)
            else:
                sample.pred_instances = answer[:0]
    return samples


def check_needs(evaluator: Evaluator, model: nn.Module) -> None:
    """Refuse metrics that read what no decoder writes, before the first image instead of after the last.

    Raises:
        ConfigError: If a metric's ``needs`` holds a field that is in no decoder's ``spec.predictions``.
    """
    model = unwrapped(model)
    if not isinstance(model, Lumen):
        return
    for metric in evaluator.metrics:
        lacking = getattr(metric, "needs", frozenset()) - model.written_fields
        if lacking:
            raise ConfigError(
                f"{type(metric).__name__} needs {sorted(lacking)}, but the decoders {list(model.decoders)} write "
                f"{sorted(model.written_fields)}"
            )
