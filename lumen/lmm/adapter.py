"""One adapter over Hugging Face image-text-to-text models: images and prompts in, ``LocFeatures`` out."""

import itertools
import logging
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError
from lumen.lmm.families import InputSpec, family_of
from lumen.lmm.features import FeatureSource
from lumen.lmm.generation import AnswerGenerator, AnswerReport, Shown
from lumen.lmm.loading import (
    add_lora,
    load_base,
    merge_lora,
    read_config,
    recompute,
    recompute_frozen,
    transformer_layers,
    widened,
)
from lumen.lmm.nano import vision as _registers_the_nano_tower  # noqa: F401
from lumen.lmm.options import check_answers, check_choices, check_layers, wording
from lumen.lmm.packing.prefix_attention import SPLIT
from lumen.lmm.packing.reader import LAST, PassOptions, PrefixCache, RowChunk, RowRunner, add_up
from lumen.lmm.packing.rows import PackedRows, Suffix, pack_rows
from lumen.lmm.packing.selfcheck import fits_window, packing_works, split_works
from lumen.lmm.text_losses import answer_loss, name_scores, names_of, phrase_reconstruction_loss, span_mean, token_grid
from lumen.lmm.tokens.phrases import PromptEncoder, count_answer_tokens, load_statistics, load_tokenizer
from lumen.lmm.tokens.questions import TextEncoder
from lumen.lmm.tokens.special import add_tokens
from lumen.lmm.usage import Usage
from lumen.paths import find_path
from lumen.prompts import KNOWN_TASKS, TaskWording, Wordings, template_named
from lumen.registry import MODELS
from lumen.structures import LocFeatures, Prompt

