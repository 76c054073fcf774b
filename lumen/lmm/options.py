"""The options of an adapter in four groups: the base model, what is read of it, how it is packed, what it writes.

A config gives each group as a dict of its fields. Values are checked here, before anything is loaded.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from lumen.errors import ConfigError
from lumen.lmm.dialects import Dialect, choose_dialect
from lumen.lmm.features import SOURCES
from lumen.options import check_choice, read_options
from lumen.prompts import KNOWN_TASKS, TaskWording, Template, Wordings

LAST = -1
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class BaseOptions:
    """How the base model is loaded, and what is trained in it.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``: the precision in which its weights are kept; that of the saved
            weights when left out. The features are float32 all the same, except under autocast.
        attention: transformers' attention implementation, such as ``eager``, ``sdpa`` or ``flash_attention_2``; its
            choice when left out; or ``plain``, which is faster for small LLMs on a CPU, in bfloat16 above all. Where a
            part of the model has no such one, ``eager`` is taken, with a warning. With
            flash attention, packed prompts go through ``lumen.lmm.packing.prefix_attention`` all the same, and where
            the LLM cannot do that, each gets a pass of its own.
        quantization: Fields of ``BitsAndBytesConfig``, such as ``load_in_4bit``; the base is frozen then. A repository
            whose weights are quantized already needs nothing here.
        device_map: As accelerate takes it; spreads the base over devices, for inference only.
        gradient_checkpointing: Compute layers again in the backward pass instead of keeping their activations.
        new_tokens: ``resize`` gives the LMM's own tables rows for ``[LOC]`` and the routing tokens; ``learn`` keeps
            their rows beside a base that stays as it is, as ``new_tokens.rows``. They start alike at every build.
        lora: ``r``, ``alpha``, ``dropout`` and ``targets`` of low-rank adapters on the LLM, whose own weights are
            frozen; needs peft.
        connector: ``type`` and options of a ``lumen.lmm.connectors.Connector`` in place of the LMM's own, from scratch
            unless its ``start`` names the former; for the LLaVA line and nano.
        family: Key of ``lumen.lmm.families.FAMILIES``, where the model types in the config do not name it.
        chat_template: A chat template that shows images, or the path of a file with one, in place of the model's.
        unused_weights: Regular expressions of the weights in the files that the model has no use for. Any other weight
            that is missing or left over is an error.

    Raises:
        ConfigError: A value is not accepted.
    """

    dtype: str | None = None
    attention: str | None = None
    quantization: Mapping[str, Any] | None = None
    device_map: str | Mapping[str, str | int] | None = None
    gradient_checkpointing: bool = False
    new_tokens: str = "resize"
    lora: Mapping[str, Any] | None = None
    connector: Mapping[str, Any] | None = None
    family: str | None = None
    chat_template: str | None = None
    unused_weights: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.dtype is not None:
            check_choice("base.dtype", self.dtype, DTYPES)
        check_choice("base.new_tokens", self.new_tokens, ("resize", "learn"))

    @property
    def is_narrow(self) -> bool:
        """Whether the weights are kept in fewer bits than float32 by choice."""
        return self.dtype is not None or self.quantization is not None


@dataclass(frozen=True, slots=True)
class ReadoutOptions:
    """What is read of the base model: the query of each pair, the dense features, and what both learn.

    Args:
        position: Which state is the query: ``loc``, the state at ``[LOC]``, or ``before_loc``, the state that
            predicts it. The paper does not say; the same one serves training and inference.
        query_layer: Layer of the LLM whose state is the query, as an index into ``hidden_states``; -1 is the last.
        features: Where ``LocFeatures.grid`` comes from: ``vision``, the vision tower; ``llm``, the LLM's states at the
            image tokens; ``both``, one after the other, on the grid of the tower.
        feature_layer: Layer of the LLM whose states at the image tokens are taken, as ``query_layer``.
        dense_hw: Height and width of the images when the grid comes from a second pass of the vision tower at this
            size; the LMM then gets them shrunk to its own.
        add_phrase_state: Add the mean state of the phrase's tokens to the ``[LOC]`` state. Departs from the paper;
            a model trained from scratch needs it to learn quickly.
        phrase_reconstruction: Train the ``[LOC]`` state to predict the tokens of its phrase, as
            ``loss_phrase_reconstruction``.
        name_tokens: Train the image tokens to name what they show, as ``loss_name``, by phrases of at most so many
            tokens; 0 trains none. For models from scratch: a tower that was trained on image and text knows words.
        box_bins: Learn the words of boxes of so many bins, see ``lumen.corner_words.CornerWords``, with a share of the
            probability on both neighbours of each; 0 treats them as all other words.

    Raises:
        ConfigError: A value is not accepted.
    """

    position: str = "loc"
    query_layer: int = LAST
    features: str = "vision"
    feature_layer: int = LAST
    dense_hw: Sequence[int] | None = None
    add_phrase_state: bool = False
    phrase_reconstruction: bool = False
    name_tokens: int = 0
    box_bins: int = 0

    def __post_init__(self) -> None:
        check_choice("readout.position", self.position, ("loc", "before_loc"))
        check_choice("readout.features", self.features, SOURCES)

    @property
    def layers(self) -> tuple[int, int, int]:
        """The layers that are read: the last one for the losses, that of the query, that of the image tokens."""
        return LAST, self.query_layer, self.feature_layer

    @property
    def dense_size_hw(self) -> tuple[int, int] | None:
        """``dense_hw`` as a tuple of two numbers, whatever a config gave."""
        return None if self.dense_hw is None else (int(self.dense_hw[0]), int(self.dense_hw[1]))

    @property
    def source(self) -> tuple[str, tuple[int, int] | None, bool]:
        """Where the dense features come from, as ``FeatureSource`` takes it."""
        return self.features, self.dense_size_hw, self.name_tokens > 0

    def describe(self) -> dict[str, str]:
        """Return what a checkpoint must agree with, in words."""
        dense_hw = self.dense_size_hw
        return {
            "position": self.position if self.query_layer == LAST else f"{self.position}@{self.query_layer}",
            **({} if self.features == "vision" else {"features": f"{self.features}@{self.feature_layer}"}),
            **({"dense_hw": f"{dense_hw}"} if dense_hw else {}),
        }

    @property
    def reads_llm(self) -> bool:
        """Whether the dense features need the LLM's states of every image, also of one without a prompt."""
        return self.features != "vision"


