"""Re-identification: a vector per person that is near to those of other pictures of the same person."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.decoders.base import Decoder
from lumen.errors import DataError
from lumen.registry import DECODERS
from lumen.structures import Field, PerceptionSample, SharedRepresentation, TaskSpec, gather_pairs, targets_per_pair

EMBEDDING_DIM = 128


@DECODERS.register_module()
class ReidDecoder(Decoder):
    """A unit vector from the vector of a pair; in training it is classified by its cosine to a vector per identity.

    The loss looks at one pair at a time, so packed and separate prompts, and any batch size, learn the same.

    Args:
        channels: Width of the shared representation.
        num_identities: Identities of the training set, which its data set numbers from 0.
        scale: Logits are the cosines times this.

    Source:
        The classifier after Wang et al., "NormFace" (2017).
    """

    spec = TaskSpec(
        name="reid",
        targets=frozenset({"identity"}),
        predictions=frozenset({"embeddings", "scores", "labels", "prompt_index"}),
        headline="reid/rank_1",
        losses={"loss_identity": "objects"},
        fields={"identity": Field("classes"), "embeddings": Field("numbers", shape=(EMBEDDING_DIM,))},
        needs_heat=False,
    )

    def __init__(self, channels: int, *, num_identities: int = 120, scale: float = 16.0) -> None:
        super().__init__(channels)
        self.scale = scale
        self.embed = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, EMBEDDING_DIM))
        self.centres = nn.Parameter(torch.randn(num_identities, EMBEDDING_DIM) * EMBEDDING_DIM**-0.5)

    def forward(self, shared: SharedRepresentation) -> Float[Tensor, "pairs 128"]:
        """Return the unit vector of each pair."""
        return functional.normalize(self.embed(shared.query).float(), dim=-1)

    def loss(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> dict[str, Float[Tensor, ""]]:
        """Return the cross entropy of the identities, summed over objects.

        Raises:
            DataError: An identity is not among those of training.
        """
        targets = targets_per_pair(samples, shared, fields=self.spec.fields)
        if len(targets) and not 0 <= int(targets.identity.min()) <= int(targets.identity.max()) < len(self.centres):
            raise DataError(
                f"identities are numbered from 0 to {len(self.centres) - 1}, got {targets.identity.unique().tolist()}: "
                "set num_identities to the number of the training set"
            )
        vectors, centres = self(shared), functional.normalize(self.centres, dim=-1)
        logits = self.scale * vectors[targets.pair_index] @ centres.T
        loss = functional.cross_entropy(logits, targets.identity, reduction="sum")
        return {"loss_identity": loss + (vectors.sum() + centres.sum()) * 0}

    def predict(self, shared: SharedRepresentation, samples: Sequence[PerceptionSample]) -> list[InstanceData]:
        """Return the vector of each pair. Its score is 1: nothing tells whether there is a person."""
        vectors = self(shared)
        every = torch.arange(len(vectors), device=vectors.device)
        table = InstanceData(embeddings=vectors, scores=torch.ones_like(vectors[:, 0]), pair_index=every)
        return gather_pairs(table, samples, shared)
