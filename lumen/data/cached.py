"""Samples with cached features in place of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from lumen.registry import DATASETS
from lumen.serialization.feature_cache import FeatureCache
from lumen.serialization.fingerprint import describe_settings


@DATASETS.register_module()
class CachedFeatures(Dataset):
    """Reads what ``tools/cache_features.py`` wrote: a ``CachedImage`` as ``inputs``, and the sample with its targets.

    Use it with ``CachedAdapter``. Prompts are those of the time of writing; images are not augmented.

    Args:
        cache: Folder of the cache.
        dataset: Config of the data set that the cache should have been made from; not built, only compared. Paths may
            differ, the content of the annotation file and the pipeline may not.

    Raises:
        DataError: The folder is not a complete cache, or was made from another data set.
    """

    def __init__(self, cache: str | Path, *, dataset: Mapping[str, Any] | None = None) -> None:
        self._cache = FeatureCache(cache)
        if dataset is not None:
            self._cache.require_data({"dataset": describe_settings(dataset)}, "the config's dataset")

    def __len__(self) -> int:
        return len(self._cache)

    def __getitem__(self, index: int) -> dict[str, Any]:
        features, sample = self._cache.read(index)
        return {"inputs": features, "data_samples": sample}

    @property
    def metainfo(self) -> dict[str, Any]:
        """The metainfo of the data set that was cached, such as ``classes``."""
        return {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in self._cache.manifest["metainfo"].items()
        }
