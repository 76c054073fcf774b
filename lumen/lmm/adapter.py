"""One adapter over Hugging Face image-text-to-text models: images and prompts in, ``LocFeatures`` out."""

import itertools
from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from lumen.errors import ConfigError
from lumen.lmm import loading
from lumen.lmm.connectors.objects import proposal_losses, read_proposals
from lumen.lmm.connectors.replace import describe_connector, fit_connector
from lumen.lmm.conversation import Turn, write_turn
from lumen.lmm.encoded import EncodedImages, PrefixCache
from lumen.lmm.families import InputSpec, family_of
from lumen.lmm.features import FeatureSource
from lumen.lmm.generation import AnswerGenerator, AnswerReport
from lumen.lmm.lockstep import Lockstep
from lumen.lmm.nano import vision as _registers_the_nano_tower  # noqa: F401
from lumen.lmm.options import (
    BaseOptions,
    GenerationOptions,
    PackingOptions,
    ReadoutOptions,
    check_answers,
    check_layers,
    checked_words,
    read_groups,
    wordings_with,
)
from lumen.lmm.packing.passes import LayoutKey, Passes, PassMode, PrefixLayout, pack_pass
from lumen.lmm.packing.reader import RowRunner, add_up
from lumen.lmm.packing.rows import Suffix, longest_suffix
from lumen.lmm.packing.selfcheck import mode_that_fits, mode_that_works, packing_in, takes_masks, use_split
from lumen.lmm.readout import Pairs, Readout, forced_pairs
from lumen.lmm.repository import read_config
from lumen.lmm.text_losses import LOSSES, answer_loss, naming_loss
from lumen.lmm.tokens.boxes import box_neighbours
from lumen.lmm.tokens.phrases import count_answer_tokens, encoder_for, image_text_of
from lumen.lmm.tokens.questions import TextEncoder
from lumen.lmm.tokens.special import add_tokens
from lumen.lmm.usage import Usage
from lumen.lmm.words import write_extras
from lumen.paths import find_path
from lumen.prompts import TaskWording, Template, read_template
from lumen.registry import MODELS
from lumen.structures import LocFeatures, PerceptionSample, Prompt


