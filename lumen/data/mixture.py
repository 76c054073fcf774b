"""Several data sets and tasks in one stream of training data, in a fixed ratio that holds in short runs too.

The stream is one for all ranks: rank r of n reads every n-th sample of it, starting with the r-th. It depends on the
seed and the data sets alone, so a run that continues, or runs on more ranks, sees the same samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler

from lumen.errors import ConfigError, DataError
from lumen.registry import DATA_SAMPLERS, DATASETS

_BLOCK = 32
_GOLDEN = (5**0.5 - 1) / 2


@DATASETS.register_module()
class MixedDataset(Dataset):
    """Data sets one after the other, each with its own classes, pipeline and task; ``MixtureSampler`` mixes them.

    All pipelines must draw images of one size, since a batch holds samples of several sets; see also
    ``MixtureSampler.run``.

    Args:
        datasets: Configs of data sets, or data sets.
        weights: How often each is drawn, in any unit; ``None`` draws every sample of every set equally often.

    Raises:
        ConfigError: There is no data set, or the weights do not fit.
        DataError: A data set is empty.
    """

    def __init__(self, datasets: Sequence[dict | Dataset], weights: Sequence[float | int] | None = None) -> None:
        self.datasets = [DATASETS.build(item) if isinstance(item, dict) else item for item in datasets]
        if not self.datasets:
            raise ConfigError("a mixture needs at least one data set")
        self.sizes = [len(dataset) for dataset in self.datasets]
        if 0 in self.sizes:
            raise DataError(f"data set {self.sizes.index(0)} of the mixture is empty")
        self.shares = _shares(self.sizes if weights is None else weights, len(self.sizes))
        # Index of the first sample of each set, and the end.
        self._starts = np.cumsum([0, *self.sizes])

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index: int) -> Any:
        source = self.source_of(index)
        return self.datasets[source][int(index - self._starts[source])]

    def source_of(self, index: int) -> int:
        """Return which data set holds the sample of this index.

        Raises:
            IndexError: No data set does.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a mixture of {len(self)} samples")
        # The set whose first index is the last one at or below this.
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def start_of(self, source: int) -> int:
        """Return the index of the first sample of a data set."""
        return int(self._starts[source])


@DATA_SAMPLERS.register_module()
class MixtureSampler(Sampler):
    """Draws from a ``MixedDataset`` without end; among n draws a set differs from its share by a few samples.

    The set of draw t is where the t-th multiple of the golden ratio, modulo 1, falls among the shares: an evenly
    spread sequence. It is shuffled in blocks of 32, so that no period coincides with the number of ranks. Each set is
    read in a new random order every time round, and no sample is repeated before all of its set were drawn.

    Args:
        dataset: A ``MixedDataset``.
        shuffle: Whether to shuffle; otherwise each set is read in its own order, and draws are evenly spread.
        seed: Seed of the order; drawn and shared between ranks when left out.
        run: Samples that are drawn of a set one after the other. With the samples of a batch over all ranks, batches
            are of one set; so images and clips can be mixed.

    Raises:
        ConfigError: ``dataset`` is not a ``MixedDataset``, or ``run`` is not a whole number of at least 1.

    Source:
        Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018), one dimension.
    """

    def __init__(self, dataset: Dataset, shuffle: bool = True, seed: int | None = None, *, run: int = 1) -> None:
        if not isinstance(dataset, MixedDataset):
            raise ConfigError(f"MixtureSampler draws from a MixedDataset, got {type(dataset).__name__}")
        if type(run) is not int or run < 1:
            raise ConfigError(f"MixtureSampler.run must be a whole number of at least 1, got {run!r}")
        self.run = run
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self._rank, self._world_size = get_dist_info()
        self._num_skipped = 0

    def __iter__(self) -> Iterator[int]:
        # Every rank runs through the same stream and takes its own places in it.
        return islice(self._stream(), self._rank + self._num_skipped * self._world_size, None, self._world_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def skip(self, num_samples: int) -> None:
        """Go to an absolute position of this rank's part of the stream, before the first index is drawn."""
        if num_samples < 0:
            raise ValueError(f"num_samples must not be negative, got {num_samples}")
        self._num_skipped = num_samples

    def _stream(self) -> Iterator[int]:
        indices = [self._indices(source) for source in range(len(self.dataset.sizes))]
        for source in self._sources():
            yield from islice(indices[source], self.run)

    def _sources(self) -> Iterator[int]:
        generator = self._generator(len(self.dataset.sizes))
        # The unit interval, cut by the shares; a draw falls into one of the pieces.
        borders = np.cumsum(self.dataset.shares)[:-1]
        offset = generator.random() if self.shuffle else 0.5
        start = 0
        while True:
            # By place, not by adding up, so that rounding does not grow with the length of a run.
            places = (offset + np.arange(start, start + _BLOCK) * _GOLDEN) % 1.0
            sources = np.searchsorted(borders, places, side="right")
            # Shuffled within a block: shares still hold over each 32 draws.
            yield from (generator.permutation(sources) if self.shuffle else sources).tolist()
            start += _BLOCK

    def _indices(self, source: int) -> Iterator[int]:
        """Yield the samples of one data set, as indices of the mixture, round after round."""
        generator, size = self._generator(source), self.dataset.sizes[source]
        start = self.dataset.start_of(source)
        while True:
            # A new order each time round, from one generator per set: sets do not disturb each other.
            order = generator.permutation(size) if self.shuffle else np.arange(size)
            yield from (start + order).tolist()

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.seed, number)))


