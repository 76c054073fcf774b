"""Encoded images: output of the vision tower, and the LLM's cache of the prefix between questions."""

from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.lmm.families.family import Size


@dataclass(frozen=True, slots=True)
class PrefixStates:
    """Output of the LLM for the prefix with some images.

    Args:
        cache: What suffixes read of it, layer by layer: keys and values, or the state of a recurrent layer.
        states: States of the wanted layers.
    """

    cache: Cache
    states: list[Float[Tensor, "images prefix dim"]]

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        held = [each for layer in self.cache.layers for each in tree_leaves(list(vars(layer).values()))]
        tensors = {id(each): each for each in (*held, *self.states) if isinstance(each, Tensor)}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@dataclass(slots=True)
class PrefixCache:
    """Outputs of the LLM for the prefixes of some encoded images, filled in by the first question.

    Valid for these images and for the weights at that time only.

    Args:
        kept: By tokens of the prefix and numbers of the images.
    """

    kept: dict[tuple[tuple[int, ...], ...], PrefixStates] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(prefix.num_bytes for prefix in self.kept.values())


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """Images after the vision tower and the connector; they can be asked many times without being encoded again.

    Args:
        images: RGB at input size, which some decoders read; or clips.
        states: Output of tower and connector, in the form of the family.
        token_hw: Grid of the image tokens of each image; one row where they lie on no grid.
        image_text: What each image takes in the text.
        prefix_cache: Filled by the first question, read by the later ones: without gradients, and where
            a prefix can run on its own (``PassMode.keeps_prefix``). None where nothing is kept.
        shown: Numbers of the image tokens that the LLM gets, in order; None for all. See ``show_tokens``.
    """

    images: UInt8[Tensor, "images *frames 3 height width"]
    states: BaseModelOutputWithPooling
    token_hw: Size
    image_text: str
    prefix_cache: PrefixCache | None = None
    shown: Int[Tensor, "images tokens"] | None = None

    @property
    def input_hw(self) -> Size:
        """Height and width of the images."""
        return self.images.shape[-2], self.images.shape[-1]


def show_tokens(encoded: EncodedImages, shown: Int[Tensor, "images tokens"], image_text: str) -> EncodedImages:
    """Return the images with some of their image tokens, which keep the positions that they have among all.

    Training may begin with few tokens: a word finds its object sooner where there is less to look at.

    Args:
        encoded: Images with all tokens.
        shown: Numbers of the tokens of each image, in ascending order.
        image_text: What an image of so many tokens takes in the text.
    """
    tokens = [of_image[numbers] for of_image, numbers in zip(encoded.states.pooler_output, shown, strict=True)]
    states = type(encoded.states)(**{name: each for name, each in encoded.states.items() if name != "pooler_output"})
    states.pooler_output = tokens
    return replace(encoded, states=states, image_text=image_text, prefix_cache=None, shown=shown)
