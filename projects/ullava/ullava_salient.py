"""Salient objects: a data set of images with a mask, a tag and a reason each, and a generator of one from shapes.

    python projects/ullava/ullava_salient.py data/shapes data/salient

writes ``salient_{train,val,test}.json`` and the masks. Images stay where they are.
"""

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image

from lumen.data.annotations import check_budget, format_report, parse_json, read_coco
from lumen.data.coco import take_usable
from lumen.data.image import read_image
from lumen.data.node_dataset import NodeDataset
from lumen.errors import DataError
from lumen.ops.masks import decode_masks, encode_masks, mask_boxes, read_label_map
from lumen.paths import find_path
from lumen.registry import DATASETS
from lumen.structures import NO_LABEL

MARGIN = 1.3
"""An object is salient where it is so many times as salient as the next one."""

_FIELDS = ("image", "mask", "reason", "tag")


@DATASETS.register_module()
class SalientDataset(NodeDataset):
    """Images with the one object that stands out; a sample is one image.

    A record holds ``img_path``, ``img_id``, ``ori_hw``, ``instances`` (one row, label -1), ``tag``, ``reason`` and
    ``target_rle``. ``report`` maps the reason of each skip to the positions in the file.

    Args:
        ann_file: Relative to ``data_root``: a list of dicts with ``image``, ``mask`` (PNG, the object above 127),
            ``reason`` and ``tag``.
        data_root: Folder of the data set.
        data_prefix: ``img`` and ``mask`` are the folders of the images and the masks, relative to ``data_root``.
        pipeline: Transforms applied to each record.
        skip_budget: Share of the entries that may be skipped before it is an error.
        test_mode: Raise at an unusable entry instead of taking the next one.

    Raises:
        DataError: The file is not such a list, holds no usable entry, or the budget is exceeded.
    """

    def __init__(
        self,
        *,
        ann_file: str,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        pipeline: Sequence[dict | Callable[[dict], dict]] = (),
        skip_budget: float = 0.001,
        test_mode: bool = False,
    ) -> None:
        self.skip_budget = skip_budget
        self.report: dict[str, list[int]] = {}
        super().__init__(
            ann_file=str(ann_file),
            data_root=find_path(data_root) if data_root else "",
            data_prefix={"img": "", "mask": "", **(data_prefix or {})},
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict]:
        """Read and check the file; MMEngine calls this once."""
        content = parse_json(self.ann_file)
        if not isinstance(content, list):
            raise DataError(f"{self.ann_file}: expected a list of salient objects, got a {type(content).__name__}")
        report: defaultdict[str, list[int]] = defaultdict(list)
        records = []
        for position, entry in enumerate(content):
            problem = _problem_of(entry)
            if problem:
                report[problem].append(position)
                continue
            places = {"img_path": (entry["image"], "img"), "mask_path": (entry["mask"], "mask")}
            paths = {key: os.path.join(self.data_prefix[folder], name) for key, (name, folder) in places.items()}
            records.append({**paths, "img_id": position, "tag": entry["tag"], "reason": entry["reason"]})
        check_budget(report, len(content), self.skip_budget, f"{self.ann_file}: salient objects")
        if not records:
            raise DataError(f"{self.ann_file}: no usable salient object\n{format_report(report)}")
        self._metainfo.update(classes=())
        self.report = dict(report)
        if report:
            print_log(f"{self.ann_file}: skipped\n{format_report(report)}", logger="current")
        return records

    def prepare_data(self, index: int) -> Any:
        """Read the mask and run the pipeline on one record.

        Raises:
            DataError: The mask cannot be read, or shows nothing.
        """
        record = self.get_data_info(index)
        mask = torch.from_numpy(read_label_map(record["mask_path"], ignore_label=256) > 127)
        if not bool(mask.any()):
            raise DataError(f"{record['mask_path']}: nothing is above 127")
        (code,) = encode_masks(mask[None])
        record |= {"classes": (), "img_root": self.data_prefix["img"], "test_mode": self.test_mode}
        return self.pipeline(record | {"ori_hw": tuple(mask.shape), "target_rle": code, "instances": _instance(code)})

    def __getitem__(self, index: int) -> Any:
        """Return a sample; when training, the next usable one, within ``skip_budget``."""
        return take_usable(self, index)


