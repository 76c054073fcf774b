"""Image statistics, tokenizer and chat template of a Hugging Face model, loaded apart.

``AutoProcessor`` needs torchvision for several families; its parts do not. Resizing, cropping and tiling never happen
here: the data pipeline has done the geometry, so only rescaling and normalising are left, done on the whole batch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import AutoTokenizer, ImageProcessingMixin, PreTrainedTokenizerBase
from transformers.utils import cached_file

from lumen.errors import ConfigError, PromptError
from lumen.lmm.packing.rows import Suffix
from lumen.prompts import LOC_TOKEN, Template, Wordings

MARK = "\u241f"


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """How raw pixels become ``pixel_values``: (value * scale - mean) / std, per channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 height width"]:
        """Return ``pixel_values`` of a uint8 RGB batch; equal to the image processor's without its geometry."""
        factor = torch.tensor([self.scale / value for value in self.std])
        shift = torch.tensor(self.mean) / torch.tensor(self.std)
        factor, shift = (each.view(3, 1, 1).to(images.device, non_blocking=True) for each in (factor, shift))
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        return pixels.mul_(factor).sub_(shift)


def load_statistics(name_or_path: str) -> ImageStatistics:
    """Read the statistics from the settings of a model's image processor, without building it.

    Several image processors exist only on top of torchvision; their settings are plain numbers.

    Raises:
        ConfigError: If the settings lack a number.
    """
    settings, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
    lacking = {"image_mean", "image_std"} - {key for key, value in settings.items() if value is not None}
    if lacking:
        raise ConfigError(f"preprocessor_config.json of {name_or_path} lacks {sorted(lacking)}: write them there")
    scale = settings.get("rescale_factor", 1 / 255)
    return ImageStatistics(scale, tuple(settings["image_mean"]), tuple(settings["image_std"]))


class PromptEncoder:
    """Phrases to token ids: the prefix that all phrases of an image share, and one suffix per phrase.

    Owns the tokenizer and the special tokens, which are looked up by name.

    Args:
        tokenizer: The model's tokenizer, with a chat template. ``[LOC]`` and the routing tokens are added to it.
        template: Wording around the phrase.
        wordings: The tasks it can ask for.
        placeholder: What stands for an image in the chat template.

    Raises:
        ConfigError: If the tokenizer has no chat template, or the template loses the phrase.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, template: Template, wordings: Wordings, placeholder: str
    ) -> None:
        if tokenizer.chat_template is None:
            raise ConfigError("the tokenizer has no chat template: save one beside it as chat_template.jinja")
        tokenizer.add_special_tokens(
            {"additional_special_tokens": wordings.special_tokens}, replace_extra_special_tokens=False
        )
        self.tokenizer = tokenizer
        self.template = template
        self.wordings = wordings
        self.placeholder = placeholder
        self.loc_token_id: int = tokenizer.convert_tokens_to_ids(LOC_TOKEN)
        self.routing_ids: dict[str, int] = {
            token: tokenizer.convert_tokens_to_ids(token) for token in wordings.special_tokens if token != LOC_TOKEN
        }
        self._prefix_text, self._turn_text = self._render()
        self._suffixes: dict[tuple[str, str], Suffix] = {}

    def prefix(self, image_text: str) -> list[int]:
        """Return the ids before the phrase, with the text that the image takes in place of its placeholder."""
        return self.encode_prefix(self._prefix_text, image_text)

    def encode_prefix(self, text: str, image_text: str) -> list[int]:
        """Return the ids of a text that starts a conversation, with the image's text in its place."""
        text = text.replace(self.placeholder, image_text, 1)
        begins = self.tokenizer.bos_token is not None and self.tokenizer.bos_token in text
        return self.tokenizer(text, add_special_tokens=not begins)["input_ids"]

    def suffix(self, phrase: str, task: str) -> Suffix:
        """Return the tokens of one phrase; remembered, since data sets ask for the same names again and again.

        Raises:
            PromptError: If the phrase or the task is not acceptable; see ``Wordings.suffix``.
        """
        key = (phrase, task)
        if key not in self._suffixes:
            if len(self._suffixes) >= 65536:
                self._suffixes.clear()
            self._suffixes[key] = self._encode(phrase, task)
        return self._suffixes[key]

    def _encode(self, phrase: str, task: str) -> Suffix:
        user, answer = self.wordings.suffix(self.template, phrase, task)
        text = " " + phrase.strip()
        self.refuse_special(text)
        phrase_ids = self.ids(text)
        asked = phrase_ids + self.ids(user[len(text) :])
        answer_ids: list[int] = []
        if answer:
            asked += self.ids(self._turn_text)
            answer_ids = [*self.ids(" " + answer), self.tokenizer.eos_token_id]
        ids = asked + answer_ids
        if ids.count(self.loc_token_id) != 1:
            raise PromptError(f"a prompt must hold {LOC_TOKEN} once, got {self.tokenizer.decode(ids)!r}")
        return Suffix(tuple(ids), (0, len(phrase_ids)), ids.index(self.loc_token_id), len(asked))

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text inside a conversation."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def refuse_special(self, text: str) -> None:
        """Raise PromptError if a text holds special tokens, which would end its turn or stand for an image."""
        special = set(self.ids(text)) & set(self.tokenizer.all_special_ids)
        if special:
            found = self.tokenizer.convert_ids_to_tokens(sorted(special))
            raise PromptError(f"a prompt must not hold special tokens, got {found} in {text.strip()!r}")

    def _render(self) -> tuple[str, str]:
        """Split the chat template's text at the phrase: the shared prefix, and what closes the user's turn."""
        content = [{"type": "image"}, {"type": "text", "text": f"{self.template.before} {MARK}"}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, mark, after = text.partition(MARK)
        if not mark or self.placeholder not in before:
            raise ConfigError(
                f"the chat template must keep the image before the text; it made {text!r} without "
                f"{self.placeholder!r} in front of the phrase"
            )
        return before.rstrip(" "), after


def load_tokenizer(name_or_path: str, *, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer with its chat template.

    Args:
        name_or_path: Folder or model id.
        chat_template: Used where the model brings none, neither beside the tokenizer nor in ``chat_template.json``,
            where processors used to keep it.
    """
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    if tokenizer.chat_template is None:
        file = cached_file(name_or_path, "chat_template.json", _raise_exceptions_for_missing_entries=False)
        tokenizer.chat_template = json.loads(Path(file).read_text())["chat_template"] if file else chat_template
    return tokenizer


def count_answer_tokens(suffixes: Sequence[Suffix]) -> int:
    """Return how many tokens the LMM is trained to give for these pairs."""
    return sum(suffix.num_answer_tokens for suffix in suffixes)