def _shares(weights: Sequence[float | int], num_datasets: int) -> np.ndarray:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_datasets,) or not np.isfinite(values).all() or (values <= 0).any():
        raise ConfigError(f"weights must be {num_datasets} positive numbers, one per data set, got {list(weights)}")
    return values / values.sum()


@DATASETS.register_module()
class JoinedDataset(Dataset):
    """The images of one data set, joined with values from the records of other data sets.

    So one pass of the LMM learns names, sentences and questions about an image, which is encoded once.

    Args:
        base: Config of the data set that gives images and objects, with an empty pipeline.
        further: For each key to add: ``dataset``, the config of the data set that knows it, and ``key``, its name in
            the records there. Joined by ``img_id``; an image that the data set does not know gets an empty tuple.
        pipeline: Transforms applied to each joined record.

    Raises:
        ConfigError: A data set has a pipeline of its own, or no record with such a key.
        DataError: No image of a further data set is among those of ``base``.
    """

    def __init__(
        self, *, base: dict, further: Mapping[str, dict], pipeline: Sequence[dict | Callable[[dict], dict]]
    ) -> None:
        # A pipeline of a part would run before the parts are joined.
        if any(config.get("pipeline") for config in (base, *(part["dataset"] for part in further.values()))):
            raise ConfigError("joined data sets have no pipelines of their own; give the pipeline to JoinedDataset")
        self.base = DATASETS.build(base)
        self.further = {key: _by_image(DATASETS.build(part["dataset"]), part["key"]) for key, part in further.items()}
        self.pipeline = Compose(list(pipeline))
        # A wrong file would otherwise add empty tuples to every image, in silence.
        known = {self.base.get_data_info(index)["img_id"] for index in range(len(self.base))}
        for key, records in self.further.items():
            if not known & set(records):
                raise DataError(f"no image of the data set for {key!r} is one of the {len(known)} images to join")

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Any:
        record = self.base[index]
        return self.pipeline(record | {key: known.get(record["img_id"], ()) for key, known in self.further.items()})


def _by_image(dataset: Dataset, key: str) -> dict[int, Any]:
    records = [dataset.get_data_info(index) for index in range(len(dataset))]
    if not all(key in record for record in records):
        raise ConfigError(f"{type(dataset).__name__} gives records without {key!r}, but {sorted(records[0])}")
    return {record["img_id"]: record[key] for record in records}
