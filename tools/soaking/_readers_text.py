"""Readers of texts: phrases, questions, what an LMM writes, templates, requests over HTTP."""

import base64
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from lumen.engine.check_config import parse_overrides
from lumen.errors import LumenError, PromptError
from lumen.inference.bare import bare_predictor
from lumen.inference.questions import Question
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.dialects import DIALECTS, choose_dialect
from lumen.lmm.nano.tokenizer import CHAT_TEMPLATE
from lumen.lmm.tokens.phrases import PromptEncoder
from lumen.lmm.tokens.questions import TextEncoder
from lumen.lmm.tokens.templates import find_template
from lumen.prompts import LOC_TOKEN, read_template
from lumen.serving.bodies import Fields, from_base64, make_request, read_fields
from lumen.serving.label_studio import Tasks, read_labels, read_source
from lumen.serving.limits import Limits
from lumen.structures import Prompt
from soaking._reader import Reader, text_reader, tree_reader

SIZE_HW = (336, 448)
BOXES = [[32.0, 16.0, 200.0, 300.0], [4.0, 8.0, 15.0, 16.0]]
TEMPLATES = [
    CHAT_TEMPLATE,
    "{% for m in messages %}<s>{{ m.role }}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}"
    "{{ c.text | trim }}{% endif %}{% endfor %}</s>{% endfor %}{{ strftime_now('%d %b %Y') }}",
]
LABELS = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image"><Label value="star"/>'
    '<Label value="red ring" background="#fff"/></RectangleLabels></View>'
)
FIELDS = {"phrases": ["star", "red ring"], "task": "detection", "threshold": 0.3, "keypoints": [], "masks": "rle"}
TASKS = {"tasks": [{"id": 1, "data": {"image": "data:image/png;base64,aGVsbG8="}}], "label_config": LABELS}
OWN_DIALECT = {"name": "own", "question": "find {text}", "separator": ", ", "score": "coordinates", "codec": {}}
OWN_TEMPLATE = {"name": "own", "before": "where is ", "after": "?", "answer": f"It is {LOC_TOKEN}."}


def text_readers() -> list[Reader]:
    """Return the readers of texts; the packaged nano is loaded for its tokenizer."""
    adapter = bare_predictor("nano", device="cpu").model.lmm
    return [*_prompt_readers(adapter), *_answer_readers(), *_template_readers(adapter.encoder), *_request_readers()]


def _prompt_readers(adapter: HFAdapter) -> list[Reader]:
    encoder, text = adapter.encoder, adapter.text
    phrases = ["star", "the red ring left of the large star", "caf\u00e9 \U0001f436", "a, b; c"]
    history = [["what is it?", "a star"], ["where?", "on the left"]]
    return [
        text_reader("phrases", 120, phrases, lambda phrase: encoder.suffix(phrase, "detection")),
        text_reader("questions", 60, ["is it red?", "what is left of it?"], lambda words: _ask(text, words)),
        tree_reader("conversations, history", 40, history, lambda tree: _turn(text, tree)),
        tree_reader("phrases, lists", 30, phrases, lambda tree: Question.of(tree, "detection")),
        text_reader("--cfg-options", 20, ["a.b=1", "_a.0.c=[1,2]", "x='y'"], lambda words: parse_overrides([words])),
    ]


def _ask(text: TextEncoder, words: str) -> Any:
    return text.suffix(Prompt(words, task="vqa", answer="yes"))


def _turn(text: TextEncoder, history: Any) -> Any:
    return text.turn(Question.turn(history, "and now?").prompts[0])


def _answer_readers() -> list[Reader]:
    readers = []
    for name, dialect in DIALECTS.items():
        points = [[10.0, 20.0], [300.5, 250.25]]
        values = points if name.startswith("molmo") else BOXES
        texts = [dialect.codec.encode(values, SIZE_HW, "star"), dialect.codec.encode(values[:1], SIZE_HW, "a [1,2] b")]
        readers.append(
            text_reader(f"answers, {name}", 20, texts, lambda words, codec=dialect.codec: codec.decode(words, SIZE_HW))
        )
    return readers


def _template_readers(encoder: PromptEncoder) -> list[Reader]:
    def render(words: str) -> str:
        if "{" not in words:
            raise PromptError("the path of a file, not a template")
        return find_template("nano", encoder.tokenizer, placeholder=encoder.placeholder, given=words)

    return [
        text_reader("chat templates", 10, TEMPLATES, render),
        tree_reader("dialects of a config", 20, OWN_DIALECT, lambda tree: choose_dialect(tree, "llava")),
        tree_reader("templates of a config", 20, OWN_TEMPLATE, _read_template),
    ]


def _read_template(tree: Any) -> Any:
    if not isinstance(tree, dict | str):
        raise PromptError("a config holds a name or a dict here")
    return read_template(tree)


def _request_readers() -> list[Reader]:
    limits = Limits()
    folder = Path(mkdtemp())
    (folder / "b").mkdir()
    for name in ("a.png", "b/c.png"):
        (folder / name).touch()
    sources = ["/data/local-files/?d=a.png", "http://host/data/local-files/?d=b%2Fc.png"]
    coded = ["data:image/png;base64," + base64.b64encode(bytes(range(40))).decode(), "aGVsbG8="]

    def tasks(tree: Any) -> Any:
        read = read_fields(Tasks, tree)
        labels = read_labels(read.label_config)
        return [read_source(_data_of(task).get(labels.field), None, limits) for task in read.tasks]

    return [
        tree_reader("requests, fields", 60, FIELDS, lambda tree: make_request(read_fields(Fields, tree), limits)),
        text_reader("requests, base64", 40, coded, from_base64),
        text_reader("Label Studio, config", 30, [LABELS], read_labels),
        text_reader("Label Studio, sources", 30, sources, lambda source: read_source(source, folder, limits)),
        tree_reader("Label Studio, tasks", 30, TASKS, tasks),
    ]


def _data_of(task: dict[str, Any]) -> dict[str, Any]:
    data = task.get("data")
    if not isinstance(data, dict):
        raise LumenError("the task has no data")
    return data
