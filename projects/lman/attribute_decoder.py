"""Attributes of a person: one prompt per attribute, answered with yes or no."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.decoders.base import Decoder, fill_unanswered
from lumen.registry import DECODERS
from lumen.structures import PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair


@DECODERS.register_module()
class AttributeDecoder(Decoder):
    """Whether the person in the image has the attribute that a prompt names: a linear layer on the prompt's vector.

    An attribute is there if the prompt has an object. Prompts of images with an ignored object of their own are not
    learned from. Nothing is read from other pairs, so packed and separate prompts learn the same.

    Args:
        channels: Width of the shared representation.
    """

    spec = TaskSpec(
        name="attributes",
        targets=frozenset({"prompt_index"}),
        predictions=frozenset({"scores", "labels", "prompt_index"}),
        headline="attributes/mA",
        losses={"loss_attribute": "pairs"},
        needs_heat=False,
    )

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.head = nn.Linear(channels, 1)

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, " pairs"]:
        """Return the logit of each pair."""
        return self.head(shared.query)[:, 0].float()

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the binary cross entropy, summed over pairs."""
        logits = self(shared)
        targets = targets_per_pair(samples, shared)
        ignored = targets_per_pair(samples, shared, "ignored_instances")
        truth = torch.zeros_like(logits).index_fill_(0, targets.pair_index, 1)
        is_known = torch.ones_like(logits).index_fill_(0, ignored.pair_index, 0)
        distance = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return {"loss_attribute": (distance * is_known).sum()}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return one row per prompt; ``scores`` are probabilities. A prompt without a pair has score 0."""
        every = torch.arange(shared.num_pairs, device=shared.image_index.device)
        table = InstanceData(scores=self(shared).sigmoid(), pair_index=every)
        answers = gather_pairs(table, samples, shared)
        return [
            fill_unanswered(answer, sample.prompts, self.spec.name)
            for answer, sample in zip(answers, samples, strict=True)
        ]