@dataclass(frozen=True, slots=True)
class PackingOptions:
    """How many prompts go through the LLM at once.

    Args:
        mode: ``packed``, many prompts in a row; ``expanded``, each in a row of its own behind a copy of what the LLM's
            cache holds of its image; or ``separate``. One falls back to the next, with a warning, where the self-check
            fails: layers that mix neighbours, such as linear attention, cannot pack.
        max_suffix_tokens: Bound on the suffix tokens of one row; more prompts than fit take more rows.
        max_pass_tokens: Bound on the tokens of one LLM call when no gradient is needed.

    Raises:
        ConfigError: A value is not accepted.
    """

    mode: str = "packed"
    max_suffix_tokens: int = 2048
    max_pass_tokens: int = 16384

    def __post_init__(self) -> None:
        check_choice("packing.mode", self.mode, ("packed", "expanded", "separate"))

    @property
    def is_packed(self) -> bool:
        """Whether a row may hold several prompts."""
        return self.mode == "packed"


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What the LMM writes itself.

    Args:
        answer_mode: How location prompts are answered when predicting: ``forced``, the template's answer is
            teacher-forced, or ``generated``, the LMM writes it, and what it wrote is counted in ``answer_report``.
        max_new_tokens: Bound on the tokens of a free answer.
        dialect: In which words the LMM is asked for boxes and how it writes them: a name of
            ``lumen.lmm.dialects.DIALECTS``, or a dict of the fields of ``Dialect``; when left out, the one that the
            model's ``config.json`` names as ``dialect``, else that of the model type.
        max_joined: How many phrases a question for boxes holds at most, where the dialect takes several.

    Raises:
        ConfigError: A value is not accepted.
    """

    answer_mode: str = "forced"
    max_new_tokens: int = 64
    dialect: str | Mapping[str, Any] | None = None
    max_joined: int = 100

    def __post_init__(self) -> None:
        for name, value in {"max_joined": self.max_joined, "max_new_tokens": self.max_new_tokens}.items():
            if type(value) is not int or value < 1:
                raise ConfigError(f"generation.{name} must be a whole number of at least 1, got {value!r}")
        check_choice("generation.answer_mode", self.answer_mode, ("forced", "generated"))

    def dialect_of(self, config: PretrainedConfig) -> Dialect | None:
        """Return the dialect of a model; None where it has no known one. Raises ConfigError for a wrong choice."""
        return choose_dialect(self.dialect, config.model_type, getattr(config, "dialect", None))


_GROUPS = {"base": BaseOptions, "readout": ReadoutOptions, "packing": PackingOptions, "generation": GenerationOptions}


def read_groups(**groups: Any) -> tuple[BaseOptions, ReadoutOptions, PackingOptions, GenerationOptions]:
    """Return the four groups, each given as a group, a dict of its fields, or None; see ``read_options``."""
    return tuple(read_options(kind, groups[name], name) for name, kind in _GROUPS.items())


def check_answers(template: Template, answer_mode: str) -> None:
    """Raise ConfigError where answers are to be generated that the template does not have."""
    if answer_mode == "generated" and not template.has_answer:
        raise ConfigError(
            f"template {template.name!r} has no answer to generate: use 'paper', or generation.answer_mode='forced'"
        )


def checked_words(template: Template, extras: Set[str]) -> Template:
    """Return the template; raise ConfigError where decoders read words that it does not have."""
    if "words" in extras and not template.has_words:
        raise ConfigError(
            f"a decoder reads the words behind the slots, and template {template.name!r} has none: its answer "
            f"{template.answer!r} needs {{words}}"
        )
    return template


def check_layers(layers: Sequence[int], count: int) -> None:
    """Raise ConfigError where a layer is not among the states of an LLM with ``count`` layers."""
    if any(not -count - 1 <= layer <= count for layer in layers):
        raise ConfigError(
            f"the LLM has {count} layers; query_layer and feature_layer lie between 0, the embeddings, and {count}, or "
            f"count from -1, got {tuple(layers[1:])}"
        )


def wordings_with(tasks: Sequence[TaskWording | Mapping[str, str | bool]]) -> Wordings:
    """Return the known tasks with further ones, which a config may give as dicts of their fields."""
    further = (task if isinstance(task, TaskWording) else TaskWording(**task) for task in tasks)
    return Wordings((*KNOWN_TASKS, *further))
