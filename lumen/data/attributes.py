"""COCO files whose annotations name attributes of their objects, such as a colour, in words or numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumen.data.annotations import is_id, load_json
from lumen.data.coco import CocoDataset
from lumen.errors import DataError
from lumen.registry import DATASETS
from lumen.structures import Field


@DATASETS.register_module()
class AttributesDataset(CocoDataset):
    """A ``CocoDataset`` whose objects have attributes; each becomes a field of kind ``classes``.

    Args:
        attributes: For each attribute, a key of the annotations, the words or numbers that it may have; an object has
            the place of its own in them.
        **options: Those of ``CocoDataset``.

    Raises:
        DataError: An annotation has another word for an attribute, or none.
    """

    def __init__(self, *, attributes: Mapping[str, Sequence[str | int]], **options: Any) -> None:
        self.attributes = {name: tuple(words) for name, words in attributes.items()}
        self.fields = {name: Field("classes") for name in self.attributes}
        super().__init__(**options)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file; MMEngine calls this once."""
        records = super().load_data_list()
        annotations: dict[int, dict[str, Any]] = {}
        for entry in load_json(self.ann_file)["annotations"]:
            if isinstance(entry, dict) and is_id(entry.get("id")):
                annotations.setdefault(entry["id"], entry)  # the first of equal ids, as for boxes
        for record in records:
            entries = [annotations[number] for number in record["instances"]["ann_ids"].tolist()]
            for name, words in self.attributes.items():
                places = [self._place(entry, name, words) for entry in entries]
                record["instances"][name] = np.array(places, dtype=np.int64)
        return records

    def _place(self, entry: Mapping[str, Any], name: str, words: Sequence[str | int]) -> int:
        word = entry.get(name)
        if word not in words:
            raise DataError(
                f"{self.ann_file}: annotation {entry['id']} has {name}={word!r}, attributes name {list(words)}"
            )
        return words.index(word)
