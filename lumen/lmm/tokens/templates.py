"""The chat template of a model: where it lies, whether it shows images, how it is rendered."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from lumen.errors import ConfigError, named_faults

MARK = "\u241f"
"""Stands for a text that comes later; no template and no tokenizer holds it."""

DATE = datetime(2024, 7, 26)
"""The date that templates write; Llama's name it where they know no other."""

MAX_TEMPLATE_CHARACTERS = 2**17

_LARGEST = 1_000_000
_WIDE = re.compile(r"%[-+ #0]*\d{5}|:[^{}]*\d{5}[^{}]*\}")
"""A width in a format, as in ``'%10000000000d' % 1``."""

_OWN_BLOCKS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""Blocks that transformers adds to jinja's."""

_WIDENING = {"center", "ljust", "rjust", "zfill", "expandtabs"}
"""Methods and filters that make a text as wide as they are told."""

_FAULTS = (
    *(TemplateError, TypeError, ValueError, AttributeError, LookupError),
    *(ArithmeticError, MemoryError, RecursionError),
)


def words(text: str) -> list[dict[str, str]]:
    """Return the content of a message that holds a text alone."""
    return [{"type": "text", "text": text}]


def image_and(text: str) -> list[dict[str, str]]:
    """Return the content of a message that shows an image before a text."""
    return [{"type": "image"}, *words(text)]


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    chat_template: str | None = None,
) -> str:
    """Return a conversation as text, by the tokenizer's own template when none is given."""
    return tokenizer.apply_chat_template(
        list(messages),
        chat_template=chat_template,
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )


def find_template(
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    placeholder: str,
    given: str | None = None,
    fallback: str | None = None,
) -> str:
    """Return the first template that shows an image before a text, with its date frozen.

    Looked at in this order: ``given``; the processor's ``chat_template.json``; the tokenizer's, which is
    ``chat_template.jinja`` where that file exists; ``fallback``. A template for texts alone, which tokenizers of many
    repositories still have, is passed over. ``given`` is used or refused.

    Args:
        name_or_path: Folder or model id.
        tokenizer: The model's tokenizer.
        placeholder: What stands for an image in the template.
        given: A template, or the path of a file that holds one.
        fallback: The template of the model's family.

    Raises:
        ConfigError: If no template shows an image; the message names what is wrong with each.
    """
    if given is not None:
        candidates = iter([("chat_template", _text_of(given))])
    else:
        candidates = _templates(name_or_path, tokenizer, fallback)
    faults = []
    for name, template in candidates:
        fault = _fault_of(tokenizer, template, placeholder)
        if fault is None:
            return freeze_date(template)
        faults.append(f"{name}: {fault}")
    raise ConfigError(
        f"{name_or_path!r} has no chat template that shows an image ({placeholder!r}) before a text: "
        f"{'; '.join(faults) or 'there is none'}. Give one as chat_template, as text or as the path of a file"
    )


def freeze_date(template: str) -> str:
    """Return a template that writes ``DATE`` where it would write the date of the day.

    A prompt that is another one every day is never the one that was trained.
    """
    if "strftime_now" not in template:
        return template
    forms = [f"%{code}" for code in "aAbBdejmyYHIMSp"] + ["%-d", "%-m"]
    filled = "".join(f"|replace('{form}','{DATE.strftime(form)}')" for form in forms)
    return "{%- macro strftime_now(form) -%}{{ form" + filled + " }}{%- endmacro -%}" + template


def _text_of(given: str) -> str:
    if "{" in given:
        return given
    if not Path(given).is_file():
        raise ConfigError(f"chat_template must be a jinja template or the path of a file, got {given!r}")
    with named_faults(f"chat_template {given!r} cannot be read", ConfigError, remedy="give a text file in UTF-8"):
        return Path(given).read_text(encoding="utf-8")


def _templates(
    name_or_path: str, tokenizer: PreTrainedTokenizerBase, fallback: str | None
) -> Iterator[tuple[str, str]]:
    file = cached_file(name_or_path, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    if file:
        yield "chat_template.json", json.loads(Path(file).read_text(encoding="utf-8"))["chat_template"]
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own is not None:
        yield "the tokenizer's", own
    if fallback is not None:
        yield "the family's", fallback


def _excess_of(template: Any) -> str | None:
    """Return by what a template, which comes with a model, could take unbounded memory; it is not rendered then.

    ``{{ 'a' * 10**10 }}`` is a valid one. Chat templates join texts; they have no use for products, large numbers,
    loops over numbers in each other, or a text that is joined with itself again and again. A template is a
    program: whoever means to can still write one that takes long.
    """
    if not isinstance(template, str) or len(template) > MAX_TEMPLATE_CHARACTERS:
        return f"it is not a text of at most {MAX_TEMPLATE_CHARACTERS} characters"
    for line, kind, text in Environment().lex(template):
        is_large = kind == "integer" and int(text.replace("_", ""), 0) > _LARGEST
        is_wide = (kind == "string" and _WIDE.search(text) is not None) or (kind == "name" and text in _WIDENING)
        if (kind == "operator" and text in ("*", "**")) or is_large or is_wide:
            return f"line {line} has {text[:40]!r}; products, numbers above {_LARGEST} and such widths are refused"
    return _excess_of_loops(template)


def _excess_of_loops(template: str) -> str | None:
    """Return the loop of a template that would run, or grow its text, without bound."""
    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_OWN_BLOCKS.sub("", template))
    for loop in tree.find_all(nodes.For):
        inner = [part for part in loop.find_all(nodes.For) if part is not loop]
        if _is_over_numbers(loop) and any(map(_is_over_numbers, inner)):
            return f"line {loop.lineno} has a loop over numbers in another; such loops are refused"
        for assignment in loop.find_all(nodes.Assign):
            if list(map(_name_of, _joined(assignment.node))).count(_name_of(assignment.target)) > 1:
                return f"line {assignment.lineno} joins a text with itself in a loop, which is refused"
    return None


def _is_over_numbers(loop: nodes.For) -> bool:
    calls = [loop.iter, *loop.iter.find_all(nodes.Call)]
    return any(isinstance(call, nodes.Call) and _name_of(call.node) == "range" for call in calls)


def _joined(node: nodes.Node) -> list[nodes.Node]:
    """Return what an expression joins by ``~`` and ``+``."""
    if isinstance(node, nodes.Concat):
        return [part for each in node.nodes for part in _joined(each)]
    return [*_joined(node.left), *_joined(node.right)] if isinstance(node, nodes.Add) else [node]


def _name_of(node: nodes.Node) -> str:
    """Return the name of a variable, ``a`` or ``a.b``; of anything else a text that is no name."""
    if isinstance(node, nodes.Getattr | nodes.NSRef):
        owner = node.name if isinstance(node, nodes.NSRef) else _name_of(node.node)
        return f"{owner}.{node.attr}"
    return node.name if isinstance(node, nodes.Name) else f"<{id(node)}>"


def _fault_of(tokenizer: PreTrainedTokenizerBase, template: str, placeholder: str) -> str | None:
    """Return what is wrong with a template, None if it shows an image before a text."""
    try:
        excess = _excess_of(template)
    except _FAULTS as error:
        return f"{type(error).__name__}: {error}"
    if excess is not None:
        return excess
    messages = [{"role": "user", "content": image_and(MARK)}]
    try:
        text = render(tokenizer, messages, add_generation_prompt=True, chat_template=template)
    except _FAULTS as error:
        return f"{type(error).__name__}: {error}"
    before, mark, _ = text.partition(MARK)
    return None if mark and placeholder in before else f"it made {text!r}"
