"""The chat template that shows images is found wherever a repository keeps it."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from zoo import USER, chat

from lumen.errors import ConfigError
from lumen.lmm.tokens.templates import MARK, _text_of, find_template, image_and, render

SHOWS = chat(USER, "<image>\n")
OTHER = chat(USER, "<image> ")
TEXT_ONLY = "{% for message in messages %}{{ '<s>' + message['content'] + '</s>' }}{% endfor %}"
PRINTS_PARTS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
REFUSES = "{{ raise_exception('no images here') }}"


@pytest.fixture
def folder(repositories, tmp_path):
    copy = Path(shutil.copytree(repositories("llava"), tmp_path / "copy"))
    (copy / "chat_template.jinja").unlink()
    return copy


def find(folder, **options):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return find_template(str(folder), tokenizer, placeholder="<image>", **options)


def write(folder, *, processor=None, jinja=None, tokenizer=None):
    if processor:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": processor}))
    if jinja:
        (folder / "chat_template.jinja").write_text(jinja)
    if tokenizer:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": tokenizer}))


@pytest.mark.parametrize("text_only", [TEXT_ONLY, PRINTS_PARTS, REFUSES])
def test_the_processors_template_comes_before_a_tokenizers_for_texts(text_only, folder):
    write(folder, processor=SHOWS, tokenizer=text_only)
    assert find(folder) == SHOWS


def test_the_processors_template_comes_before_another_that_shows_images(folder):
    write(folder, processor=SHOWS, tokenizer=OTHER)
    assert find(folder) == SHOWS


@pytest.mark.parametrize("place", ["jinja", "tokenizer"])
def test_the_tokenizers_template_is_taken_where_it_shows_images(place, folder):
    write(folder, processor=TEXT_ONLY, **{place: SHOWS})
    assert find(folder) == SHOWS


def test_the_familys_template_comes_last(folder):
    assert find(folder, fallback=OTHER) == OTHER
    write(folder, tokenizer=TEXT_ONLY)
    assert find(folder, fallback=OTHER) == OTHER
    write(folder, tokenizer=SHOWS)
    assert find(folder, fallback=OTHER) == SHOWS


@pytest.mark.parametrize("as_file", [False, True])
def test_a_given_template_comes_first(as_file, folder):
    write(folder, processor=SHOWS)
    given = OTHER
    if as_file:
        given = str(folder / "own.jinja")
        Path(given).write_text(OTHER)
    assert find(folder, given=given) == OTHER


def test_a_given_template_is_used_or_refused(folder):
    write(folder, processor=SHOWS)
    with pytest.raises(ConfigError, match="chat_template: TypeError"):
        find(folder, given=TEXT_ONLY)
    with pytest.raises(ConfigError, match="a jinja template or the path of a file, got 'no_such_file'"):
        find(folder, given="no_such_file")


def test_what_is_wrong_with_each_template_is_named(folder):
    with pytest.raises(ConfigError, match=r"there is none\. Give one as chat_template"):
        find(folder)
    write(folder, processor=REFUSES, tokenizer=TEXT_ONLY)
    with pytest.raises(ConfigError, match=r"chat_template.json: TemplateError: no images here; the tokenizer's: Type"):
        find(folder)


def test_a_template_that_asks_for_the_date_gets_the_same_every_day(folder):
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %-d.%-m.') }} {% endif %}" + SHOWS
    write(folder, processor=dated)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    messages = [{"role": "user", "content": image_and(MARK)}]
    text = render(tokenizer, messages, add_generation_prompt=True, chat_template=find(folder))
    assert text.startswith("26 Jul 2024, 26.7. USER: <image>")


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'a' * 10**10 }}",
        "{% set n = 10**9 %}{{ messages * n }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '{:>99999999999}'.format(1) }}",
        "{{ 'a'.center(99999999999) }}",
        "{{ 'a'.center(0xfffffffff) }}",
        "{{ 'a'.center('99999999999'|int) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t ~ '' ~ n.t %}{% endfor %}",
        "{# long #}" + "a" * 200_000,
    ],
)
def test_a_template_that_would_fill_the_memory_is_not_rendered(folder, bomb):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with pytest.raises(ConfigError, match=r"has no chat template .* (refused|at most)"):
        find_template(str(folder), tokenizer, placeholder="<image>", given="{#-#}" + bomb)


def test_loops_that_end_are_rendered_and_endless_calls_are_told(folder):
    counted = "{% for m in messages %}{% for i in range(2) %}{% set a = m.role ~ m.role %}{% endfor %}{% endfor %}"
    assert find(folder, given=counted + SHOWS) == counted + SHOWS
    with pytest.raises(ConfigError, match="RecursionError"):
        find(folder, given="{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.jinja").write_bytes(b"{{ \xff\xfe }}")
    with pytest.raises(ConfigError, match=r"a.jinja' cannot be read .*give a text file in UTF-8"):
        _text_of(str(tmp_path / "a.jinja"))
