"""Randomness that can be stopped and continued: saved states, and one seed per training sample.

The draw of a sample's augmentations depends on the seed and on the sample's position in the stream of training data,
on nothing else: not on the number of loader workers, not on what was drawn before, not on a restart.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from lumen.errors import ConfigError
from lumen.registry import DATA_SAMPLERS, DATASETS


def rng_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators (CPU and CUDA) as plain data."""
    # As lists and numbers: a checkpoint holds no pickled objects.
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {"name": name, "keys": keys.tolist(), "rest": [int(position), int(has_gauss), float(cached)]},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` returned; CUDA states only where the number of devices is the same."""
    python = state["python"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    numpy_state = state["numpy"]
    np.random.set_state((numpy_state["name"], np.array(numpy_state["keys"], dtype=np.uint32), *numpy_state["rest"]))
    torch.set_rng_state(state["torch"])
    # The states belong to devices by number; with other devices there is no right place for them.
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def kept_rng() -> Iterator[None]:
    """Leave all generators afterwards as they were before."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


@contextmanager
def seeded_cpu_rng(*seeds: int) -> Iterator[None]:
    """Seed the generators of the CPU from several numbers, and put the old states back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # Neighbouring seeds give unrelated streams, which `seed + index` would not.
    words = np.random.SeedSequence(seeds).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1:3])
    # Not torch.manual_seed, which would seed the GPUs as well.
    torch.default_generator.manual_seed(int(words[3]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@runtime_checkable
class EndlessSampler(Protocol):
    """A sampler without an end that can go to any position, like MMEngine's ``InfiniteSampler``."""

    def __iter__(self) -> Iterator[int]:
        """Yield indices forever."""

    def skip(self, num_samples: int) -> None:
        """Go to an absolute position, before the first index is drawn."""


@DATA_SAMPLERS.register_module()
class NumberedSampler(Sampler):
    """Yields (position, index): the index that an endless sampler draws, with its place in the stream of all ranks.

    Args:
        dataset: The ``SeededSamples`` that will be read.
        sampler: Config of an ``EndlessSampler``, or a built one.
        seed: Seed of the order.
    """

    def __init__(self, dataset: "SeededSamples", sampler: dict | EndlessSampler, seed: int | None = None) -> None:
        if isinstance(sampler, dict):
            sampler = DATA_SAMPLERS.build(sampler, default_args={"dataset": dataset.dataset, "seed": seed})
        if not isinstance(sampler, EndlessSampler):
            raise ConfigError(
                f"train_dataloader.sampler is a {type(sampler).__name__}, which cannot continue after a restart; use "
                "mmengine.dataset.InfiniteSampler or give your sampler a method skip(num_samples)"
            )
        self._dataset = dataset
        self._sampler = sampler
        self._start = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world_size = get_dist_info()
        # The place in the stream of all ranks, so that two ranks draw different augmentations.
        for count, index in enumerate(self._sampler, start=self._start):
            yield count * world_size + rank, index

    def __len__(self) -> int:
        return len(self._dataset)

    def skip(self, num_samples: int) -> None:
        """Go to an absolute position of this rank's stream, before the first index is drawn."""
        self._sampler.skip(num_samples)
        self._start = num_samples


@DATASETS.register_module()
class SeededSamples(Dataset):
    """Reads a data set sample by sample, each with generators seeded by (seed, position in the stream).

    Args:
        dataset: Config of a data set, or a built one.
        seed: Seed of the run.
    """

    def __init__(self, dataset: dict | Dataset, seed: int) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, numbered: tuple[int, int]) -> Any:
        position, index = numbered
        with seeded_cpu_rng(self._seed, position):
            return self.dataset[index]

    @property
    def metainfo(self) -> dict[str, Any]:
        """The data set's ``metainfo``; raises AttributeError where it has none."""
        return self.dataset.metainfo


def reproducible(dataloader: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a loader that numbers its samples and seeds each by its number."""
    settings = dict(dataloader)
    # Each sample draws its augmentation from its number, so that a resume or other workers change nothing.
    settings["dataset"] = {"type": SeededSamples, "dataset": dataloader["dataset"], "seed": seed}
    settings["sampler"] = {"type": NumberedSampler, "sampler": dataloader["sampler"]}
    return settings
