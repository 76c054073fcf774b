"""A training of a second or less with all that a kill could damage: two loader workers, evaluation, best checkpoints.

Its model is tiny, but has what a resume must restore: dropout, running statistics, averaged weights, schedulers.
"""

import json
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import CosineAnnealingLR
from torch import Tensor, nn
from torch.utils.data import Dataset

from lumen.engine import loops
from lumen.engine.hooks import EmaHook, SafeCheckpointHook
from lumen.engine.optim import LumenOptimWrapper
from lumen.engine.runner import LumenRunner

MAX_ITERS, EVALUATED_EACH, SAVED_EACH = 12, 2, 1
METRIC = "soak/mean"


class TinyModel(BaseModel):
    """Linear, normalisation, dropout, linear."""

    def __init__(self) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, inputs: list[Tensor], data_samples: Any = None, mode: str = "tensor") -> Any:
        """Follow MMEngine's three modes."""
        output = self.body(torch.stack(list(inputs)))[:, 0]
        if mode == "loss":
            return {"loss": (output - torch.stack(list(data_samples))).square().mean()}
        return list(output) if mode == "predict" else output


class Points(Dataset):
    """Points, in training with noise from all three generators."""

    def __init__(self, noisy: bool) -> None:
        self.metainfo = {"classes": ("point",)}
        self._noisy = noisy
        self._points = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(()).item() if self._noisy else 0.0
        return {"inputs": self._points[index] + noise, "data_samples": self._points[index].sum()}


class MeanMetric(BaseMetric):
    """Mean of the predictions: it rises and falls, so that the best checkpoint is rarely the last."""

    def __init__(self) -> None:
        super().__init__(prefix=METRIC.partition("/")[0])

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Collect."""
        self.results.extend(float(sample) for sample in data_samples)

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Average."""
        return {"mean": sum(results) / len(results)}


class NoteMetrics(Hook):
    """Writes the figure of each evaluation into ``figures.jsonl`` of the work folder."""

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add a line."""
        if metrics and is_main_process():
            with open(Path(runner.work_dir) / "figures.jsonl", "a") as file:
                file.write(json.dumps([runner.iter, metrics[METRIC]]) + "\n")


def train(folder: Path, **ranks: Any) -> None:
    """Train from the newest checkpoint of a folder to the end; see ``make_runner``."""
    make_runner(folder, **ranks).train()


def make_runner(folder: Path, *, rank: int = 0, ranks: int = 1, store: Path | None = None) -> LumenRunner:
    """Return a runner that goes on from the newest checkpoint of a folder.

    Args:
        folder: The work folder.
        rank: Of this process.
        ranks: How many processes train together.
        store: File over which they find each other; a new one for each start.
    """
    loader = {"batch_size": 2, "num_workers": 2, "persistent_workers": True}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    meeting = {"init_method": f"file://{store}", "rank": rank, "world_size": ranks, "timeout": 60}
    return LumenRunner(
        model={"type": TinyModel},
        work_dir=str(folder),
        train_dataloader={"dataset": Points(noisy=True), "sampler": {"type": InfiniteSampler}, **loader},
        val_dataloader={
            "dataset": Points(noisy=False),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 4,
            "num_workers": 0,
        },
        train_cfg={"max_iters": MAX_ITERS, "val_interval": EVALUATED_EACH},
        val_cfg={},
        val_evaluator=[{"type": MeanMetric}],
        optim_wrapper={"type": LumenOptimWrapper, "optimizer": {"type": torch.optim.AdamW, "lr": 0.2}},
        param_scheduler=[{"type": CosineAnnealingLR, "by_epoch": False, "T_max": MAX_ITERS}],
        default_hooks={"checkpoint": {"type": SafeCheckpointHook, "interval": SAVED_EACH, "save_best": METRIC}},
        custom_hooks=[{"type": EmaHook, "decay": 0.5}, {"type": NoteMetrics}],
        randomness={"seed": 3},
        default_scope="lumen",
        log_processor={"by_epoch": False},
        log_level="ERROR",
        resume=True,
        launcher="pytorch" if ranks > 1 else "none",
        env_cfg={"dist_cfg": meeting} if ranks > 1 else {},
        experiment_name=f"soak_{os.getpid()}",
    )


class Watch:
    """What a training tells its parent through shared memory: how many saves it has begun, and whether it is in one."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2)

    @property
    def num_begun(self) -> int:
        """Saves that were begun."""
        return self._memory[0]

    @property
    def is_inside(self) -> bool:
        """Whether a save is going on; of a process that was killed, whether it died in one."""
        return self._memory[1] > 0

    def reset(self) -> None:
        """Start anew."""
        self._memory[0] = self._memory[1] = 0

    def install(self) -> None:
        """Watch the saves of this process: of checkpoints, of the pointer with what it replaces, of evaluations."""
        self._wrap(LumenRunner, "save_checkpoint")
        self._wrap(SafeCheckpointHook, "_publish")
        self._wrap(loops, "note_evaluation")

    def _wrap(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            self._memory[0] = min(255, self._memory[0] + 1)
            self._memory[1] += 1
            result = function(*arguments, **named)
            self._memory[1] -= 1
            return result

        setattr(owner, name, watched)
