"""SAM's mask decoder, trained: a vector on an image in, a mask out. The encoder of the images is never trained."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import AutoConfig, SamMaskDecoderConfig, SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder

from lumen.errors import ConfigError
from lumen.lmm.repository import refuse_adapter, without_code
from lumen.lmm.sam import load_sam
from lumen.lmm.sam_view import SamView
from lumen.ops.geometry import sine_positions
from lumen.options import check_choice
from lumen.paths import find_path
from lumen.registry import MODELS


@MODELS.register_module()
class SamPrompted(nn.Module):
    """A mask per vector: each vector is a prompt of SAM's mask decoder, in place of points and boxes.

    ``mask_decoder`` is trained, but for the head that rates masks, which nothing reads. SAM's image encoder and what
    encodes its prompts stay as they are; they have no parameters here, so checkpoints do not hold them.

    Args:
        name_or_path: Folder or model id of a SAM, as ``from_pretrained`` takes it; folders are looked up by
            ``lumen.paths.find_path``. Left out, a mask decoder from scratch is built.
        channels: Width of the vectors, and of the dense map.
        encoder: Where the features of the image come from: ``sam``, its encoder, at its own size; ``shared``, the dense
            map of the shared representation through a 1 x 1 convolution, which is ours.
        sizes: Of a mask decoder from scratch: fields of ``SamMaskDecoderConfig``, as wide as the vectors.
        objects_at_once: Vectors that are decoded together where nothing is learned.

    Raises:
        ConfigError: It is not a SAM of the first version, has another width than the vectors, or its encoder is wanted
            and there is none.

    Source:
        Lai et al., "LISA" (2024), section 3.2, and Xu et al., "u-LLaVA" (2024), section 4.1: the vector is one sparse
        prompt, and there is no dense one.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        channels: int,
        encoder: str = "sam",
        sizes: Mapping[str, Any] | None = None,
        objects_at_once: int = 64,
    ) -> None:
        super().__init__()
        check_choice("encoder", encoder, ("sam", "shared"))
        if encoder == "sam" and name_or_path is None:
            raise ConfigError("encoder='sam' needs a SAM: give name_or_path, or encoder='shared'")
        if name_or_path is None:
            config = SamMaskDecoderConfig(hidden_size=channels, attn_implementation="sdpa", **(sizes or {}))
            self.mask_decoder = SamMaskDecoder(config)
        else:
            sam = _load(name_or_path, channels, sizes)
            self.mask_decoder = sam.mask_decoder
        self.mask_decoder.iou_prediction_head.requires_grad_(False)
        self.objects_at_once = objects_at_once
        # In a tuple, so that it is not a submodule.
        self._sam: tuple[SamModel, ...] = ()
        if encoder == "sam":
            sam.mask_decoder = None
            self._sam = (sam.requires_grad_(False).eval(),)
            self.view = SamView(sam.config.prompt_encoder_config.image_size, is_stretched=False)
        else:
            self.to_image = nn.Conv2d(channels, channels, 1)

    def forward(
        self,
        vectors: Float[Tensor, "n channels"],
        image_index: Int[Tensor, " n"],
        *,
        images: UInt8[Tensor, "images 3 height width"] | None = None,
        dense: Float[Tensor, "images channels dense_height dense_width"] | None = None,
    ) -> Float[Tensor, "n rows cols"]:
        """Return mask logits in float32, on a grid that covers the whole input.

        Args:
            vectors: One per mask.
            image_index: The image of each.
            images: RGB at input size, for ``encoder="sam"``.
            dense: The dense map of each image, for ``encoder="shared"``.

        Raises:
            ConfigError: What the encoder reads was not given, or the dense map has no cells.
        """
        if not self._sam and (dense is None or not dense.shape[-1]):
            raise ConfigError("encoder='shared' reads a dense map with cells: set fine_levels of the aligner")
        if not len(vectors):
            return self._no_masks(vectors, dense)
        used, owner = image_index.unique(return_inverse=True)
        features, position, no_mask = self._encode(images, dense, used)
        step = len(vectors) if torch.is_grad_enabled() else self.objects_at_once
        logits = [
            self._decode(vectors[start : start + step], features[owner[start : start + step]], position, no_mask)
            for start in range(0, len(vectors), step)
        ]
        whole = torch.cat(logits).float()
        return self.view.cut(whole, tuple(images.shape[-2:])) if self._sam else whole[:, 0]

    def _no_masks(self, vectors: Tensor, dense: Tensor | None) -> Float[Tensor, "0 rows cols"]:
        """Return no masks; the mask decoder refuses to decode none, so one that is left out connects what is trained.

        Batches without masks come without images, too.
        """
        features = vectors.new_zeros(1, vectors.shape[1], 1, 1)
        if not self._sam:
            features = self.to_image(dense.sum() + features)
        vector = vectors.sum() + vectors.new_zeros(1, vectors.shape[1])
        return self._decode(vector, features, torch.zeros_like(features), features.new_zeros(()))[:0, 0].float()

    def _encode(self, images: Tensor | None, dense: Tensor | None, used: Int[Tensor, " m"]) -> tuple[Tensor, ...]:
        """Return features of the images, their positions, and what stands for no dense prompt."""
        if not self._sam:
            features = self.to_image(dense)[used]
            height, width = features.shape[-2:]
            position = sine_positions(height, width, features.shape[1], like=features)
            return features, position.T.reshape(1, -1, height, width), features.new_zeros(())
        if images is None:
            raise ConfigError("encoder='sam' reads the images: name them in TaskSpec.extras")
        (sam,) = self._sam
        with torch.no_grad():
            position = sam.get_image_wide_positional_embeddings()
            pixels = (self.view.prepare(images[image : image + 1], sam.dtype) for image in used.tolist())
            embedded = [sam.get_image_embeddings(each) for each in pixels]
        return torch.cat(embedded), position, sam.prompt_encoder.no_mask_embed.weight[..., None, None]

    def _decode(
        self, vectors: Tensor, features: Tensor, position: Tensor, no_mask: Tensor
    ) -> Float[Tensor, "n 1 rows cols"]:
        masks, _ = self.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=position.expand(len(vectors), -1, -1, -1),
            sparse_prompt_embeddings=vectors.to(features.dtype)[:, None, None],
            dense_prompt_embeddings=no_mask,
            multimask_output=False,
        )
        return masks[:, 0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SamPrompted":
        """Move SAM along with the decoder that it serves."""
        for sam in self._sam:
            sam._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _load(name_or_path: str, channels: int, sizes: Mapping[str, Any] | None) -> SamModel:
    path = find_path(name_or_path)
    refuse_adapter(path)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if config.model_type != "sam":
        raise ConfigError(f"{name_or_path} is a {config.model_type!r} model; SamPrompted takes 'sam'")
    width = config.mask_decoder_config.hidden_size
    if width != channels or sizes:
        raise ConfigError(
            f"the mask decoder of {name_or_path} is {width} wide, the vectors {channels}, and sizes are {sizes}: set "
            f"channels={width} in the aligner, and give no sizes"
        )
    return load_sam(SamModel, path, without_code(config))
