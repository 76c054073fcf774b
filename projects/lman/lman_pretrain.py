"""The first stage: the queries of a connector learn what captions say of an image, before any LLM reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from lman_captions import CaptionSide, caption_mask, pad_captions, run_jointly
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from lumen.data.pipelines import ModelInputs
from lumen.errors import ConfigError, DataError
from lumen.lmm.connectors import QueryConnector
from lumen.lmm.connectors.replace import read_levels
from lumen.registry import MODELS
from lumen.structures import PerceptionSample

LOSSES = ("loss_itc", "loss_itm", "loss_itg")


@dataclass(frozen=True, slots=True)
class Captions:
    """The captions of a batch.

    Args:
        ids: Token ids, 0 as padding.
        is_token: Which of them are no padding.
        is_same: Which captions are equal, word for word.
    """

    ids: Int[Tensor, "texts tokens"]
    is_token: Bool[Tensor, "texts tokens"]
    is_same: Bool[Tensor, "texts texts"]

    @property
    def with_start(self) -> Bool[Tensor, "texts one_more_token"]:
        """``is_token`` with the start in front."""
        return functional.pad(self.is_token, (1, 0), value=True)


@MODELS.register_module()
class QueryPretrainer(BaseModel):
    """Trains the ``QueryConnector`` of an adapter on captions, without the LLM; its tower too, unless it is frozen.

    Three losses, each computed where ``loss_weights`` names it: contrast of images and captions (``loss_itc``), whether
    an image and a caption belong together (``loss_itm``, against the hardest of the batch), and writing the caption
    (``loss_itg``). Captions that are equal word for word belong to each other's images. The contrast is over the images
    of one process.

    The adapter has the same name as in ``Lumen``, so a checkpoint of this stage loads into the next without mapping;
    everything else is under ``heads``.

    Args:
        lmm: Config of the adapter, or the adapter; its connector is a ``QueryConnector``.
        loss_weights: Weight of each loss that is trained.
        input_hw: Height and width of the images.
        max_tokens: Tokens of a caption that are read.
        dim: Width of the space in which images and captions are compared.
        data_preprocessor: MMEngine's; moves a batch to the device when left out.

    Raises:
        ConfigError: There is no such loss, the connector is another, or the LMM does not take ``input_hw``.

    Source:
        Li et al., "BLIP-2" (2023), section 3.2.
    """

    def __init__(
        self,
        lmm: dict | nn.Module,
        *,
        loss_weights: Mapping[str, float],
        input_hw: Sequence[int],
        max_tokens: int = 64,
        dim: int = 64,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if not loss_weights or not set(loss_weights) <= set(LOSSES):
            raise ConfigError(f"loss_weights name some of {LOSSES}, got {sorted(loss_weights)}")
        self.lmm = MODELS.build(lmm) if isinstance(lmm, dict) else lmm
        self.input_hw = (int(input_hw[0]), int(input_hw[1]))
        self.lmm.input_spec.check(self.input_hw)
        if not isinstance(self.connector, QueryConnector):
            raise ConfigError(
                f"QueryPretrainer trains a QueryConnector, got {type(self.connector).__name__}: set "
                "lmm.base.connector=dict(type=QueryConnector, ...)"
            )
        vocabulary = self.lmm.base_model.get_input_embeddings().num_embeddings
        self.heads = CaptionSide(self.connector, vocabulary=vocabulary, max_tokens=max_tokens, dim=dim)
        self.loss_weights = dict(loss_weights)

    @property
    def connector(self) -> nn.Module:
        """The connector of the adapter."""
        return self.lmm.base_model.base_model.multi_modal_projector

    @property
    def inputs(self) -> ModelInputs:
        """What pipelines of its data take from it where they do not say: the size of the images."""
        return ModelInputs(self.input_hw)

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint must agree with; see ``HFAdapter.describe``."""
        return self.lmm.describe()

    def forward(
        self, inputs: Sequence[Tensor] | Tensor, data_samples: Sequence[PerceptionSample], mode: str = "loss"
    ) -> dict[str, Tensor] | list[PerceptionSample]:
        """MMEngine's entry point.

        Args:
            inputs: One uint8 RGB image (3, height, width) per sample.
            data_samples: The samples; the answer of the first prompt is the caption.
            mode: ``loss`` gives the weighted losses, ``predict`` the samples with ``pred_instances``.
        """
        cells = self.cells(inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs)))
        captions = self.read_captions(data_samples)
        if mode == "loss":
            return self.loss(cells, captions)
        if mode == "predict":
            return self.predict(cells, captions, data_samples)
        raise ValueError(f"mode must be 'loss' or 'predict', got {mode!r}")

    def cells(self, images: Tensor) -> Float[Tensor, "images cells width"]:
        """Return what the queries read of images."""
        model, stride = self.lmm.base_model.base_model, self.lmm.family.vision_stride(self.lmm.config)
        learns = any(parameter.requires_grad for parameter in model.vision_tower.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            encoded = self.lmm.encode_images(images)
        grid_hw = (encoded.input_hw[0] // stride, encoded.input_hw[1] // stride)
        return self.connector.cells(read_levels(model, encoded.states, grid_hw), grid_hw)

    def read_captions(self, samples: Sequence[PerceptionSample]) -> Captions:
        """Return the captions of samples as tokens, each with the end token of the LMM behind it.

        Raises:
            DataError: A sample has no caption.
        """
        texts = [sample.prompts[0].answer.strip() if sample.prompts else "" for sample in samples]
        if not all(texts):
            nameless = [sample.get("img_id") for sample, text in zip(samples, texts, strict=True) if not text]
            raise DataError(
                f"the images {nameless} have no caption: read a captions file with AskQuestions(task='caption')"
            )
        encoder = self.lmm.encoder
        limit = self.heads.max_tokens - 1
        ids, is_token = pad_captions(
            [[*encoder.ids(text)[:limit], encoder.end_id] for text in texts], max_tokens=self.heads.max_tokens
        )
        number = torch.tensor([texts.index(text) for text in texts])
        device = self.heads.starts.device
        return Captions(ids.to(device), is_token.to(device), (number[:, None] == number).to(device))

    def loss(self, cells: Float[Tensor, "images cells width"], captions: Captions) -> dict[str, Tensor]:
        """Return the weighted losses, means over the batch."""
        losses: dict[str, Tensor] = {}
        if {"loss_itc", "loss_itm"} & set(self.loss_weights):
            similarity = self.similarity(cells, captions)
            if "loss_itc" in self.loss_weights:
                losses["loss_itc"] = contrast(similarity * self.heads.log_scale.exp(), captions.is_same)
            if "loss_itm" in self.loss_weights:
                losses["loss_itm"] = self._matching(cells, captions, similarity.detach())
        if "loss_itg" in self.loss_weights:
            losses["loss_itg"] = self._writing(cells, captions)
        return {name: losses[name] * weight for name, weight in self.loss_weights.items()}

    def predict(
        self, cells: Float[Tensor, "images cells width"], captions: Captions, samples: Sequence[PerceptionSample]
    ) -> list[PerceptionSample]:
        """Add to samples a row with the ``image_vectors`` (queries, dim) and the ``text_vectors`` (dim)."""
        images, texts = self._vectors(cells, captions)
        for sample, image, text in zip(samples, images, texts, strict=True):
            sample.pred_instances = InstanceData(image_vectors=image[None], text_vectors=text[None])
        return list(samples)

    def similarity(
        self, cells: Float[Tensor, "images cells width"], captions: Captions
    ) -> Float[Tensor, "images texts"]:
        """Return the cosine of each caption to the nearest query of each image."""
        images, texts = self._vectors(cells, captions)
        return torch.einsum("iqd,td->iqt", images, texts).amax(1)

    def _vectors(self, cells: Tensor, captions: Captions) -> tuple[Tensor, Tensor]:
        queries, _ = run_jointly(self.connector, self.heads, cells=cells, texts=None)
        embedded, sees = self.heads.embed(captions.ids), caption_mask(captions.with_start)
        _, texts = run_jointly(self.connector, self.heads, cells=None, texts=embedded, sees=sees)
        return self.heads.image_vectors(queries), self.heads.text_vectors(texts)

    def _matching(self, cells: Tensor, captions: Captions, similarity: Tensor) -> Tensor:
        """Return whether each image fits its caption, another caption, and its caption another image."""
        matched = torch.arange(len(cells), device=cells.device)
        image, text = hard_negatives(similarity, captions.is_same)
        pairs = torch.cat([torch.stack([matched, matched]), image, text], 1)
        fits = torch.arange(pairs.shape[1], device=cells.device) < len(matched)
        sees = caption_mask(captions.with_start, queries=len(self.connector.queries))
        embedded = self.heads.embed(captions.ids)
        queries, _ = run_jointly(
            self.connector, self.heads, cells=cells[pairs[0]], texts=embedded[pairs[1]], sees=sees[pairs[1]]
        )
        logits = self.heads.match(queries)[..., 0].float().mean(1)
        return functional.binary_cross_entropy_with_logits(logits, fits.float())

    def _writing(self, cells: Tensor, captions: Captions) -> Tensor:
        """Return the cross entropy of the tokens of the captions, the mean over all of them."""
        # The last token is not read: nothing follows it.
        sees = caption_mask(captions.with_start[:, :-1], queries=len(self.connector.queries), causal=True)
        embedded = self.heads.embed(captions.ids[:, :-1], writes=True)
        _, texts = run_jointly(self.connector, self.heads, cells=cells, texts=embedded, sees=sees)
        logits = self.heads.word_logits(texts)
        return functional.cross_entropy(logits[captions.is_token], captions.ids[captions.is_token])


def contrast(logits: Float[Tensor, "n n"], is_same: Bool[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Return the mean cross entropy of finding the caption of an image, and the image of a caption.

    Args:
        logits: Of each image (rows) and each caption (columns).
        is_same: Which captions are equal; of equal ones each is right, with an equal share.
    """
    wanted = is_same / is_same.sum(1, keepdim=True)
    both = [functional.cross_entropy(each, wanted) for each in (logits, logits.T)]
    return (both[0] + both[1]) / 2


def hard_negatives(
    similarity: Float[Tensor, "n n"], is_same: Bool[Tensor, "n n"]
) -> tuple[Int[Tensor, "2 m"], Int[Tensor, "2 k"]]:
    """Draw for each image a caption of another one, and for each caption another image, the nearer the more often.

    Returns:
        Image and caption of the pairs; none for an image or caption that has no other.
    """
    pairs = []
    for logits in (similarity, similarity.T):
        chance = (logits / 0.07).softmax(1).clamp(min=1e-6).masked_fill(is_same, 0)
        rows = (chance.sum(1) > 0).nonzero()[:, 0]
        drawn = torch.multinomial(chance[rows], 1)[:, 0] if len(rows) else rows
        pairs.append((rows, drawn))
    (image, text), (own_text, other_image) = pairs
    return torch.stack([image, text]), torch.stack([other_image, own_text])
