"""Detectors of mmdet: boxes for poses, labels for pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from mmengine import Config, ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from lumen.data.annotations import read_coco
from lumen.data.image import PAD_VALUE, as_rgb, read_image
from lumen.errors import CheckpointError, ConfigError, PromptError, named_faults
from lumen.interop.mmdet.library import build, mmdet_scope, read_file
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import encode_masks
from lumen.paths import find_path
from lumen.serialization.atomic import write_text
from lumen.serialization.fingerprint import digest_tensors

_SCORE = 0.3


@dataclass(frozen=True, slots=True)
class DetectorImage:
    """An image for a detector.

    Args:
        frame: That of its own pixels: the detector resizes by itself.
        pixels: RGB.
    """

    frame: InputTransform
    pixels: UInt8[np.ndarray, "height width 3"]


class MMDetDetector:
    """A trained detector of mmdet, which answers names of its own classes as ``LumenPredictor`` answers phrases.

    Args:
        model: Put in evaluation mode and moved to ``device``.
        config: Its config; gives the transforms of an image.
        classes: Names of its labels.
        device: Where to compute.
        description: Where it comes from, for reports.

    Attributes:
        has_masks: Whether it finds masks.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        config: Config,
        classes: Sequence[str],
        device: torch.device | str = "cpu",
        description: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model.to(device).eval()
        self.classes = tuple(classes)
        self.description = dict(description or {})
        with mmdet_scope("MMDetDetector"):
            from mmcv.transforms import Compose
            from mmdet.utils import get_test_pipeline_cfg

            steps = [dict(step) for step in get_test_pipeline_cfg(config)]
            steps[0] = {"type": "LoadImageFromNDArray"}
            self._pipeline = Compose(steps)
        # Asked once: heads of many kinds find masks, and their classes do not tell.
        self.has_masks = "masks" in self._found(np.full((64, 64, 3), PAD_VALUE, dtype=np.uint8))

    @classmethod
    def from_files(
        cls, config: str | Path, checkpoint: str | Path, *, device: torch.device | str | None = None
    ) -> "MMDetDetector":
        """Build the detector of a config, which is run as Python code, and load its weights.

        Args:
            config: Config of mmdet with ``model`` and ``test_dataloader``; nothing that it names is downloaded.
            checkpoint: Its weights, with the names of the classes; read as data, without code.
            device: The first GPU where there is one, else the CPU, when left out.

        Raises:
            ConfigError: mmdet is not installed, or the config cannot be read or built.
            CheckpointError: The checkpoint cannot be read as data, does not fit the model, or names no classes.
        """
        settings = _read_config(config)
        state, meta = _read_checkpoint(checkpoint)
        with mmdet_scope("MMDetDetector"):
            from mmdet.registry import MODELS
            from mmengine.model.utils import revert_sync_batchnorm

            model = revert_sync_batchnorm(build(MODELS, _without_downloads(settings.model), "detector"))
        with named_faults(f"{checkpoint}: does not fit {config}", CheckpointError, remedy="name its own config"):
            model.load_state_dict(state)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        description = {"detector": str(config), "checkpoint": str(checkpoint)}
        classes = _classes_of(meta, checkpoint)
        return cls(model, config=settings, classes=classes, device=device, description=description)

    def describe(self, task: str) -> dict[str, str]:
        """Return what must stay the same from the first to the last answer of a job.

        Raises:
            ConfigError: It does not find what the task asks for.
        """
        wanted = "segmentation" if self.has_masks else "detection"
        if task not in ("detection", wanted):
            raise ConfigError(
                f"this detector answers task detection{', or ' + wanted if self.has_masks else ''}, got {task!r}"
            )
        return {**self.description, "detector_digest": digest_tensors(self.model.state_dict())}

    def draw(self, image: Any) -> DetectorImage:
        """Return an image, as ``LumenPredictor.set_image`` takes it, ready for the detector."""
        pixels = as_rgb(image)
        return DetectorImage(InputTransform.stretch(pixels.shape[:2], pixels.shape[:2]), pixels)

    def predict_drawn(
        self,
        images: Sequence[DetectorImage],
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int | None = None,
    ) -> list[InstanceData]:
        """Answer names about some images, one after the other.

        Args:
            images: What ``draw`` gave.
            phrases: Names of its classes; all of them when left out.
            task: ``detection``, or ``segmentation`` where it finds masks.
            score_threshold: Lowest score that is kept; 0.3 when left out.

        Returns:
            One table per image, in original pixels, best first: ``bboxes``, ``scores``, ``labels`` (index into
            ``phrases``), ``phrases``, and ``masks`` as RLE for task ``segmentation``.

        Raises:
            PromptError: A phrase is not a class of the detector, or comes twice.
        """
        phrases = self.classes if phrases is None else tuple(phrases)
        unknown = [name for name in phrases if name not in self.classes]
        if unknown or len(set(phrases)) < len(phrases):
            raise PromptError(
                f"a detector knows its own classes alone, each asked once: it has no {unknown}, but {self.classes[:20]}"
            )
        with_masks = task == "segmentation"
        lowest = _SCORE if score_threshold is None else float(score_threshold)
        return [self._answer(image, phrases, lowest, with_masks=with_masks) for image in images]

    def predict(
        self, image: Any, phrases: Sequence[str] | None = None, *, score_threshold: float | int | None = None
    ) -> InstanceData:
        """Answer names about one image; see ``predict_drawn``."""
        return self.predict_drawn([self.draw(image)], phrases, score_threshold=score_threshold)[0]

    def _answer(self, image: DetectorImage, phrases: Sequence[str], lowest: float, *, with_masks: bool) -> InstanceData:
        found = self._found(image.pixels)
        label_of = torch.full((len(self.classes),), -1)
        for label, name in enumerate(phrases):
            label_of[self.classes.index(name)] = label
        labels = label_of[found.labels]
        rows = torch.nonzero((labels >= 0) & (found.scores >= lowest)).flatten()
        rows = rows[found.scores[rows].argsort(descending=True, stable=True)]
        table = {"bboxes": found.bboxes[rows].float(), "scores": found.scores[rows].float(), "labels": labels[rows]}
        if with_masks:
            table["masks"] = encode_masks(found.masks[rows].bool())
        return InstanceData(**table, phrases=[phrases[label] for label in table["labels"].tolist()])

    def _found(self, pixels: UInt8[np.ndarray, "height width 3"]) -> InstanceData:
        """Return all that the detector finds, in original pixels."""
        with mmdet_scope("MMDetDetector"), torch.inference_mode():
            # mmdet's transforms expect blue first.
            data = self._pipeline({"img": np.ascontiguousarray(pixels[..., ::-1]), "img_id": 0})
            batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
            return self.model.test_step(batch)[0].pred_instances.cpu()


