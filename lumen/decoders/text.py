"""Tasks that the LMM answers with text. Their decoders have no weights and pass the generated text on."""

from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData

from lumen.decoders.base import Decoder, no_loss
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
        needs_heat=False,
    )


def hand_on_texts(shared: SharedRepresentation, samples: Sequence[PerceptionSample], task: str) -> list[InstanceData]:
    """Return per sample one row per prompt of the task: its generated text and its number.

    Raises:
        ConfigError: If a prompt of the task has no text, because the adapter was not asked for any.
    """
    asked = [[place for place, prompt in enumerate(sample.prompts) if prompt.task == task] for sample in samples]
    if any(asked) and "texts" not in shared.extras:
        raise ConfigError(
            f"task {task!r} needs generated texts, the representation has extras {sorted(shared.extras)}: call the "
            "adapter with extras={'texts'} and predicting=True"
        )
    return [
        InstanceData(
            texts=[shared.extras["texts"][image][place] for place in places],
            prompt_index=torch.tensor(places, dtype=torch.long, device=shared.image_index.device),
        )
        for image, places in enumerate(asked)
    ]


def predict_texts(
    decoder: Decoder, shared: SharedRepresentation, samples: Sequence[PerceptionSample]
) -> list[InstanceData]:
    """Return one text per prompt; see ``hand_on_texts``. The ``predict`` of such decoders."""
    return hand_on_texts(shared, samples, decoder.spec.name)


@DECODERS.register_module()
class VqaDecoder(Decoder):
    """Answers to questions about the image."""

    spec = text_spec("vqa", "vqa/accuracy")
    loss = no_loss
    predict = predict_texts


@DECODERS.register_module()
class CaptionDecoder(Decoder):
    """Descriptions of the image."""

    spec = text_spec("caption", "caption/CIDEr")
    loss = no_loss
    predict = predict_texts


@DECODERS.register_module()
class ChatDecoder(Decoder):
    """Turns of a conversation about the image."""

    spec = text_spec("chat", "vqa/accuracy")
    loss = no_loss
    predict = predict_texts
