"""An adapter without an LMM: features come from a cache."""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from lumen.errors import CheckpointError, ConfigError, DataError
from lumen.lmm.generation import AnswerReport
from lumen.lmm.text_losses import LOSSES
from lumen.lmm.usage import Usage
from lumen.registry import MODELS
from lumen.serialization.feature_cache import CachedImage, FeatureCache
from lumen.serialization.fingerprint import describe_settings
from lumen.structures import LocFeatures, PerceptionSample, Prompt

_FEW = 3


@MODELS.register_module()
class CachedAdapter(nn.Module):
    """Passes on the features of ``CachedFeatures``: the decoding stage, with LMM and aligner frozen, without the LMM.

    It has no parameters. Its ``state_dict`` holds the trained weights of the LMM that made the cache, memory-mapped: a
    checkpoint that is loaded must have the same ones, and one that is saved fits the full model.

    Args:
        cache: Folder of the cache; widths and weights come from there.
        lmm: Config of the adapter that the cache should have been made by; not built, only compared.

    Raises:
        DataError: The folder does not hold a whole cache.
        CheckpointError: ``lmm`` differs from what made the cache.
    """

    losses: ClassVar[Mapping[str, str]] = LOSSES
    """Those of the LMM that made the cache, so that weights of losses may stay in a config; none of them is given."""

    def __init__(self, cache: str | Path, *, lmm: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._cache = FeatureCache(cache)
        if lmm is not None:
            self._cache.require_model({**self._cache.model, "settings": describe_settings(lmm)}, "the config's lmm")
        self._weights = self._cache.weights()
        self.usage = Usage()
        self.answer_report = AnswerReport()

    @property
    def input_spec(self) -> None:
        """None: a cache holds images of one size."""

    @property
    def dim(self) -> int:
        """Width of ``LocFeatures.query``."""
        return self._cache.manifest["dim"]

    @property
    def vision_dim(self) -> int:
        """Channels of ``LocFeatures.grid``."""
        return self._cache.manifest["vision_dim"]

    @property
    def lateral_channels(self) -> tuple[int, ...]:
        """Channels of each map in ``LocFeatures.laterals``, finest first."""
        return tuple(self._cache.manifest["lateral_channels"])

    @property
    def slots(self) -> tuple[str, ...]:
        """None: a cache holds the query of each pair only."""
        return ()

    @property
    def protocol(self) -> dict[str, str]:
        """How the LMM was asked when the cache was made; belongs to a figure, not to a checkpoint."""
        return {"template": self.describe()["template"], "answer_mode": "forced", "packing": "cached"}

    def describe(self) -> dict[str, str]:
        """Return the description of the LMM that made the cache."""
        return dict(self._cache.manifest["describe"])

    def count_tokens(self, prompts: Sequence[Sequence[Prompt]]) -> dict[str, int]:
        """Return 0 tokens: text is not trained from a cache."""
        return {"answer_tokens": 0, "text_tokens": 0}

    def loss(self, features: LocFeatures, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Return no losses: the LMM is not trained from a cache."""
        return {}

    def is_text(self, task: str) -> NoReturn:
        """Raise ConfigError: only an LMM answers as text."""
        raise ConfigError(f"task {task!r} is answered as text, which is not cached; leave its decoder out here")

    def left_out(self) -> Iterator[str]:
        """Yield the names of weights that the LMM has from its base model."""
        yield from self._cache.manifest["absent"]

    def forward(
        self,
        images: Sequence[CachedImage] | Tensor,
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
    ) -> LocFeatures:
        """Put the features of a batch together.

        Args:
            images: As ``CachedFeatures`` gives them.
            prompts: The prompts of each image, those of the time of writing.
            extras: Not used: all that the cache holds is given.
            predicting: Not used: learning and predicting read the same features.

        Raises:
            DataError: The images are not cached features, or their prompts are not those that were cached.
            CheckpointError: They were cached by another model.
        """
        for image, asked in zip(images, prompts, strict=True):
            self._check(image, asked)
        sizes = torch.tensor([len(image.query) for image in images])
        query = torch.cat([image.query for image in images])
        stored = [name for name, _ in images[0].items() if name.startswith("extra_")]
        return LocFeatures(
            query=query,
            grid=torch.stack([image.grid for image in images]),
            laterals=tuple(
                torch.stack([image.get(f"lateral_{level}") for image in images])
                for level in range(len(self.lateral_channels))
            ),
            stride=self._cache.manifest["stride"],
            image_index=torch.arange(len(images)).repeat_interleave(sizes).to(query.device),
            prompt_index=torch.cat([image.prompt_index for image in images]),
            extras={name.removeprefix("extra_"): torch.stack([image.get(name) for image in images]) for name in stored},
        )

    def encode_images(self, images: Tensor) -> NoReturn:
        """Raise ConfigError: there is no LMM that could."""
        raise ConfigError(
            "this model reads cached features and cannot look at new images; load the checkpoint with the full model's "
            "config, the one that the cache was made with"
        )

    def _check(self, image: Any, prompts: Sequence[Prompt]) -> None:
        if not isinstance(image, CachedImage):
            raise DataError(
                f"CachedAdapter takes cached features, got {type(image).__name__}: set the dataloader's dataset to "
                "CachedFeatures"
            )
        if image.model != self._cache.model:
            self._cache.require_model(image.model, "the cache that this batch comes from")
        if len(image.prompt_index) and int(image.prompt_index.max()) >= len(prompts):
            raise DataError(f"the cache has {len(image.prompt_index)} pairs of an image with {len(prompts)} prompts")

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: tensor for name, tensor in self._weights.items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
        given = {name: state_dict[prefix + name] for name in self._weights if prefix + name in state_dict}
        different = [name for name, tensor in given.items() if not torch.equal(tensor.cpu(), self._weights[name])]
        if different:
            names = ", ".join(different[:_FEW]) + (" and more" if len(different) > _FEW else "")
            raise CheckpointError(
                f"the LMM's weights in this checkpoint are not those that {self._cache.folder} was made with: {names}. "
                "Write the cache again from this checkpoint, or load the one that it was made from"
            )
