"""A toy model and toy data with every kind of randomness: dropout, augmentation, shuffling."""

import itertools
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch import nn
from torch.utils.data import Dataset

from lumen.engine.hooks import SafeCheckpointHook
from lumen.engine.optim import LumenOptimWrapper
from lumen.engine.runner import LumenRunner

_names = itertools.count()


class ToyModel(BaseModel):
    """Linear, normalisation, dropout, linear; the base part stands for a pretrained model."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        generator = torch.Generator().manual_seed(0)
        self.base = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, inputs, data_samples=None, mode="tensor"):
        """Follow MMEngine's three modes."""
        inputs = torch.stack(list(inputs))
        output = self.head(self.dropout(self.norm(self.base(inputs))))[:, 0]
        if mode == "loss":
            return {"loss_toy": (output - torch.stack(list(data_samples))).square().mean()}
        return list(output.float()) if mode == "predict" else output


class ToyData(Dataset):
    """Points, with noise from all three generators in training."""

    def __init__(self, size: int = 10, noisy: bool = True) -> None:
        self.noisy = noisy
        self.metainfo = {"classes": ("toy",)}
        self.points = torch.randn(size, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(()).item() if self.noisy else 0.0
        return {"inputs": self.points[index] + noise, "data_samples": self.points[index].sum()}


class ToyMetric(BaseMetric):
    """Mean of the predictions."""

    def __init__(self) -> None:
        super().__init__(prefix="toy")

    def process(self, data_batch, data_samples):
        """Collect."""
        self.results.extend(float(sample) for sample in data_samples)

    def compute_metrics(self, results):
        """Average."""
        return {"mean": sum(results) / len(results)}


def make_runner(work_dir: Path, *, max_iters: int = 6, num_workers: int = 0, val: bool = False, **changes):
    """Build a runner of the toy; ``changes`` are arguments of the runner."""
    loader = {
        "dataset": {"type": ToyData},
        "sampler": {"type": InfiniteSampler},
        "batch_size": 3,
        "num_workers": num_workers,
    }
    arguments = {
        "model": {"type": ToyModel},
        "work_dir": str(work_dir),
        "train_dataloader": loader,
        "train_cfg": {"max_iters": max_iters, "val_interval": 2},
        "optim_wrapper": {
            "type": LumenOptimWrapper,
            "optimizer": {"type": torch.optim.AdamW, "lr": 0.05},
            "clip_grad": {"max_norm": 1.0},
        },
        "param_scheduler": [
            {"type": LinearLR, "start_factor": 0.1, "by_epoch": False, "end": 3},
            {"type": CosineAnnealingLR, "by_epoch": False, "begin": 3, "end": 20, "T_max": 17},
        ],
        "default_hooks": {"checkpoint": {"type": SafeCheckpointHook, "interval": 1}},
        "randomness": {"seed": 3},
        "default_scope": "lumen",
        "log_processor": {"by_epoch": False},
        "experiment_name": f"toy_{next(_names)}",
    }
    if val:
        arguments["val_dataloader"] = {
            **loader,
            "dataset": {"type": ToyData, "noisy": False},
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "num_workers": 0,
        }
        arguments["val_cfg"] = {}
        arguments["val_evaluator"] = [{"type": ToyMetric}]
    return LumenRunner(**(arguments | changes))
