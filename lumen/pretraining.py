"""Training of an LMM itself, before anything is asked for places: what its tower sees, what its words mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from lumen.data.pipelines import ModelInputs
from lumen.errors import ConfigError
from lumen.lmm import object_heads
from lumen.lmm.encoded import EncodedImages, show_tokens
from lumen.lmm.object_heads import ObjectHeads, Objects, TowerMaps, objects_of
from lumen.lmm.token_words import WordReader, Words, token_words, word_loss
from lumen.registry import MODELS
from lumen.structures import FeatureWidths, PerceptionSample

LOSSES = (*object_heads.LOSSES, "loss_words", "loss_text")


@MODELS.register_module()
class LmmPretrainer(BaseModel):
    """An adapter with linear heads on its tower: trains them, its connector and its LLM, in any stages.

    A stage names in ``loss_weights`` what it trains; nothing else is computed. The weights of a stage are those of the
    next, so heads are there in all of them.

    Args:
        lmm: Config of the adapter, or the adapter.
        heads: Fields of ``ObjectHeads`` but ``widths`` and ``input_size``.
        words: The words that image tokens shall mean, see ``token_words``.
        loss_weights: Weight of each loss that is trained: ``loss_cells`` and ``loss_objects`` of the heads, means over
            cells and over objects; ``loss_words``, a mean over objects; ``loss_text``, the sum over the answers of an
            image, a mean over images.
        input_hw: Height and width of the images.
        data_preprocessor: MMEngine's; moves a batch to the device when left out.

    Raises:
        ConfigError: There is no such loss, or the LMM does not take ``input_hw``.
    """

    def __init__(
        self,
        lmm: dict | nn.Module,
        *,
        heads: Mapping[str, Any],
        words: Words | None = None,
        loss_weights: Mapping[str, float],
        input_hw: Sequence[int],
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        unknown = sorted(set(loss_weights) - set(LOSSES))
        if unknown or not loss_weights:
            raise ConfigError(f"loss_weights name some of {LOSSES}, got {sorted(loss_weights)}")
        self.lmm = MODELS.build(lmm) if isinstance(lmm, dict) else lmm
        self.input_hw = (int(input_hw[0]), int(input_hw[1]))
        self.lmm.input_spec.check(self.input_hw)
        self.heads = ObjectHeads(widths=FeatureWidths.of(self.lmm), input_size=max(self.input_hw), **heads)
        self.words = token_words(self.lmm.encoder, words or {}, self.lmm.readout.box_bins)
        self.word_reader = WordReader()
        self.loss_weights = dict(loss_weights)
        self.num_tokens: int | None = None
        """Image tokens that the LLM gets while it learns, those of all objects among them; None for all."""

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint must agree with; see ``HFAdapter.describe``."""
        return self.lmm.describe()

    @property
    def inputs(self) -> ModelInputs:
        """What pipelines of its data take from it where they do not say: the size of the images."""
        return ModelInputs(self.input_hw)

    def forward(
        self, inputs: Sequence[Tensor] | Tensor, data_samples: Sequence[PerceptionSample], mode: str = "loss"
    ) -> dict[str, Tensor] | list[PerceptionSample]:
        """MMEngine's entry point.

        Args:
            inputs: One uint8 RGB image (3, height, width) per sample.
            data_samples: The samples, with ``objects`` and, where ``loss_cells`` is trained, ``cells``.
            mode: ``loss`` gives the weighted losses, ``predict`` the samples with ``pred_instances``.
        """
        encoded = self.lmm.encode_images(inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs)))
        if mode == "loss":
            return self.loss(encoded, data_samples)
        if mode == "predict":
            return self.predict(encoded, data_samples)
        raise ValueError(f"mode must be 'loss' or 'predict', got {mode!r}")

    def maps(self, encoded: EncodedImages) -> TowerMaps:
        """Return what the tower made of the images."""
        grid = self.lmm.features.grid(encoded, None, ())
        return TowerMaps(grid, self.lmm.family.laterals(encoded.states)[-1], encoded.input_hw[0] // grid.shape[2])

    def loss(self, encoded: EncodedImages, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Return the weighted losses of the stage."""
        objects = objects_of(samples)
        losses: dict[str, Tensor] = {}
        if set(object_heads.LOSSES) & set(self.loss_weights):
            losses |= self.heads.loss(self.maps(encoded), objects, self.loss_weights)
        if "loss_words" in self.loss_weights:
            rows = self.lmm.base_model.get_input_embeddings().weight[self.words.ids]
            logits = self.word_reader(torch.stack(list(encoded.states.pooler_output)), rows)
            losses["loss_words"] = word_loss(
                logits, self.words, objects, token_hw=encoded.token_hw, input_hw=self.input_hw
            )
        if "loss_text" in self.loss_weights:
            features = self.lmm.ask(
                self._shown(encoded, objects), [sample.prompts for sample in samples], extras=frozenset({"texts"})
            )
            losses["loss_text"] = features.text_losses["loss_text"] / len(samples)
        return {name: losses[name] * weight for name, weight in self.loss_weights.items()}

    def predict(self, encoded: EncodedImages, samples: Sequence[PerceptionSample]) -> list[PerceptionSample]:
        """Add to samples what the heads read at their ``objects``, as ``pred_instances``.

        A row for each object: ``bboxes`` in input pixels, and each attribute.
        """
        objects = objects_of(samples)
        found = self.heads.at_objects(self.maps(encoded), objects)
        found = {name: value if name == "bboxes" else value.argmax(1) for name, value in found.items()}
        for number, sample in enumerate(samples):
            chosen = objects.image == number
            sample.pred_instances = InstanceData(**{name: value[chosen] for name, value in found.items()})
        return list(samples)

    def _shown(self, encoded: EncodedImages, objects: Objects) -> EncodedImages:
        if self.num_tokens is None:
            return encoded
        rows, columns = encoded.token_hw
        place = objects.tokens((rows, columns), self.input_hw[0] // rows)
        shown = choose_tokens(objects.image, place, (len(encoded.images), rows * columns), self.num_tokens)
        return show_tokens(encoded, shown, self.lmm.image_text((1, self.num_tokens)))


def choose_tokens(
    image: Int[Tensor, " objects"], place: Int[Tensor, " objects"], size: tuple[int, int], number: int
) -> Int[Tensor, "images number"]:
    """Return the numbers of some tokens of each image, ascending: those of its objects, and others at random.

    Args:
        image: Image of each object.
        place: Number of its token.
        size: Images, and tokens of an image.
        number: Tokens to choose of each image; of more objects than that, some are left out.

    Raises:
        ConfigError: An image has fewer tokens.
    """
    if not 1 <= number <= size[1]:
        raise ConfigError(f"from 1 to {size[1]} tokens of an image can be shown, got {number}")
    rank = torch.rand(size, device=place.device)
    rank[image, place] += 1
    return rank.topk(number, 1).indices.sort(1).values
