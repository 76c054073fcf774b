"""Prompts as token ids: a prefix that all phrases of an image share, and one suffix per phrase."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from lumen.errors import ConfigError, PromptError
from lumen.lmm.families import Family
from lumen.lmm.families.family import Size
from lumen.lmm.packing.rows import Suffix
from lumen.lmm.tokens.shared_start import SharedStart
from lumen.lmm.tokens.templates import MARK, find_template, image_and, render, words
from lumen.prompts import LOC_TOKEN, Template, Wordings, check_text


class PromptEncoder:
    """Phrases to token ids: the prefix that all phrases of an image share, and one suffix per phrase.

    Owns the tokenizer and the special tokens, which are looked up by name. A prompt is tokenized as a whole and split
    afterwards; see ``SharedStart``.

    Args:
        tokenizer: The model's tokenizer, with a chat template. ``special_tokens`` are added to it.
        template: Wording around the phrase, with its slots.
        wordings: The tasks it can ask for.
        placeholder: What stands for an image in the chat template.
        image_text: The text of an image of one cell.
        edge_tokens: Tokens in ``image_text`` that the tokenizer may lack; they are added to it.

    Raises:
        ConfigError: If the chat template does not put the image before the text, or nothing ends an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: Template,
        wordings: Wordings,
        placeholder: str,
        image_text: str,
        edge_tokens: Sequence[str] = (),
    ) -> None:
        if tokenizer.chat_template is None:
            raise ConfigError("the tokenizer has no chat template: save one beside it as chat_template.jinja")
        known = tokenizer.get_vocab()
        self.num_known = len(tokenizer)
        # `[LOC]` and the routing tokens come first, so that they have the same ids with every template.
        tokens = [*wordings.special_tokens, *edge_tokens, *template.slots, *template.tokens]
        self.special_tokens = list(dict.fromkeys(tokens))
        self.spoken_tokens = [token for token in self.special_tokens if token not in edge_tokens]
        tokenizer.add_special_tokens(
            {"additional_special_tokens": self.special_tokens}, replace_extra_special_tokens=False
        )
        self.tokenizer = tokenizer
        self.template = template
        self.wordings = wordings
        self.placeholder = placeholder
        self.image_text = image_text
        self.slot_ids: list[int] = tokenizer.convert_tokens_to_ids(list(template.slots))
        self.routing_ids: dict[str, int] = {
            token: tokenizer.convert_tokens_to_ids(token) for token in wordings.special_tokens if token != LOC_TOKEN
        }
        added = [token for token in self.special_tokens if token not in known]
        self.added_ids: list[int] = tokenizer.convert_tokens_to_ids(added)
        self._special_ids = set(tokenizer.all_special_ids) | {
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        before, self._turn_text = self.render_around(
            [{"role": "user", "content": image_and(template.before + template.lead + MARK)}]
        )
        self.gap, self.end_id = self._read_answer()
        self._start = self.start(before.rstrip(" ") if template.lead else before, joint=template.lead)
        self._suffixes: dict[tuple[str, str, str], Suffix] = {}

    def prefix(self, image_text: str) -> list[int]:
        """Return the ids before the phrase, with the text that the image takes in place of its placeholder."""
        return self._start.ids(image_text)

    def start(self, text: str, joint: str = "") -> SharedStart:
        """Return what conversations that start with a text have in common."""
        image = {"placeholder": self.placeholder, "image_text": self.image_text}
        return SharedStart(self.tokenizer, text, **image, joint=joint)

    def suffix(self, phrase: str, task: str, words: str = "") -> Suffix:
        """Return the tokens of one phrase; remembered, since data sets ask for the same names again and again.

        Args:
            phrase: The phrase.
            task: Its task.
            words: What the answer says behind the last slot. Without words it is cut there, where the template has a
                place for them.

        Raises:
            PromptError: If the phrase, the task or the words are not acceptable; see ``Wordings.suffix``.
        """
        key = (phrase, task, words if self.template.has_words else "")
        if key not in self._suffixes:
            if len(self._suffixes) >= 65536:
                self._suffixes.clear()
            self._suffixes[key] = self._encode(*key)
        return self._suffixes[key]

    def _encode(self, phrase: str, task: str, words: str) -> Suffix:
        if words:
            words = check_text(words, f"the words to learn for {phrase!r}")
            self.refuse_special(words, besides=self.template.tokens)
        user, answer = self.wordings.suffix(self.template, phrase, task, words)
        text = self.template.lead + phrase.strip()
        self.refuse_special(text)
        if answer:
            parts = (text, user[len(text) :] + self._turn_text, self.gap + answer)
            ids, (phrase_end, asked, _) = self._start.split(parts)
            # An answer that is cut does not end there.
            ids += [self.end_id] if words or not self.template.has_words else []
        else:
            ids, (phrase_end, asked) = self._start.split((text, user[len(text) :]))
        if any(ids.count(slot) != 1 for slot in self.slot_ids):
            raise PromptError(f"a prompt must hold {self.template.slots} once, got {self.tokenizer.decode(ids)!r}")
        # A phrase whose only token has merged with what follows is that token.
        return Suffix(tuple(ids), (0, max(1, phrase_end)), tuple(map(ids.index, self.slot_ids)), asked)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text alone, without the tokenizer's own first token."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def refuse_special(self, text: str, *, besides: Sequence[str] = ()) -> None:
        """Raise PromptError if a text holds special tokens, which would end its turn or stand for an image.

        Args:
            text: The text.
            besides: Special tokens that it may hold.
        """
        allowed = set(self.tokenizer.convert_tokens_to_ids(list(besides)))
        special = (set(self.ids(text)) & self._special_ids) - allowed
        if special:
            found = self.tokenizer.convert_ids_to_tokens(sorted(special))
            raise PromptError(f"a prompt must not hold special tokens, got {found} in {text.strip()!r}")

    def render_around(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """Split a conversation, up to where the assistant goes on, at its first ``MARK``."""
        text = render(self.tokenizer, messages, add_generation_prompt=True)
        before, mark, after = text.partition(MARK)
        if not mark or self.placeholder not in before:
            raise ConfigError(
                f"the chat template must keep the image before the text; it made {text!r} without "
                f"{self.placeholder!r} in front of the text"
            )
        return before, after

    def _read_answer(self) -> tuple[str, int]:
        """Return what the template puts before the assistant's words, and the token that ends them.

        That is the template's own end of a turn, such as ``<|im_end|>``, else the tokenizer's end of a text.
        """
        asked = [{"role": "user", "content": image_and(MARK)}]
        opened = render(self.tokenizer, asked, add_generation_prompt=True)
        answered = render(
            self.tokenizer, [*asked, {"role": "assistant", "content": words(MARK)}], add_generation_prompt=False
        )
        start = answered.rfind(MARK)
        gap = "" if opened[-1:].isspace() else " "
        if answered.startswith(opened) and start >= len(opened):
            gap = answered[len(opened) : start]
        behind = self.tokenizer(answered[start + len(MARK) :].lstrip(), add_special_tokens=False)["input_ids"]
        ends_turn = bool(behind) and behind[0] in self.tokenizer.added_tokens_decoder
        end_id = behind[0] if ends_turn else self.tokenizer.eos_token_id
        if end_id is None:
            raise ConfigError(
                "nothing ends an answer: the tokenizer has no eos_token, and the chat template ends a turn of the "
                f"assistant in {answered[start + len(MARK) :]!r}. Set eos_token in tokenizer_config.json"
            )
        return gap, end_id


def encoder_for(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    family: Family,
    *,
    template: Template,
    wordings: Wordings,
) -> PromptEncoder:
    """Return the encoder of the phrases of an LMM.

    Raises:
        ConfigError: See ``PromptEncoder`` and ``image_token_of``.
    """
    return PromptEncoder(
        tokenizer,
        template=template,
        wordings=wordings,
        placeholder=family.placeholder or image_token_of(tokenizer, config),
        image_text=image_text_of(tokenizer, config, family, (1, 1)),
        edge_tokens=family.edge_tokens,
    )


def load_tokenizer(
    name_or_path: str, *, config: PretrainedConfig, family: Family, chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer with a chat template that shows images.

    Args:
        name_or_path: Folder or model id.
        config: The model's config.
        family: The model's family.
        chat_template: A template, or the path of a file that holds one, in place of the model's; see
            ``find_template``.

    Raises:
        ConfigError: If there is no such token, or no such template.
    """
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    tokenizer.chat_template = find_template(
        name_or_path,
        tokenizer,
        placeholder=family.placeholder or image_token_of(tokenizer, config),
        given=chat_template,
        fallback=family.chat_template,
    )
    return tokenizer


def image_text_of(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, family: Family, token_hw: Size) -> str:
    """Return the text of an image whose tokens lie on this grid.

    Raises:
        ConfigError: See ``image_token_of``.
    """
    cells = family.image_text(config, image_token_of(tokenizer, config), token_hw)
    edges = family.edges(config)
    before, after = ("", "") if edges is None else tokenizer.convert_ids_to_tokens(list(edges))
    return before + cells + after


def image_token_of(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> str:
    """Return the token of a cell of an image.

    Raises:
        ConfigError: If the tokenizer has no such token.
    """
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    if token is None:
        raise ConfigError(
            f"the tokenizer has no token {config.image_token_id}, which config.json names as that of an image"
        )
    return token


def count_answer_tokens(suffixes: Sequence[Suffix]) -> int:
    """Return how many tokens the LMM is trained to give for these pairs."""
    return sum(suffix.num_answer_tokens for suffix in suffixes)
