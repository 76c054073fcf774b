"""EVA-CLIP's tower as BLIP-2 ships it, under a LLaVA: any multiple of a patch, the position embedding resized.

transformers has the tower as ``Blip2VisionModel`` (ViT-g/14: width 1408, 39 layers, 16 heads), but ``AutoModel`` does
not know it, so it is registered here. Its ``initializer_range`` is 1e-10: a tiny one with random weights needs .02, or
every image looks alike.
"""

from torch import Tensor, nn
from transformers import AutoModel, Blip2VisionConfig, Blip2VisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families.family import Family, InputSpec, patch_stride
from lumen.lmm.families.llava import chosen_layer, layer_states

AutoModel.register(Blip2VisionConfig, Blip2VisionModel, exist_ok=True)


def encode_tower(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run the tower; level -1 is behind the final normalisation, which ``hidden_states`` lack."""
    output = model.vision_tower(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
    output.hidden_states = (*output.hidden_states[:-1], output.last_hidden_state)
    return output


def _encode(model: nn.Module, pixels: Tensor) -> BaseModelOutputWithPooling:
    """Run tower and projector, without the class token."""
    output = encode_tower(model, pixels)
    output.pooler_output = list(model.multi_modal_projector(output.hidden_states[chosen_layer(model.config)][:, 1:]))
    return output


EVA = Family(
    input_spec=lambda config: InputSpec(patch_stride(config), None),
    encode=_encode,
    vision_grid=layer_states,
    encode_dense=encode_tower,
    encode_tower=encode_tower,
)
