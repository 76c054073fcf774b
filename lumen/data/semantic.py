"""Data sets of label maps: per image a PNG whose pixels are class numbers, as COCO-Stuff and ADE20K have them."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from lumen.data.coco import naming_check_data
from lumen.data.image import check_inside
from lumen.errors import ConfigError, DataError
from lumen.ops.masks import encode_masks, read_label_map
from lumen.paths import find_path
from lumen.registry import DATASETS


@DATASETS.register_module()
class SemanticDataset(BaseDataset):
    """Images and label maps; a sample is one image, its instances are the classes that it shows.

    An instance is all pixels of one class: a mask and the tight box around it, in ``segmentations`` and ``bboxes`` as
    ``CocoDataset`` has them. Give ``ResizeToInput`` ``min_visible=0``, since a class is not an object that can be
    hidden. Pixels of the ignore label belong to no class and are excluded from losses. ``img_id`` is the position in
    the sorted list of files.

    The pipeline receives ``img_path``, ``img_id``, ``img_root``, ``ori_hw``, ``classes``, ``instances``,
    ``label_map_path`` and ``unlabelled``, the run-length code of the pixels without a class. ``metainfo`` holds
    ``classes``, ``ignore_label`` and ``reduce_zero_label``, which ``SemanticMetric`` reads.

    Args:
        data_root: Folder of the data set.
        data_prefix: Folders below it: ``img`` with images, ``seg`` with label maps.
        classes: Name of each class number.
        img_suffix: Ending of image files; ADE20K and COCO-Stuff have ``.jpg``.
        seg_suffix: What replaces it in the name of the label map, such as ``.png`` or ``_labelTrainIds.png``.
        ignore_label: Value of pixels without a class.
        reduce_zero_label: Whether 0 stands for no class and the class numbers start at 1, as in ADE20K.
        pipeline: Transforms applied to each record.
        test_mode: Give a grey image with a ``fault`` in place of an unusable one, which is an error otherwise.
        indices: Keep only the first so many images, or these.

    Raises:
        ConfigError: There are no classes, or one occurs twice.
        DataError: There is no image, one has no label map, or a label map is broken or holds an unknown value.
    """

    def __init__(
        self,
        *,
        data_root: str,
        data_prefix: Mapping[str, str],
        classes: Sequence[str],
        img_suffix: str = ".jpg",
        seg_suffix: str = ".png",
        ignore_label: int = 255,
        reduce_zero_label: bool = False,
        pipeline: Sequence[dict | Callable[[dict], dict]] = (),
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        if not classes or len(set(classes)) < len(classes):
            raise ConfigError(f"classes must be different names, at least one, got {list(classes)}")
        self.img_suffix = img_suffix
        self.seg_suffix = seg_suffix
        self.ignore_label = ignore_label
        self.reduce_zero_label = reduce_zero_label
        rules = {"ignore_label": ignore_label, "reduce_zero_label": reduce_zero_label}
        super().__init__(
            metainfo={"classes": tuple(classes), **rules},
            data_root=find_path(data_root),
            data_prefix=dict(data_prefix),
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
        )

    def full_init(self) -> None:
        """List the files, once; an error names the command that lists everything that is wrong with them."""
        with naming_check_data(self.data_prefix["seg"], self.data_prefix["img"]):
            super().full_init()

    def load_data_list(self) -> list[dict]:
        """List the pairs of files; MMEngine calls this once."""
        images = sorted(Path(self.data_prefix["img"]).glob(f"**/*{self.img_suffix}"))
        if not images:
            raise DataError(f"{self.data_prefix['img']} holds no file that ends in {self.img_suffix!r}")
        maps = [self._map_of(path) for path in images]
        lacking = [path for path in maps if not os.path.isfile(path)]
        if lacking:
            raise DataError(f"{len(lacking)} of {len(maps)} label maps are missing, the first: {lacking[0]}")
        return [
            {"img_path": str(image), "img_id": number, "label_map_path": path}
            for number, (image, path) in enumerate(zip(images, maps, strict=True))
        ]

    def prepare_data(self, index: int) -> Any:
        """Read one label map and run the pipeline."""
        record = self.get_data_info(index)
        check_inside(record["label_map_path"], self.data_prefix["seg"])
        label_map = read_label_map(
            record["label_map_path"], ignore_label=self.ignore_label, reduce_zero_label=self.reduce_zero_label
        )
        classes = self._metainfo["classes"]
        # Negative values are pixels without a class.
        labels = np.unique(label_map[label_map >= 0])
        # The largest alone: np.unique sorts.
        if len(labels) and labels[-1] >= len(classes):
            raise DataError(
                f"{record['label_map_path']} holds class number {labels[-1]}, but there are {len(classes)} classes; "
                "check classes, ignore_label and reduce_zero_label"
            )
        record |= {"classes": classes, "img_root": self.data_prefix["img"], "ori_hw": label_map.shape}
        record["test_mode"] = self.test_mode
        unlabelled = encode_masks(torch.from_numpy(label_map < 0)[None])[0]
        return self.pipeline(record | {"instances": _instances(label_map, labels), "unlabelled": unlabelled})

    def __getitem__(self, index: int) -> Any:
        """Return a sample."""
        with naming_check_data(self.data_prefix["seg"], self.data_prefix["img"]):
            return self.prepare_data(index)

    def _map_of(self, image: Path) -> str:
        # Folders below the image folder are repeated below that of the maps.
        inner = str(image.relative_to(self.data_prefix["img"])).removesuffix(self.img_suffix)
        return os.path.join(self.data_prefix["seg"], inner + self.seg_suffix)


def _instances(label_map: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return one row per label: its pixels and the box around them."""
    # Each class of a map is one region, connected or not. One at a time: all of a large map would take gigabytes.
    segmentations = np.empty(len(labels), dtype=object)
    segmentations[:] = [encode_masks(torch.from_numpy(label_map == label)[None])[0] for label in labels]
    return {
        "bboxes": np.array([_box(label_map == label) for label in labels], dtype=np.float32).reshape(-1, 4),
        "labels": labels.astype(np.int64),
        "is_ignored": np.zeros(len(labels), dtype=bool),
        "ann_ids": np.arange(len(labels), dtype=np.int64),
        "segmentations": segmentations,
    }


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1