_LOGGER = logging.getLogger(__name__)


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
        query_layer: Layer of the LLM whose state is the query, as an index into ``hidden_states``; -1 is the last.
        features: Where ``LocFeatures.grid`` comes from: ``vision``, the vision tower; ``llm``, the LLM's states at the
            image tokens; ``both``, one after the other, on the grid of the tower.
        feature_layer: Layer of the LLM whose states at the image tokens are taken, as ``query_layer``.
        dense_hw: Height and width of the images when the grid comes from a second pass of the vision tower at this
            size; the LMM then gets them shrunk to its own.
        add_phrase_state: Add the mean state of the phrase's tokens to the ``[LOC]`` state. Departs from the paper;
            a model trained from nothing needs it to learn quickly.
        phrase_reconstruction: Train the ``[LOC]`` state to predict the tokens of its phrase,
            as ``loss_phrase_reconstruction``.
        name_tokens: Train the image tokens to name what they show, as ``loss_name``, by phrases of at most so many
            tokens; 0 trains none. For models from nothing: a tower that was trained on image and text knows words.
        attention: transformers' attention implementation, such as ``eager`` or ``sdpa``; its choice when left out.
        packing: ``packed`` or ``separate``. ``packed`` falls back to ``separate``, and says so, where the self-check
            fails.
        max_suffix_tokens: Bound on the suffix tokens of one row; more prompts than fit take more rows.
        max_pass_tokens: Bound on the tokens of one LLM call when no gradient is needed.
        answer_mode: How location prompts are answered when predicting: ``forced``, the template's answer is put in the
            LMM's mouth, or ``generated``, it writes the answer, and what it wrote is counted in ``answer_report``.
        max_new_tokens: Bound on the tokens of a free answer.
        base_dtype: ``float32``, ``bfloat16`` or ``float16``: what the base model's weights are really kept in; as they
            were saved when left out. What the adapter gives is float32 all the same, except under autocast.
        quantization: Fields of ``BitsAndBytesConfig``, such as ``load_in_4bit``; the base is frozen then.
        device_map: As accelerate takes it; spreads the base over devices, for inference only.
        gradient_checkpointing: Compute layers again in the backward pass instead of keeping their activations.
        new_tokens: ``resize`` gives the LMM's own tables rows for ``[LOC]`` and the routing tokens; ``learn`` keeps
            their rows beside a base that stays as it is, as ``new_tokens.rows``. They start alike at every build.
        lora: ``r``, ``alpha``, ``dropout`` and ``targets`` of low-rank adapters on the LLM, whose own weights are
            frozen; needs peft.

    Raises:
        ConfigError: If the family is unknown, an option has no such value, or a library for it is missing.
        CheckpointError: If there is no model of that name.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        template: str = "compact",
        tasks: Sequence[TaskWording | Mapping[str, str | bool]] = (),
        position: str = "loc",
        query_layer: int = LAST,
        features: str = "vision",
        feature_layer: int = LAST,
        dense_hw: Sequence[int] | None = None,
        add_phrase_state: bool = False,
        phrase_reconstruction: bool = False,
        name_tokens: int = 0,
        attention: str | None = None,
        packing: str = "packed",
        max_suffix_tokens: int = 2048,
        max_pass_tokens: int = 16384,
        answer_mode: str = "forced",
        max_new_tokens: int = 64,
        base_dtype: str | None = None,
        quantization: Mapping[str, Any] | None = None,
        device_map: str | Mapping[str, str | int] | None = None,
        gradient_checkpointing: bool = False,
        new_tokens: str = "resize",
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_choices(
            position=position, packing=packing, features=features, answer_mode=answer_mode, new_tokens=new_tokens
        )
        check_answers(template_named(template), answer_mode)
        path = find_path(name_or_path)
        config = read_config(path, attention)
        self.name_or_path = name_or_path
        self.family = family_of(config)
        self.layers = (LAST, query_layer, feature_layer)
        check_layers(self.layers, config.text_config.num_hidden_layers)
        dense_hw = None if dense_hw is None else (int(dense_hw[0]), int(dense_hw[1]))
        self.features = FeatureSource(self.family, config, features, dense_hw)
        if packing == "packed" and not packing_works(config):
            _LOGGER.warning("%s cannot pack prompts: each prompt gets a pass of its own", name_or_path)
            packing = "separate"
        self.base_model: PreTrainedModel = load_base(
            path, attention=attention, dtype=base_dtype, quantization=quantization, device_map=device_map
        )
        self.splits = packing == "packed" and self._can_split()
        if self.splits:
            self.base_model.set_attn_implementation({"text_config": SPLIT})
        self.statistics = load_statistics(path)
        tokenizer = load_tokenizer(path, chat_template=self.family.chat_template)
        self.image_token: str = tokenizer.convert_ids_to_tokens(config.image_token_id)
        num_known = len(tokenizer)
        self.encoder = PromptEncoder(
            tokenizer,
            template=template_named(template),
            wordings=Wordings((*KNOWN_TASKS, *(wording(task) for task in tasks))),
            placeholder=self.family.placeholder or self.image_token,
        )
        self.text = TextEncoder(self.encoder)
        self.new_tokens = add_tokens(self.base_model, self.encoder, num_known, new_tokens)
        self.lora = dict(lora) if lora else None
        if self.lora:
            add_lora(self.base_model.get_decoder(), self.lora)
        self.is_narrow = base_dtype is not None or quantization is not None
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            recompute(self.base_model)
        self.position = position
        self.add_phrase_state = add_phrase_state
        self.phrase_reconstruction = phrase_reconstruction
        self.name_tokens = name_tokens
        self.packing = packing
        self.max_suffix_tokens = max_suffix_tokens
        self.max_pass_tokens = max_pass_tokens
        self.answer_mode = answer_mode
        self.max_new_tokens = max_new_tokens
        self.usage = Usage()
        self.writer = AnswerGenerator(self.family, self.encoder, self.text, self.usage, max_pass_tokens=max_pass_tokens)

    @property
    def config(self) -> PretrainedConfig:
        """The LMM's config."""
        return self.base_model.config

    @property
    def input_spec(self) -> InputSpec:
        """Which image sizes it takes; the data pipeline reads this."""
        return self.features.input_spec

    @property
    def dim(self) -> int:
        """Width of ``LocFeatures.query``."""
        return self.config.text_config.hidden_size

    @property
    def vision_dim(self) -> int:
        """Channels of ``LocFeatures.grid``."""
        return self.features.dim

    @property
    def lateral_channels(self) -> tuple[int, ...]:
        """Channels of each map in ``LocFeatures.laterals``, finest first."""
        return self.family.lateral_channels(self.config)

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint must agree with: base model, template, position of the query, special tokens."""
        _, query_layer, feature_layer = self.layers
        kind, dense_hw = self.features.kind, self.features.dense_hw
        return {
            "base_model": f"{self.config.model_type}/{self.config.vision_config.model_type}",
            "template": self.encoder.template.name,
            "position": self.position if query_layer == LAST else f"{self.position}@{query_layer}",
            **({} if kind == "vision" else {"features": f"{kind}@{feature_layer}"}),
            **({"dense_hw": f"{dense_hw}"} if dense_hw else {}),
            **({"new_tokens": "learn"} if self.new_tokens else {}),
            **({"lora": " ".join(f"{key}={value}" for key, value in self.lora.items())} if self.lora else {}),
            "special_tokens": " ".join(self.encoder.wordings.special_tokens),
        }

    def transformer_layers(self) -> list[nn.Module]:
        """Return the transformer layers of the LLM and the vision tower; sharding keeps each in one piece."""
        return transformer_layers(self.base_model)

    def merge_lora(self) -> PreTrainedModel:
        """Add what LoRA has learned to the base's own weights, for good, and return the base, ready to be saved.

        Save the tokenizer (``encoder.tokenizer``) and ``preprocessor_config.json`` beside it.

        Raises:
            ConfigError: If there is no LoRA.
        """
        if not self.lora:
            raise ConfigError("there is no LoRA to merge: build the adapter with lora=dict(r=8, ...) and load it")
        merge_lora(self.base_model.get_decoder())
        self.lora = None
        return self.base_model

    @property
    def protocol(self) -> dict[str, str]:
        """How it is asked when predicting; belongs to a figure, not to a checkpoint."""
        return {"template": self.encoder.template.name, "answer_mode": self.answer_mode, "packing": self.packing}

    @property
    def answer_report(self) -> AnswerReport:
        """How the LMM answered location prompts in its own words."""
        return self.writer.report

    def wording_of(self, task: str) -> TaskWording:
        """Return how a task is asked for and answered."""
        return self.encoder.wordings[task]

    def add_task(self, wording: TaskWording) -> None:
        """Let a further task be asked for, in words that the model knows already.

        Raises:
            PromptError: See ``Wordings.with_task``.
        """
        self.encoder.wordings = self.encoder.wordings.with_task(wording)

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
        size_hw = tuple(images.shape[-2:])
        self.features.check_size(size_hw)
        self.usage.images += len(images)
        if not self.features.dense_hw:
            return self.family.encode(self.base_model.model, self._pixels(images))
        small = functional.interpolate(images.float(), self.features.lmm_hw(size_hw), mode="bilinear", antialias=True)
        encoded = self.family.encode(self.base_model.model, self._pixels(small.round().to(torch.uint8)))
        dense = self.family.encode_dense(self.base_model.model, self._pixels(images))
        encoded.hidden_states, encoded.last_hidden_state = dense.hidden_states, dense.last_hidden_state
        return encoded

    def prefix(self, input_hw: Sequence[int]) -> list[int]:
        """Return the token ids before the phrase for images of this size."""
        return self.encoder.prefix(
            self.family.image_text(self.config, self.image_token, self.features.token_hw(input_hw))
        )

    def ask(
        self,
        encoded: BaseModelOutputWithPooling,
        input_hw: Sequence[int],
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
        memory: PrefixCache | None = None,
    ) -> LocFeatures:
        """Ask encoded images; see ``forward``.

        Args:
            encoded: What ``encode_images`` gave.
            input_hw: Height and width of the images.
            prompts: See ``forward``.
            extras: See ``forward``.
            predicting: See ``forward``.
            memory: Where the prefix's keys and values lie for the questions to come about the same images; filled by
                the first question. Without gradients, and where packed prompts split; nothing otherwise.
        """
        image_text, token_hw = self._image_text(input_hw), self.features.token_hw(input_hw)
        located, suffixes = self._locate(Shown(encoded, image_text, token_hw), prompts, predicting)
        flat = list(itertools.chain.from_iterable(suffixes))
        every_image = self.features.kind != "vision"
        pairs = self._pack(self.encoder.prefix(image_text), suffixes, token_hw, every_image=every_image)
        questions = [] if predicting else self.text.suffixes(prompts)
        free = self._pack(self.text.prefix(image_text), questions, token_hw)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            recompute_frozen(self.base_model)
        losses, fallback_states, head = [], None, self.base_model.get_output_embeddings()
        if len(free[0].row_image):
            for part in self._runner.read(*free, encoded):
                losses.append({"loss_text": answer_loss(head, part.rows, part.states[0])})
                fallback_states = part.states
        queries, numbers, prefixes = [], [], []
        for part in self._runner.read(*pairs, encoded, memory=memory, fallback_states=fallback_states):
            query, own = self._read_pairs(part, [flat[pair] for pair in part.pairs.tolist()], predicting)
            queries.append(query)
            numbers.append(part.pairs)
            prefixes.append(part.prefix_states)
            losses.append(own)
            fallback_states = part.states
        if not predicting and "texts" in extras and not len(free[0].row_image):
            losses.append({"loss_text": answer_loss(head, free[0], fallback_states[0][:0])})
        sizes = torch.tensor([len(own) for own in located], dtype=torch.long)
        prompt_index = torch.tensor([number for own in located for number, _ in own], dtype=torch.long)
        texts = {}
        if predicting and "texts" in extras:
            shown = Shown(encoded, image_text, token_hw)
            texts["texts"] = self.writer.answer_texts(self.base_model, shown, prompts, self.max_new_tokens)
        image_states = torch.cat([one for one in prefixes if one is not None]) if every_image else None
        grid = self.features.grid(encoded, image_states, pairs[1].prefix, input_hw)
        query = torch.cat(queries)
        device = query.device
        image_index = torch.arange(len(prompts)).repeat_interleave(sizes).to(device)
        names = None
        if not predicting and self.name_tokens and torch.is_grad_enabled():
            tokens, phrases = token_grid(encoded.pooler_output, token_hw), names_of(flat, self.name_tokens)
            names = name_scores(head, tokens, phrases, image_index, self.encoder.tokenizer.eos_token_id)
        return LocFeatures(
            query=self._widen(query[torch.cat(numbers).argsort().to(device)]),
            grid=self._widen(grid),
            laterals=tuple(map(self._widen, self.family.laterals(encoded))),
            stride=input_hw[0] // grid.shape[2],
            image_index=image_index,
            prompt_index=prompt_index.to(device),
            text_losses=add_up(losses),
            extras=texts,
            names=names,
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
        shown = Shown(encoded, self._image_text(input_hw), self.features.token_hw(input_hw))
        return self.writer.answer(self.base_model, shown, questions, room)

    def _widen(self, states: Tensor) -> Tensor:
        return widened(states) if self.is_narrow else states

    def _image_text(self, input_hw: Sequence[int]) -> str:
        return self.family.image_text(self.config, self.image_token, self.features.token_hw(input_hw))

    def _pixels(self, images: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 height width"]:
        return self.statistics.normalise(images).to(self.base_model.dtype)

    def _location_prompts(self, prompts: Sequence[Sequence[Prompt]]) -> list[list[tuple[int, Prompt]]]:
        """Return the location prompts of each image with their numbers."""
        return [[(at, own[at]) for at in range(len(own)) if not self.text.is_text(own[at])] for own in prompts]

    def _suffixes(self, located: Sequence[Sequence[tuple[int, Prompt]]]) -> list[list[Suffix]]:
        return [[self.encoder.suffix(prompt.text, prompt.task) for _, prompt in own] for own in located]

    def _locate(
        self,
        shown: Shown,
        prompts: Sequence[Sequence[Prompt]],
        predicting: bool,
    ) -> tuple[list[list[tuple[int, Prompt]]], list[list[Suffix]]]:
        """Return the location prompts that become pairs, with their suffixes: forced, or as the LMM writes them."""
        located = self._location_prompts(prompts)
        suffixes = self._suffixes(located)
        if not predicting or self.answer_mode == "forced":
            return located, suffixes
        asked = [[prompt for _, prompt in own] for own in located]
        written = self.writer.locate(self.base_model, shown, asked, suffixes)
        kept = [[at for at, suffix in enumerate(own) if suffix is not None] for own in written]
        return (
            [[own[at] for at in chosen] for own, chosen in zip(located, kept, strict=True)],
            [[own[at] for at in chosen] for own, chosen in zip(written, kept, strict=True)],
        )

    def _pack(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[Suffix]],
        token_hw: tuple[int, int],
        *,
        every_image: bool = False,
    ) -> tuple[PackedRows, PassOptions]:
        longest = max((len(suffix.ids) for own in suffixes for suffix in own), default=0)
        self._fall_back_unless_it_fits(len(prefix) + longest)
        options = PassOptions(
            prefix,
            token_hw,
            packed=self.packing == "packed",
            splits=self.splits,
            layers=self.layers,
            wants_prefix=every_image,
        )
        rows = pack_rows(
            prefix,
            suffixes,
            max_suffix_tokens=self.max_suffix_tokens if options.packed else 0,
            context=self.config.text_config.max_position_embeddings,
            pad_id=self.encoder.tokenizer.pad_token_id or 0,
            every_image=every_image,
        )
        return rows, options

    @property
    def _runner(self) -> RowRunner:
        return RowRunner(self.base_model, self.family, self.usage, self.max_pass_tokens)

    def _can_split(self) -> bool:
        return self.family.splits and self.config._attn_implementation == "sdpa" and split_works(self.config)

    def _read_pairs(
        self, part: RowChunk, suffixes: Sequence[Suffix], predicting: bool
    ) -> tuple[Float[Tensor, "pairs dim"], dict[str, Tensor]]:
        """Return the queries of the pairs of a part, and its losses."""
        states, query_states, _ = part.states
        device = states.device
        starts, row = part.rows.pair_start.to(device), part.rows.pair_row.to(device)
        at_loc = starts + torch.tensor([suffix.loc for suffix in suffixes], dtype=torch.long, device=device)
        query = query_states[row, at_loc - int(self.position == "before_loc")]
        spans = torch.tensor([suffix.phrase for suffix in suffixes], dtype=torch.long, device=device).view(-1, 2)
        losses, head = {}, self.base_model.get_output_embeddings()
        if not predicting and self.encoder.template.has_answer:
            losses["loss_answer"] = answer_loss(head, part.rows, states)
        if not predicting and self.phrase_reconstruction and torch.is_grad_enabled():
            losses["loss_phrase_reconstruction"] = phrase_reconstruction_loss(
                head, part.rows, query, starts[:, None] + spans
            )
        if self.add_phrase_state:
            query = query + span_mean(query_states, row, starts[:, None] + spans)
        return query, losses

    def _fall_back_unless_it_fits(self, length: int) -> None:
        if self.packing == "packed" and not fits_window(self.config, length):
            window = self.config.text_config.sliding_window
            _LOGGER.warning(
                "%s cannot pack prompts: %d tokens do not fit its sliding window of %d; from now on each prompt gets "
                "a pass of its own",
                *(self.name_or_path, length, window),
            )
            self.packing = "separate"
