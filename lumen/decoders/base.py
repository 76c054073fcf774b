"""The contract of a task decoder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.structures import PerceptionSample, Prompt, SharedRepresentation, TaskSpec


class Decoder(nn.Module, ABC):
    """Turn the shared representation into one task's predictions.

    A decoder is final: subclass ``Decoder`` itself, never another decoder; share code through plain functions.
    It receives the pairs of its task and the samples they point to. Everything it reads from a sample or writes to one
    is in input pixels; ``Lumen`` maps predictions back to original pixels.

    Args:
        channels: Width of the shared representation; filled in from the aligner.

    Raises:
        TypeError: When a subclass is defined without ``spec``, or from another decoder.
    """

    spec: ClassVar[TaskSpec]

    def __init__(self, channels: int) -> None:
        super().__init__()
        queries = torch.randn(self.spec.map_queries, channels) * channels**-0.5
        if len(queries):
            self.map_queries = nn.Parameter(queries)
        else:  # sharding takes no parameter without elements
            self.register_buffer("map_queries", queries, persistent=False)

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.__dict__.get("spec"), TaskSpec):
            raise TypeError(f"{cls.__name__} must declare `spec = TaskSpec(...)`")
        if Decoder not in cls.__bases__ or any(Decoder in base.__bases__ for base in cls.__bases__):
            raise TypeError(f"{cls.__name__} must subclass Decoder directly; share code through plain functions")

    @abstractmethod
    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the sums named in ``spec.losses``; finite and connected also for no pairs and for no objects.

        ``Lumen`` divides each sum by the count that ``spec.losses`` names, over the whole global batch.
        """

    @abstractmethod
    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one ``InstanceData`` per sample, holding exactly the fields named in ``spec.predictions``."""


def fill_unanswered(answer: InstanceData, prompts: Sequence[Prompt], task: str) -> InstanceData:
    """Add a row of zeros for each prompt of a task that has none, and put the rows in the order of the prompts.

    A prompt has no pair where the LMM wrote its answer itself and left ``[LOC]`` out: nothing was found.
    """
    answered = set(answer.prompt_index.tolist())
    missing = [place for place, prompt in enumerate(prompts) if prompt.task == task and place not in answered]
    if not missing:
        return answer
    rows = {key: value.new_zeros(len(missing), *value.shape[1:]) for key, value in answer.items()}
    rows["prompt_index"] = answer.prompt_index.new_tensor(missing)
    rows["labels"] = answer.labels.new_tensor([prompts[place].label for place in missing])
    filled = InstanceData.cat([answer, InstanceData(**rows)])
    return filled[filled.prompt_index.argsort()]


def no_loss(
    decoder: Decoder, shared: SharedRepresentation, samples: Sequence[PerceptionSample]
) -> dict[str, Float[Tensor, ""]]:
    """Return no losses: the LMM's ``loss_text`` trains text answers. The ``loss`` of such decoders."""
    return {}
