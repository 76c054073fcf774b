"""Segment Anything through transformers: points and boxes on images in, masks out. Never trained, never saved."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, Sam2Model, SamModel

from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.lmm.repository import check_filled, refuse_adapter, without_code
from lumen.lmm.sam_view import SamView
from lumen.paths import find_path
from lumen.registry import MODELS

# model_type: class, and whether the input is stretched to the square (else padded to it, right and below).
_FAMILIES: dict[str, tuple[type[PreTrainedModel], bool]] = {
    "sam": (SamModel, False),
    "sam2": (Sam2Model, True),
    "sam2_video": (Sam2Model, True),  # how the SAM 2 checkpoints are published; images need its image part only
}


@MODELS.register_module()
class SamMasks(nn.Module):
    """A frozen SAM or SAM 2. It has no parameters of its own: optimizers, checkpoints and averages do not see it.

    Each image is embedded once, however many objects it has; the embeddings of the last batch are kept, so that an
    image that is asked again is not embedded again.

    Args:
        name_or_path: Folder or model id, as ``from_pretrained`` takes it; folders are looked up by
            ``lumen.paths.find_path``.
        objects_at_once: Objects of an image that are decoded together.

    Raises:
        ConfigError: It is not a SAM.
    """

    def __init__(self, name_or_path: str, *, objects_at_once: int = 64) -> None:
        super().__init__()
        path = find_path(name_or_path)
        refuse_adapter(path)
        fields, _ = PretrainedConfig.get_config_dict(path)
        family = fields.get("model_type")
        if family not in _FAMILIES:
            raise ConfigError(f"{name_or_path} is a {family!r} model; SamMasks takes {sorted(_FAMILIES)}")
        kind, is_stretched = _FAMILIES[family]
        self.objects_at_once = objects_at_once
        # In a tuple, so that it is not a submodule.
        config = without_code(kind.config_class.from_dict(fields))
        self._sam = (load_sam(kind, path, config).requires_grad_(False).eval(),)
        self.view = SamView(self._sam[0].config.prompt_encoder_config.image_size, is_stretched)
        self._images: Tensor | None = None
        self._embeddings: dict[int, Any] = {}

    @torch.no_grad()
    def forward(
        self,
        images: UInt8[Tensor, "images 3 height width"],
        image_index: Int[Tensor, " n"],
        points: Float[Tensor, "n 2"],
        boxes: Float[Tensor, "n 4"],
    ) -> Float[Tensor, "n rows cols"]:
        """Return how probable each object's mask is, on a grid that covers the whole input.

        Args:
            images: RGB at input size.
            image_index: The image of each object.
            points: A point (x, y) on each object, in input pixels.
            boxes: Its box, in input pixels.
        """
        if images is not self._images:
            self._images, self._embeddings = images, {}
        size_hw = tuple(images.shape[-2:])
        masks = images.new_zeros(len(points), *self.view.rows_cols(size_hw), dtype=torch.float32)
        for image, chosen in _by_image(image_index, self.objects_at_once):
            if image not in self._embeddings:
                pixels = self.view.prepare(images[image : image + 1], self._sam[0].dtype)
                self._embeddings[image] = self._sam[0].get_image_embeddings(pixels)
            logits = self._decode(self._embeddings[image], points[chosen], boxes[chosen], size_hw)
            masks[chosen] = self.view.cut(logits.float(), size_hw).sigmoid()
        return masks

    def _decode(self, embedding: Any, points: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Return mask logits (n, 1, rows, cols) of the whole square. SAM adds half a pixel to what it is given."""
        scale = points.new_tensor(self.view.scale_xy(size_hw))
        sam = self._sam[0]
        return sam(
            image_embeddings=embedding,
            input_points=(points * scale - 0.5)[None, :, None].to(sam.dtype),
            input_boxes=(boxes * scale.repeat(2) - 0.5)[None].to(sam.dtype),
            multimask_output=False,
        ).pred_masks[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SamMasks":
        """Move SAM along with the model that it serves."""
        self._sam[0]._apply(fn, recurse)
        self._images, self._embeddings = None, {}
        return super()._apply(fn, recurse)


def load_sam(kind: type[PreTrainedModel], path: str, config: PretrainedConfig) -> PreTrainedModel:
    """Load a SAM.

    Raises:
        CheckpointError: A file is damaged, or weights are missing, of another shape or not finite.
    """
    with named_faults(f"the SAM {path!r} cannot be read", CheckpointError, remedy="fetch the repository again"):
        model, report = kind.from_pretrained(
            path, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
        check_filled(path, model, report)
        return model


def _by_image(image_index: Int[Tensor, " n"], at_once: int) -> Iterator[tuple[int, Int[Tensor, " m"]]]:
    """Yield each image that has objects with at most ``at_once`` of their indices."""
    for image in image_index.unique().tolist():
        for chosen in (image_index == image).nonzero()[:, 0].split(at_once):
            yield image, chosen
