"""Answers in the shapes of other libraries."""

from typing import Any

import numpy as np
from mmengine.structures import InstanceData

from lumen.errors import ConfigError, DataError
from lumen.ops.masks import decode_masks, mask_boxes

_OWN_FIELDS = frozenset({"bboxes", "masks", "scores", "labels", "phrases"})


def to_supervision(table: InstanceData) -> Any:
    """Return an answer of ``LumenPredictor`` as ``supervision.Detections``, row by row.

    ``xyxy`` are the boxes, of semantic masks those around them; ``class_id`` is the index into the phrases and
    ``data["class_name"]`` the phrase. Every other field, such as ``keypoints``, is in ``data`` under its own name.

    Args:
        table: With ``bboxes`` or ``masks``, in original pixels.

    Raises:
        ConfigError: supervision is not installed.
        DataError: The table has neither boxes nor masks, as counts and texts.
    """
    supervision = _supervision()
    if "bboxes" not in table and "masks" not in table:
        raise DataError(f"supervision.Detections need bboxes or masks, got a table of {sorted(table.keys())}")
    further = {key: np.asarray(value) for key, value in table.items() if key not in _OWN_FIELDS}
    return supervision.Detections(
        xyxy=(table.bboxes if "bboxes" in table else mask_boxes(table.masks)).numpy(),
        mask=_masks(table),
        confidence=table.scores.numpy(),
        class_id=table.labels.numpy(),
        data={"class_name": np.array(table.phrases, dtype=str), **further},
    )


def _supervision() -> Any:
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"to_supervision needs the package supervision ({error}): pip install 'lumen-perception[supervision]'"
        ) from error
    return supervision


def _masks(table: InstanceData) -> np.ndarray | None:
    """Return the masks (n, height, width); none without rows, as the size of the image is not known then."""
    if "masks" not in table or not table.masks:
        return None
    return decode_masks(table.masks, table.masks[0]["size"]).numpy()
