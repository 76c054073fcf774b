"""One adapter over Hugging Face image-text-to-text models: images and prompts in, ``LocFeatures`` out."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence, Set

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError
from lumen.lmm import nano_vision as _registers_the_nano_tower  # noqa: F401
from lumen.lmm.families import InputSpec, family_of
from lumen.lmm.packing import IGNORE, PackedRows, Suffix, additive_mask, block_mask, pack_rows, prefix_row
from lumen.lmm.processing import PromptEncoder, count_answer_tokens, load_statistics, load_tokenizer
from lumen.lmm.selfcheck import packing_works
from lumen.lmm.text import TextEncoder
from lumen.lmm.usage import Usage
from lumen.lmm.writing import AnswerReport, AnswerWriter
from lumen.paths import find_path
from lumen.prompts import KNOWN_TASKS, TaskWording, Wordings, template_named
from lumen.registry import MODELS
from lumen.structures import LocFeatures, Prompt

_LOGGER = logging.getLogger(__name__)
_POSITIONS = ("loc", "before_loc")


@MODELS.register_module()
class HFAdapter(nn.Module):
    """A Hugging Face LMM with ``[LOC]``, asked any number of phrases about an image in one pass.

    Args:
        name_or_path: Folder or model id, as ``from_pretrained`` takes it. A relative folder is looked up by
            ``lumen.paths.find_path``.
        template: ``compact`` or ``paper``.
        tasks: Wordings of further tasks, beside the known ones; in a config, dicts of the fields of ``TaskWording``.
        position: Which state is the query: ``loc``, the state at ``[LOC]``, or ``before_loc``, the state that
            predicts it. The paper does not say; the same one serves training and inference.
        add_phrase_state: Add the mean state of the phrase's tokens to the ``[LOC]`` state. Departs from the paper;
            a model trained from nothing needs it to learn quickly.
        recall: Train the ``[LOC]`` state to predict the tokens of its phrase, as ``loss_recall``.
        attention: transformers' attention implementation, such as ``eager`` or ``sdpa``; its choice when left out.
        packing: ``packed`` or ``separate``. ``packed`` falls back to ``separate``, and says so, where the self-check
            fails.
        max_suffix_tokens: Bound on the suffix tokens of one row; more prompts than fit take more rows.
        max_pass_tokens: Bound on the tokens of one LLM call when no gradient is needed.
        answer_mode: How location prompts are answered when predicting: ``forced``, the template's answer is put in the
            LMM's mouth, or ``generated``, it writes the answer, and what it wrote is counted in ``answer_report``.
        max_new_tokens: Bound on the tokens of a free answer.

    Raises:
        ConfigError: If the family is unknown or an option has no such value.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        template: str = "compact",
        tasks: Sequence[TaskWording | Mapping[str, str | bool]] = (),
        position: str = "loc",
        add_phrase_state: bool = False,
        recall: bool = False,
        attention: str | None = None,
        packing: str = "packed",
        max_suffix_tokens: int = 2048,
        max_pass_tokens: int = 65536,
        answer_mode: str = "forced",
        max_new_tokens: int = 64,
    ) -> None:
        super().__init__()
        if position not in _POSITIONS:
            raise ConfigError(f"position must be one of {_POSITIONS}, got {position!r}")
        if packing not in ("packed", "separate"):
            raise ConfigError(f"packing must be 'packed' or 'separate', got {packing!r}")
        if answer_mode not in ("forced", "generated"):
            raise ConfigError(f"answer_mode must be 'forced' or 'generated', got {answer_mode!r}")
        if answer_mode == "generated" and not template_named(template).has_answer:
            raise ConfigError(f"template {template!r} has no answer to generate: use 'paper', or answer_mode='forced'")
        path = find_path(name_or_path)
        config = AutoConfig.from_pretrained(path, attn_implementation=attention)
        self.name_or_path = name_or_path
        self.family = family_of(config)
        if packing == "packed" and not packing_works(config):
            _LOGGER.warning("%s cannot pack prompts: each prompt gets a pass of its own", name_or_path)
            packing = "separate"
        self.lmm: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(path, attn_implementation=attention)
        self.statistics = load_statistics(path)
        tokenizer = load_tokenizer(path)
        image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.encoder = PromptEncoder(
            tokenizer,
            template=template_named(template),
            wordings=Wordings((*KNOWN_TASKS, *(_wording(task) for task in tasks))),
            image_token=image_token,
        )
        self.text = TextEncoder(self.encoder)
        if len(tokenizer) > self.lmm.get_input_embeddings().num_embeddings:
            self.lmm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        self.position = position
        self.add_phrase_state = add_phrase_state
        self.recall = recall
        self.packing = packing
        self.max_suffix_tokens = max_suffix_tokens
        self.max_pass_tokens = max_pass_tokens
        self.answer_mode = answer_mode
        self.max_new_tokens = max_new_tokens
        self.usage = Usage()
        self.writer = AnswerWriter(self.encoder, self.text, self.usage, max_pass_tokens=max_pass_tokens)

    @property
    def config(self) -> PretrainedConfig:
        """The LMM's config."""
        return self.lmm.config

    @property
    def input_spec(self) -> InputSpec:
        """Which image sizes it takes; the data pipeline reads this."""
        return self.family.input_spec(self.config)

    @property
    def dim(self) -> int:
        """Width of ``LocFeatures.query``."""
        return self.config.text_config.hidden_size

    @property
    def vision_dim(self) -> int:
        """Channels of ``LocFeatures.grid``."""
        return self.family.vision_dim(self.config)

    @property
    def lateral_channels(self) -> tuple[int, ...]:
        """Channels of each map in ``LocFeatures.laterals``, finest first."""
        return self.family.lateral_channels(self.config)

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint must agree with: base model, template, position of the query, special tokens."""
        return {
            "base_model": f"{self.config.model_type}/{self.config.vision_config.model_type}",
            "template": self.encoder.template.name,
            "position": self.position,
            "special_tokens": " ".join(self.encoder.wordings.special_tokens),
        }

    @property
    def protocol(self) -> dict[str, str]:
        """How it is asked when predicting; belongs to a figure, not to a checkpoint."""
        return {"template": self.encoder.template.name, "answer_mode": self.answer_mode, "packing": self.packing}

    @property
    def answer_report(self) -> AnswerReport:
        """How the LMM answered location prompts in its own words."""
        return self.writer.report

    def is_text(self, task: str) -> bool:
        """Return whether a task is answered in words, so that its prompts give no pairs."""
        return self.encoder.wordings[task].is_text

    def count_answer_tokens(self, prompts: Sequence[Sequence[Prompt]]) -> int:
        """Return how many tokens of forced answers ``forward`` would sum ``loss_answer`` over."""
        suffixes = self._suffixes(self._location_prompts(prompts))
        return count_answer_tokens(list(itertools.chain.from_iterable(suffixes)))

    def count_text_tokens(self, prompts: Sequence[Sequence[Prompt]]) -> int:
        """Return how many tokens of free answers ``forward`` would sum ``loss_text`` over."""
        return count_answer_tokens(list(itertools.chain.from_iterable(self.text.suffixes(prompts))))

    def forward(
        self,
        images: UInt8[Tensor, "images 3 height width"],
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
    ) -> LocFeatures:
        """Encode each image once and all its prompts with it.

        Location prompts give pairs; text prompts give a share of ``loss_text`` or, when predicting, an answer.

        Args:
            images: RGB at input size.
            prompts: The prompts of each image; any number, none included.
            extras: What the decoders need beside pairs. ``texts``: the answers of text prompts, a list per image with
                None at each location prompt; while learning, ``loss_text`` even of a batch without text prompts.
            predicting: Answer instead of learning: texts are generated, there are no losses, ``answer_mode`` counts.

        Raises:
            ConfigError: If the LMM does not take images of this size.
            PromptError: If a prompt is empty, too long, or of an unknown task, or has no answer to learn.
        """
        encoded = self.encode_images(images)
        return self.ask(encoded, images.shape[-2:], prompts, extras=extras, predicting=predicting)

    def encode_images(self, images: UInt8[Tensor, "images 3 height width"]) -> BaseModelOutputWithPooling:
        """Run the vision tower and the connector; the result can be asked many times.

        Raises:
            ConfigError: If the LMM does not take images of this size.
        """
        size_hw, spec = tuple(images.shape[-2:]), self.input_spec
        wrong = size_hw != spec.fixed_hw if spec.fixed_hw else any(side % spec.multiple for side in size_hw)
        if wrong:
            wanted = f"{spec.fixed_hw}" if spec.fixed_hw else f"multiples of {spec.multiple}"
            raise ConfigError(f"this LMM takes images of {wanted} pixels, got {size_hw}: set the pipeline's input_hw")
        self.usage.images += len(images)
        return self.lmm.model.get_image_features(self.statistics.normalise(images).to(self.lmm.dtype))

    def ask(
        self,
        encoded: BaseModelOutputWithPooling,
        input_hw: Sequence[int],
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
    ) -> LocFeatures:
        """Ask encoded images; see ``forward``."""
        grid_hw = self._grid_hw(input_hw)
        located, suffixes = self._locate(encoded, math.prod(grid_hw), prompts, predicting)
        flat = list(itertools.chain.from_iterable(suffixes))
        prefix = self.encoder.prefix(math.prod(grid_hw))
        rows = self._pack(prefix, suffixes)
        questions = [] if predicting else self.text.suffixes(prompts)
        free_rows = self._pack(self.text.prefix(math.prod(grid_hw)), questions)
        states, free_states = self._all_states((rows, free_rows), prefix, encoded)
        device = self.lmm.device
        starts, row = rows.pair_start.to(device), rows.pair_row.to(device)
        at_loc = starts + torch.tensor([suffix.loc for suffix in flat], dtype=torch.long, device=device)
        query = states[row, at_loc - int(self.position == "before_loc")]
        spans = torch.tensor([suffix.phrase for suffix in flat], dtype=torch.long, device=device).view(-1, 2)
        losses = {} if predicting else self._text_losses(rows, states, query, starts, spans)
        if not predicting and ("texts" in extras or len(free_rows.row_image)):
            losses["loss_text"] = self._answer_loss(free_rows, free_states)
        if self.add_phrase_state:
            query = query + _span_mean(states, row, starts[:, None] + spans)
        sizes = torch.tensor([len(own) for own in located], dtype=torch.long)
        prompt_index = torch.tensor([number for own in located for number, _ in own], dtype=torch.long)
        texts = {}
        if predicting and "texts" in extras:
            count, room = math.prod(grid_hw), self.max_new_tokens
            texts["texts"] = self.writer.answer_texts(self.lmm, encoded, count, prompts, room)
        return LocFeatures(
            query=query,
            grid=self.family.grid(self.config, encoded, grid_hw),
            laterals=self.family.laterals(encoded),
            stride=self.input_spec.multiple,
            image_index=torch.arange(len(prompts)).repeat_interleave(sizes).to(device),
            prompt_index=prompt_index.to(device),
            text_losses=losses,
            extras=texts,
        )

    def generate(
        self,
        encoded: BaseModelOutputWithPooling,
        input_hw: Sequence[int],
        questions: Sequence[Sequence[Prompt]],
        max_new_tokens: int | None = None,
    ) -> list[list[str]]:
        """Answer questions about encoded images in words, greedily; each is a conversation of its own.

        Args:
            encoded: What ``encode_images`` gave.
            input_hw: Height and width of the images.
            questions: Text prompts of each image; ``Prompt.history`` holds earlier turns of a conversation.
            max_new_tokens: Bound on the tokens of an answer; the adapter's own when left out.

        Raises:
            PromptError: If a turn is empty, too long or holds special tokens.
        """
        room = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        return self.writer.answer(self.lmm, encoded, math.prod(self._grid_hw(input_hw)), questions, room)

    def _grid_hw(self, input_hw: Sequence[int]) -> tuple[int, int]:
        stride = self.input_spec.multiple
        return input_hw[0] // stride, input_hw[1] // stride

    def _location_prompts(self, prompts: Sequence[Sequence[Prompt]]) -> list[list[tuple[int, Prompt]]]:
        """Return the location prompts of each image with their numbers."""
        return [[(at, own[at]) for at in range(len(own)) if not self.text.is_text(own[at])] for own in prompts]

    def _suffixes(self, located: Sequence[Sequence[tuple[int, Prompt]]]) -> list[list[Suffix]]:
        return [[self.encoder.suffix(prompt.text, prompt.task) for _, prompt in own] for own in located]

    def _locate(
        self,
        encoded: BaseModelOutputWithPooling,
        num_image_tokens: int,
        prompts: Sequence[Sequence[Prompt]],
        predicting: bool,
    ) -> tuple[list[list[tuple[int, Prompt]]], list[list[Suffix]]]:
        """Return the location prompts that become pairs, with their suffixes: forced, or as the LMM writes them."""
        located = self._location_prompts(prompts)
        suffixes = self._suffixes(located)
        if not predicting or self.answer_mode == "forced":
            return located, suffixes
        asked = [[prompt for _, prompt in own] for own in located]
        written = self.writer.locate(self.lmm, encoded, num_image_tokens, asked, suffixes)
        kept = [[at for at, suffix in enumerate(own) if suffix is not None] for own in written]
        return (
            [[own[at] for at in chosen] for own, chosen in zip(located, kept, strict=True)],
            [[own[at] for at in chosen] for own, chosen in zip(written, kept, strict=True)],
        )

    def _pack(self, prefix: Sequence[int], suffixes: Sequence[Sequence[Suffix]]) -> PackedRows:
        return pack_rows(
            prefix,
            suffixes,
            max_suffix_tokens=self.max_suffix_tokens if self.packing == "packed" else 0,
            context=self.config.text_config.max_position_embeddings,
            pad_id=self.encoder.tokenizer.pad_token_id or 0,
        )

    def _all_states(
        self, kinds: Sequence[PackedRows], prefix: Sequence[int], encoded: BaseModelOutputWithPooling
    ) -> list[Float[Tensor, "rows length dim"]]:
        """Run the LLM over each kind of rows; one without rows borrows none of the other's, which connects it."""
        states = [self._states(rows, encoded) if len(rows.row_image) else None for rows in kinds]
        given = [own for own in states if own is not None]
        none = given[0][:0] if given else self._no_states(prefix, encoded)
        return [none if own is None else own for own in states]

    def _states(self, rows: PackedRows, encoded: BaseModelOutputWithPooling) -> Float[Tensor, "rows length dim"]:
        """Run the LLM over the rows: at once while training, in bounded pieces otherwise."""
        if torch.is_grad_enabled():
            return self._pass(rows, encoded, slice(None))
        step = max(1, self.max_pass_tokens // rows.input_ids.shape[1])
        pieces = [self._pass(rows, encoded, slice(at, at + step)) for at in range(0, len(rows.row_image), step)]
        return torch.cat(pieces)

    def _no_states(self, prefix: Sequence[int], encoded: BaseModelOutputWithPooling) -> Float[Tensor, "0 length dim"]:
        """Return no rows; while training, from a pass nobody reads, so that every parameter has a gradient of zero."""
        if not torch.is_grad_enabled():
            return torch.zeros(0, len(prefix), self.dim, dtype=self.lmm.dtype, device=self.lmm.device)
        return self._pass(prefix_row(prefix), encoded, slice(None))[:0]

    def _pass(self, rows: PackedRows, encoded: BaseModelOutputWithPooling, part: slice) -> Tensor:
        device = self.lmm.device
        features = encoded.pooler_output
        chosen = [features[image] for image in rows.row_image[part].tolist()]
        self.usage.passes += len(chosen)
        self.usage.tokens += int((rows.segments[part] >= 0).sum())
        mask = block_mask(rows.segments[part].to(device))
        if self.config._attn_implementation == "eager":
            mask = additive_mask(mask, self.lmm.dtype)
        return self.lmm.model(
            input_ids=rows.input_ids[part].to(device),
            attention_mask=mask,
            position_ids=rows.position_ids[part].to(device),
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=chosen)},
            use_cache=False,
        ).last_hidden_state

    def _text_losses(
        self,
        rows: PackedRows,
        states: Float[Tensor, "rows length dim"],
        query: Float[Tensor, "pairs dim"],
        starts: Int[Tensor, " pairs"],
        spans: Int[Tensor, "pairs 2"],
    ) -> dict[str, Tensor]:
        """Return sums: cross-entropy of the answers, and of the phrase's tokens given the ``[LOC]`` state."""
        losses = {}
        if self.encoder.template.has_answer:
            losses["loss_answer"] = self._answer_loss(rows, states)
        if self.recall and torch.is_grad_enabled():
            columns = starts[:, None] + spans
            at = torch.arange(rows.input_ids.shape[1], device=states.device)
            inside = (at >= columns[:, :1]) & (at < columns[:, 1:])
            share = inside / inside.sum(1, keepdim=True).clamp(min=1)
            tokens = rows.input_ids.to(states.device)[rows.pair_row.to(states.device)]
            picked = self.lmm.get_output_embeddings()(query).float().log_softmax(-1).gather(1, tokens)
            losses["loss_recall"] = -(picked * share).sum()
        return losses

    def _answer_loss(self, rows: PackedRows, states: Float[Tensor, "rows length dim"]) -> Float[Tensor, ""]:
        targets = rows.answer_targets.to(states.device)
        asked = (targets != IGNORE).nonzero(as_tuple=True)
        logits = self.lmm.get_output_embeddings()(states[asked]).float()
        return functional.cross_entropy(logits, targets[asked], reduction="sum")


def _wording(task: TaskWording | Mapping[str, str | bool]) -> TaskWording:
    return task if isinstance(task, TaskWording) else TaskWording(**task)


def _span_mean(
    states: Float[Tensor, "rows length dim"], row: Int[Tensor, " pairs"], columns: Int[Tensor, "pairs 2"]
) -> Float[Tensor, "pairs dim"]:
    """Mean state of the columns [start, end) of each pair's row, without copying a row per pair."""
    length = int((columns[:, 1] - columns[:, 0]).max()) if len(columns) else 0
    at = columns[:, :1] + torch.arange(length, device=states.device)
    inside = at < columns[:, 1:]
    picked = states[row[:, None], at.clamp(max=states.shape[1] - 1)] * inside[..., None]
    return picked.sum(1) / inside.sum(1, keepdim=True).clamp(min=1)
