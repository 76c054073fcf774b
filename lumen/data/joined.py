"""Everything that several data sets know about the same images, in one sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.dataset import Compose
from torch.utils.data import Dataset

from lumen.errors import ConfigError, DataError
from lumen.registry import DATASETS


@DATASETS.register_module()
class JoinedDataset(Dataset):
    """The images of one data set, with a part of the records that others have about them.

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
        if any(config.get("pipeline") for config in (base, *(part["dataset"] for part in further.values()))):
            raise ConfigError("joined data sets have no pipelines of their own; give the pipeline to JoinedDataset")
        self.base = DATASETS.build(base)
        self.further = {key: _by_image(DATASETS.build(part["dataset"]), part["key"]) for key, part in further.items()}
        self.pipeline = Compose(list(pipeline))
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