def write_detections(
    detector: MMDetDetector, ann_file: str | Path, images: str | Path, out: Path, *, score_threshold: float = 0.05
) -> int:
    """Write what a detector finds in the images of a COCO file, for ``CocoKeypointsDataset(detections=...)``.

    Args:
        detector: Answers the categories of the file that it knows.
        ann_file: COCO file, such as ``person_keypoints_val2017.json``.
        images: Folder of its images.
        out: COCO results file to write: boxes with scores.
        score_threshold: Lowest score that is written.

    Returns:
        How many boxes were written.

    Raises:
        DataError: The file is not a COCO file, or an image cannot be read.
        ConfigError: The detector knows none of the categories.
    """
    content = read_coco(find_path(ann_file), image_root=find_path(images))
    id_of_name = dict(zip(content.classes, content.cat_ids, strict=True))
    names = [name for name in content.classes if name in detector.classes]
    if not names:
        raise ConfigError(f"the detector knows none of {content.classes[:10]}; its classes are {detector.classes[:20]}")
    rows = []
    for record in content.records:
        table = detector.predict(read_image(record["img_path"]), names, score_threshold=score_threshold)
        boxes = table.bboxes.double().numpy().round(3)
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, name in zip(boxes.tolist(), table.scores.tolist(), table.phrases, strict=True):
            rows.append({"image_id": record["img_id"], "category_id": id_of_name[name], "bbox": box, "score": score})
    write_text(out, json.dumps(rows) + "\n")
    return len(rows)


def _read_config(path: str | Path) -> Config:
    config = read_file(path)
    lacking = [key for key in ("model", "test_dataloader") if config.get(key) is None]
    if lacking:
        raise ConfigError(f"{path} has no {lacking}; name the whole config of a detector")
    return config


def _without_downloads(node: Any) -> Any:
    """Return settings without ``init_cfg`` of type ``Pretrained``: the checkpoint holds all weights."""
    if isinstance(node, list | tuple):
        return [_without_downloads(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    start = node.get("init_cfg")
    is_download = isinstance(start, Mapping) and start.get("type") == "Pretrained"
    kept = {key: _without_downloads(value) for key, value in node.items() if key != "init_cfg" or not is_download}
    return ConfigDict(kept)  # mmdet reads its settings by attribute


def _read_checkpoint(path: str | Path) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]:
    found = find_path(path)
    remedy = "give a published one, with weights and names alone, such as mmdet's publish_model.py writes"
    with named_faults(f"{found}: cannot be read as data", CheckpointError, remedy=remedy):
        content = torch.load(found, map_location="cpu", weights_only=True)
        return content["state_dict"], content.get("meta", {})


def _classes_of(meta: Mapping[str, Any], checkpoint: str | Path) -> tuple[str, ...]:
    known = {str(key).lower(): value for key, value in (meta.get("dataset_meta") or meta).items()}
    if not known.get("classes"):
        raise CheckpointError(f"{checkpoint}: names no classes in meta['dataset_meta']; mmdet's checkpoints do")
    return tuple(known["classes"])
