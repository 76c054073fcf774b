"""Tasks that the LMM answers in words: nothing to decode, nothing to learn here, the answers are handed on."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.decoders.base import Decoder
from lumen.errors import ConfigError
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec


def text_spec(name: str, headline: str) -> TaskSpec:
    """Return the description of a task whose prompts have no pairs; for plug-ins too."""
    return TaskSpec(
        name=name,
        targets=frozenset(),
        predictions=frozenset({"texts", "prompt_index"}),
        headline=headline,
        losses={},
        extras=frozenset({"texts"}),
    )


def hand_on_texts(shared: SharedRepresentation, samples: Sequence[PerceptionSample], task: str) -> list[InstanceData]:
    """Return per sample one row per prompt of the task: its generated text and its number.

    Raises:
        ConfigError: If a prompt of the task has no text, because the adapter was not asked for any.
    """
    asked = [[at for at, prompt in enumerate(sample.prompts) if prompt.task == task] for sample in samples]
    if any(asked) and "texts" not in shared.extras:
        raise ConfigError(
            f"task {task!r} needs generated texts, the representation has extras {sorted(shared.extras)}: call the "
            "adapter with extras={'texts'} and predicting=True"
        )
    return [
        InstanceData(
            texts=[shared.extras["texts"][image][at] for at in own], prompt_index=_index(own, shared.image_index)
        )
        for image, own in enumerate(asked)
    ]


def _index(numbers: Sequence[int], like: Int[Tensor, " pairs"]) -> Int[Tensor, " prompts"]:
    return like.new_tensor(list(numbers))


@DECODERS.register_module()
class VqaDecoder(Decoder):
    """Answers to questions about the image."""

    spec = text_spec("vqa", "vqa/accuracy")

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return nothing: the LMM's ``loss_text`` trains the answers."""
        return {}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one text per prompt."""
        return hand_on_texts(shared, samples, self.spec.name)


@DECODERS.register_module()
class CaptionDecoder(Decoder):
    """Descriptions of the image."""

    spec = text_spec("caption", "caption/CIDEr")

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return nothing: the LMM's ``loss_text`` trains the captions."""
        return {}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one text per prompt."""
        return hand_on_texts(shared, samples, self.spec.name)


@DECODERS.register_module()
class ChatDecoder(Decoder):
    """Turns of a conversation about the image."""

    spec = text_spec("chat", "vqa/accuracy")

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return nothing: the LMM's ``loss_text`` trains the turns."""
        return {}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one text per prompt."""
        return hand_on_texts(shared, samples, self.spec.name)