def _problem_of(entry: Any) -> str | None:
    if not isinstance(entry, dict) or any(not isinstance(entry.get(field), str) for field in _FIELDS):
        return f"not a dict with the texts {_FIELDS}"
    if not entry["tag"].strip():
        return "tag is empty"
    names = (entry["image"], entry["mask"])
    if any(not name or os.path.isabs(name) or ".." in name.replace("\\", "/").split("/") for name in names):
        return "image or mask is not a file name, or leaves its folder"
    return None


def _instance(code: dict[str, Any]) -> dict[str, np.ndarray]:
    segmentations = np.empty(1, dtype=object)
    segmentations[0] = code
    return {
        "bboxes": mask_boxes([code]).numpy(),
        "labels": np.array([NO_LABEL], dtype=np.int64),
        "is_ignored": np.zeros(1, dtype=bool),
        "ann_ids": np.zeros(1, dtype=np.int64),
        "segmentations": segmentations,
    }


# --- the generator ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Salience:
    """How the objects of an image stand out.

    Args:
        scores: Visible area as a share of the image times contrast with the background, of each object.
        masks: Their visible pixels.
    """

    scores: np.ndarray
    masks: np.ndarray

    @property
    def best(self) -> int | None:
        """The object that stands out; None where no one does by ``MARGIN``."""
        order = self.scores.argsort()[::-1]
        is_unique = len(order) > 0 and (len(order) == 1 or self.scores[order[0]] >= MARGIN * self.scores[order[1]])
        return int(order[0]) if is_unique else None


def salience_of(image: np.ndarray, masks: np.ndarray) -> Salience:
    """Return how objects stand out.

    Args:
        image: RGB, uint8 (height, width, 3).
        masks: Visible pixels, bool (n, height, width).
    """
    background = image[~masks.any(0)].reshape(-1, 3)
    middle = background.mean(0) if len(background) else np.full(3, 127.5)
    contrast = [np.linalg.norm(image[mask].mean(0) - middle) / 255 if mask.any() else 0.0 for mask in masks]
    return Salience(masks.mean((1, 2)) * np.array(contrast), masks)


def make_salient(shapes: Path, out: Path, split: str) -> dict[str, float]:
    """Write one split; the same shapes give the same files.

    Returns:
        How many images have a salient object, of how many, and the cumulative IoU of an object drawn at random.

    Raises:
        DataError: The shapes cannot be read.
    """
    content = read_coco(shapes / "annotations" / f"instances_{split}.json", image_root="", with_masks=True)
    annotated = parse_json(shapes / "annotations" / f"instances_{split}.json")["annotations"]
    colour_of = {entry["id"]: entry["colour"] for entry in annotated}
    folder, rng = out / split, np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    entries, both, either = [], 0, 0
    for record in content.records:
        instances = record["instances"]
        masks = decode_masks(list(instances["segmentations"]), record["ori_hw"]).numpy()
        found = salience_of(read_image(str(shapes / split / record["img_path"]), root=str(shapes / split)), masks)
        if found.best is None:
            continue
        mask, drawn = masks[found.best], masks[rng.integers(len(masks))]
        both, either = both + int((mask & drawn).sum()), either + int((mask | drawn).sum())
        name = f"{Path(record['img_path']).stem}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
        tag, colour = content.classes[instances["labels"][found.best]], colour_of[instances["ann_ids"][found.best]]
        reason = f"the {colour} {tag} is large and differs from what is around it"
        entries.append(
            {"image": f"{split}/{record['img_path']}", "mask": f"{split}/{name}", "reason": reason, "tag": tag}
        )
    (out / f"salient_{split}.json").write_text(json.dumps(entries, indent=0), encoding="utf-8")
    figures = {"images": len(content.records), "salient": len(entries), "random_object_ciou": both / max(either, 1)}
    (out / f"figures_{split}.json").write_text(json.dumps(figures), encoding="utf-8")
    return figures


def main() -> None:
    """Write all splits that there are, and print what an object drawn at random reaches."""
    parser = argparse.ArgumentParser(description="Generate salient objects from the shapes data set.")
    parser.add_argument("shapes", type=Path, help="folder of the shapes")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    for split in ("train", "val", "test"):
        if (arguments.shapes / "annotations" / f"instances_{split}.json").is_file():
            print(split, make_salient(arguments.shapes, arguments.out, split))


if __name__ == "__main__":
    main()