@MODELS.register_module()
class HFAdapter(nn.Module):
    """A Hugging Face LMM with ``[LOC]``, asked any number of phrases about an image in one pass.

    Args:
        name_or_path: Folder or model id, as ``from_pretrained`` takes it. A relative folder is looked up by
            ``lumen.paths.find_path``. Left out where ``base_model`` is given.
        base_model: A base model that is built already, in place of ``name_or_path``; changed in place. The options of
            ``base`` that choose how weights are loaded have no effect on it and are refused.
        template: ``compact``, ``paper``, or a ``Template``; in a config a dict of its fields.
        tasks: Wordings of further tasks, beside the known ones; in a config, dicts of the fields of ``TaskWording``.
        base: How the base model is loaded, and what is trained in it: ``BaseOptions``, or a dict of its fields.
        readout: What is read of it: ``ReadoutOptions``, or a dict of its fields.
        packing: How many prompts it takes at once: ``PackingOptions``, or a dict of its fields.
        generation: What it writes itself: ``GenerationOptions``, or a dict of its fields.

    Raises:
        ConfigError: If the family is unknown, an option is unknown or not accepted, a library for it is missing, or
            not exactly one of ``name_or_path`` and ``base_model`` is given.
        CheckpointError: If there is no model of that name.
    """

    losses: ClassVar[Mapping[str, str]] = LOSSES
    """The losses it can give, and what their sums are divided by."""

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        base_model: loading.LoadedBase | None = None,
        template: str | Template | Mapping[str, Any] = "compact",
        tasks: Sequence[TaskWording | Mapping[str, str | bool]] = (),
        base: BaseOptions | Mapping[str, Any] | None = None,
        readout: ReadoutOptions | Mapping[str, Any] | None = None,
        packing: PackingOptions | Mapping[str, Any] | None = None,
        generation: GenerationOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        groups = read_groups(base=base, readout=readout, packing=packing, generation=generation)
        self.base, self.readout, self.packing, self.generation = groups
        template = read_template(template)
        check_answers(template, self.generation.answer_mode)
        loading.check_source(name_or_path, base_model, self.base)
        # Whatever can be refused is refused before the weights load, which takes minutes for a large model.
        path = None if name_or_path is None else find_path(name_or_path)
        config = read_config(path, self.base.attention) if base_model is None else base_model.model.config
        self.name_or_path = name_or_path or config.name_or_path or config.model_type
        place = torch.device("cpu") if base_model is None else base_model.model.device
        self.family, connector = fit_connector(family_of(config, self.base.family), config, self.base.connector, place)
        check_layers(self.readout.layers, config.text_config.num_hidden_layers)
        self.features = FeatureSource(self.family, config, *self.readout.source)
        mode = mode_that_works(config, self.family, self.packing.mode)
        self.packing = packing_in(mode, self.packing, self.name_or_path, "by the self-check")
        loaded = base_model or loading.load_base(path, config, self.family, self.base)
        self.base_model: PreTrainedModel = loaded.model
        self.statistics = loaded.statistics
        self.is_narrow = self.base.is_narrow or (base_model is not None and loaded.model.dtype != torch.float32)
        self.splits = self.packing.is_packed and use_split(self.base_model, self.family)
        if self.packing.is_packed and not self.splits and not takes_masks(self.base_model):
            mode = mode_that_works(config, self.family, "expanded")
            self.packing = packing_in(mode, self.packing, self.name_or_path, "with flash attention")
        wordings = {"template": template, "wordings": wordings_with(tasks)}
        self.encoder = encoder_for(loaded.tokenizer, config, self.family, **wordings)
        self.text = TextEncoder(self.encoder, dialect=self.generation.dialect_of(config))
        self.register_buffer("neighbours", box_neighbours(self.encoder, self.readout.box_bins), persistent=False)
        self.new_tokens = add_tokens(self.base_model, self.encoder, self.base.new_tokens)
        self.lora = dict(self.base.lora) if self.base.lora else None
        loading.prepare_training(self.base_model, self.base, connector)
        self._lockstep = Lockstep(self.base_model.get_decoder())
        self.usage = Usage()
        self._layouts: dict[LayoutKey, PrefixLayout] = {}
        self.writer = AnswerGenerator(self.encoder, self.text, self.usage)

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

    @property
    def slots(self) -> tuple[str, ...]:
        """Tokens of ``LocFeatures.slots``."""
        return self.encoder.template.slots

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint must agree with: base model, template, position of the query, special tokens."""
        return {
            "base_model": f"{self.config.model_type}/{self.config.vision_config.model_type}",
            "template": self.encoder.template.name,
            **self.readout.describe(),
            **describe_connector(self.base_model),
            **({"new_tokens": "learn"} if self.new_tokens else {}),
            **({"lora": " ".join(f"{key}={value}" for key, value in self.lora.items())} if self.lora else {}),
            "special_tokens": " ".join(self.encoder.special_tokens),
        }

    @property
    def protocol(self) -> dict[str, str]:
        """How it is asked when predicting; belongs to a figure, not to a checkpoint."""
        return {
            "template": self.encoder.template.name,
            "answer_mode": self.generation.answer_mode,
            "packing": self.packing.mode,
        }

    @property
    def answer_report(self) -> AnswerReport:
        """How the LMM answered location prompts in its own words."""
        return self.writer.report

    def transformer_layers(self) -> list[nn.Module]:
        """Return the transformer layers of the LLM and the vision tower; sharding keeps each in one piece."""
        return loading.transformer_layers(self.base_model)

    def merge_lora(self) -> PreTrainedModel:
        """Add what LoRA has learned to the base's own weights, for good, and return the base, ready to be saved.

        Save the tokenizer (``encoder.tokenizer``) and ``preprocessor_config.json`` beside it.

        Raises:
            ConfigError: If there is no LoRA.
        """
        if not self.lora:
            raise ConfigError(
                "there is no LoRA to merge: build the adapter with base=dict(lora=dict(r=8, ...)) and load it"
            )
        loading.merge_lora(self.base_model.get_decoder())
        self.lora = None
        return self.base_model

    def wording_of(self, task: str) -> TaskWording:
        """Return how a task is asked for and answered."""
        return self.encoder.wordings[task]

    def add_task(self, wording: TaskWording) -> None:
        """Add a task that can be asked for, worded with tokens that the vocabulary has already.

        Raises:
            PromptError: See ``Wordings.with_task``.
        """
        self.encoder.wordings = self.encoder.wordings.with_task(wording)

    def is_text(self, task: str) -> bool:
        """Return whether a task is answered as text, so that its prompts give no pairs."""
        return self.encoder.wordings[task].is_text

    def count_tokens(self, prompts: Sequence[Sequence[Prompt]]) -> dict[str, int]:
        """Return how many tokens ``loss_answer`` and ``loss_text`` are summed over: forced answers, free answers."""
        free = itertools.chain.from_iterable(self.text.suffixes(prompts))
        return {
            "answer_tokens": count_answer_tokens(forced_pairs(self.encoder, prompts).flat),
            "text_tokens": count_answer_tokens(list(free)),
        }

    def loss(self, features: LocFeatures, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Return the sums of its losses, by the names in ``losses``; of those that its options ask for.

        Args:
            features: What ``forward`` gave for the samples.
            samples: The samples, with their targets.
        """
        names = {} if features.names is None else {"loss_name": naming_loss(features, samples)}
        return {**features.text_losses, **names, **proposal_losses(features, samples)}

    def forward(
        self,
        images: UInt8[Tensor, "images *frames 3 height width"],
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
    ) -> LocFeatures:
        """Encode each image once and all its prompts with it.

        Location prompts give pairs; text prompts give a share of ``loss_text`` or, when predicting, an answer.

        Args:
            images: RGB at input size; or clips, which have an axis of frames, for a connector that takes them.
            prompts: The prompts of each image; any number, none included.
            extras: What the decoders need beside pairs. ``texts``: what ``lumen.lmm.places.answer_prompts`` gives for
                text prompts; while learning, ``loss_text`` even of a batch without text prompts. ``words``: what the
                LMM goes on to write behind the last slot.
            predicting: Answer instead of learning: texts are generated, there are no losses, ``answer_mode`` counts.

        Raises:
            ConfigError: If the LMM does not take images of this size, or words are wanted that the template lacks.
            PromptError: If a prompt is empty, too long, or of an unknown task, or has no answer to learn.
        """
        return self.ask(self.encode_images(images), prompts, extras=extras, predicting=predicting)

    def encode_images(
        self, images: UInt8[Tensor, "images *frames 3 height width"], *, cache_prefix: bool = False
    ) -> EncodedImages:
        """Run the vision tower and the connector; the result can be asked many times.

        Args:
            images: RGB at input size.
            cache_prefix: Keep what the LLM makes of the prefix for further questions; worth its memory where there
                will be several.

        Raises:
            ConfigError: If the LMM does not take images of this size.
        """
        size_hw = tuple(images.shape[-2:])
        self.features.check_size(size_hw)
        self.usage.images += len(images)
        token_hw = self.features.token_hw_of(images)
        return EncodedImages(
            images=images,
            states=self.features.encode(self.base_model, images, self.statistics),
            token_hw=token_hw,
            image_text=self.image_text(token_hw),
            prefix_cache=PrefixCache() if cache_prefix else None,
        )

    def prefix(self, input_hw: Sequence[int]) -> list[int]:
        """Return the token ids before the phrase for images of this size."""
        return self.encoder.prefix(self.image_text(self.features.token_hw(input_hw)))

    def image_text(self, token_hw: tuple[int, int]) -> str:
        """Return the text of an image whose tokens lie on this grid."""
        return image_text_of(self.encoder.tokenizer, self.config, self.family, token_hw)

    def ask(
        self,
        encoded: EncodedImages,
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
        pairs: Pairs | None = None,
    ) -> LocFeatures:
        """Ask encoded images; see ``forward``. ``pairs`` are those of a turn, where the LMM has written one already."""
        template = checked_words(self.encoder.template, extras)
        # Locate: which prompts become pairs. Their answers are forced, or what the LMM writes.
        pairs = self._locate(encoded, prompts, predicting) if pairs is None else pairs
        questions = [] if predicting else self.text.suffixes(prompts)
        # Pack: the suffixes of an image share rows behind one prefix; questions have a prefix of their own wording.
        text_prefix = self.text.prefix(encoded.image_text)
        prefix = text_prefix if pairs.in_turn else self.encoder.prefix(encoded.image_text)
        packing = self._packing_for((prefix, pairs.suffixes), (text_prefix, questions))
        limits = {"packing": packing, "config": self.config, "pad_id": self.encoder.tokenizer.pad_token_id or 0}
        pair_rows = pack_pass(prefix, pairs.suffixes, **limits, every_image=self.readout.reads_llm)
        text_rows = pack_pass(text_prefix, questions, **limits)
        runner, head = self.runner_with(packing), self.base_model.get_output_embeddings()
        readout = Readout(runner, self.readout, head, len(self.slots), template.has_answer, self.neighbours)
        # Run text rows first, so that a batch without pairs can connect its empty queries to them, then pair rows.
        losses, text_states = readout.read_texts(*text_rows, encoded)
        states = readout.read_pairs(*pair_rows, encoded, pairs, fallback_states=text_states, predicting=predicting)
        losses += states.losses
        # Read what is not a state of a pair: the dense grid, free answers and words, names.
        grid = self.features.grid(encoded, states.image_states, pair_rows[1].prefix)
        writing = (self.writer, runner, encoded, prompts, pairs, extras, self.generation)
        further = write_extras(*writing) if predicting else {}
        if not predicting and "texts" in extras and text_states is None:
            # Each batch has a loss_text, connected to every parameter, so that all ranks take the same steps.
            losses.append({"loss_text": answer_loss(head, text_rows[0], states.layers[0][:0])})
        # All ranks call the LLM equally often; the results of surplus calls join the graph as zero pairs.
        idle = self._lockstep.finish(runner.passes, encoded, pair_rows[1].prefix)
        slots = [self._widen(torch.cat([state, *idle])) for state in states.slots.unbind(1)]
        # Assemble. Features leave in float32 even of a narrow base: what follows is small and trained.
        return LocFeatures(
            query=slots[0],
            grid=self._widen(grid),
            laterals=tuple(map(self._widen, self.family.laterals(encoded.states))),
            stride=encoded.input_hw[0] // grid.shape[2],
            image_index=pairs.image_index.to(slots[0].device, non_blocking=True),
            prompt_index=pairs.prompt_index.to(slots[0].device, non_blocking=True),
            text_losses=add_up(losses),
            extras={**further, **read_proposals(encoded, extras)},
            names=None if predicting else readout.read_names(encoded, pairs, nothing=self.encoder.end_id),
            slots=dict(zip(self.slots, slots, strict=True)),
        )

    def generate(
        self, encoded: EncodedImages, questions: Sequence[Sequence[Prompt]], max_new_tokens: int | None = None
    ) -> list[list[str]]:
        """Answer questions about encoded images as text, greedily; each is a conversation of its own.

        Args:
            encoded: What ``encode_images`` gave.
            questions: Text prompts of each image; ``Prompt.history`` holds earlier turns of a conversation.
            max_new_tokens: Bound on the tokens of an answer; the adapter's own when left out.

        Raises:
            PromptError: If a turn is empty, too long or holds special tokens.
        """
        bound = self.generation.max_new_tokens if max_new_tokens is None else max_new_tokens
        packing = self._packing_for((self.text.prefix(encoded.image_text), ()))
        return self.writer.answer(self.runner_with(packing), encoded, questions, bound)

    def write_turn(self, encoded: EncodedImages, prompt: Prompt) -> Turn:
        """Answer a question about one encoded image freely, also by pointing at objects; raises as ``generate``.

        Earlier answers in the history of ``prompt`` may hold the tokens with which the LMM points.
        """
        runner = self.runner_with(self._packing_for((self.text.prefix(encoded.image_text), ())))
        return write_turn(self.writer, runner, encoded, prompt, self.generation.max_new_tokens)

    def runner_with(self, packing: PackingOptions) -> RowRunner:
        """Return what runs rows through the LLM that are packed in this way."""
        is_packed = packing.is_packed
        # Layers that are computed again keep no cache: they would fill it twice.
        recomputes = self.base.gradient_checkpointing and torch.is_grad_enabled()
        if recomputes:
            loading.recompute_frozen(self.base_model)
        expands = packing.mode == "expanded" and not recomputes
        mode = PassMode(is_packed, is_packed and self.splits, expands, self.readout.layers)
        passes = Passes(self.base_model, self.family, mode, self._layouts)
        return RowRunner(passes, self.usage, packing.max_pass_tokens)

    def _widen(self, states: Tensor) -> Tensor:
        return loading.widened(states) if self.is_narrow else states

    def _locate(self, encoded: EncodedImages, prompts: Sequence[Sequence[Prompt]], predicting: bool) -> Pairs:
        forced = forced_pairs(self.encoder, prompts, with_words=not predicting)
        if not predicting or self.generation.answer_mode == "forced":
            return forced
        runner = self.runner_with(self._packing_for((self.encoder.prefix(encoded.image_text), forced.suffixes)))
        return forced.written(self.writer.locate(runner, encoded, forced.choose(prompts), forced.suffixes))

    def _packing_for(self, *asked: tuple[Sequence[int], Sequence[Sequence[Suffix]]]) -> PackingOptions:
        """Return how these prefixes and suffixes are packed; in the next mode where they leave the LLM's window."""
        longest = max(len(prefix) + longest_suffix(suffixes) for prefix, suffixes in asked)
        mode = mode_that_fits(self.config, self.family, self.packing.mode, longest)
        return packing_in(mode, self.packing, self.name_or_path, f"{longest} tokens do not fit its window")
