"""Label Studio's calls to an ML backend: boxes of the labels that a project names, as predictions to correct.

Format: https://labelstud.io/guide/ml_create and https://labelstud.io/guide/predictions. Coordinates are
percent of the image.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from lumen.data.image import check_inside
from lumen.errors import ConfigError, DataError
from lumen.inference.reports import Request
from lumen.interop.label_studio import LOCAL_FILES, make_prediction, rectangles
from lumen.serving.asking import Answer
from lumen.serving.bodies import Fields, Question, from_base64, make_request, read_fields, read_json
from lumen.serving.limits import Limits

if TYPE_CHECKING:
    from lumen.inference.predictor import LumenPredictor

PREFIX = "/label-studio"
MAX_TASKS = 100
_MAX_CONFIG = 200_000
_FINDERS = ("detection", "written_boxes", "segmentation")


class Tasks(BaseModel):
    """What Label Studio sends for predictions; fields that are not read are left out."""

    model_config = ConfigDict(extra="ignore")
    tasks: list[dict[str, Any]]
    label_config: str


@dataclass(frozen=True, slots=True)
class BoxLabels:
    """The control of a labelling config that takes boxes.

    Args:
        from_name: Its name.
        to_name: Name of the image that it labels.
        field: Field of ``task["data"]`` that holds the image.
        labels: Its labels: the phrases that are asked for.
    """

    from_name: str
    to_name: str
    field: str
    labels: tuple[str, ...]


class LabelStudio:
    """The calls below ``/label-studio``: health, setup, predict, webhook.

    Args:
        answer: Answers a question.
        predictor: The model.
        limits: Bounds of the server.
        images: Folder of the files that tasks may name; None for none.
    """

    def __init__(
        self,
        answer: Callable[[Question, HttpRequest], Awaitable[Answer]],
        predictor: "LumenPredictor",
        limits: Limits,
        images: Path | None,
    ) -> None:
        self._answer = answer
        self._limits = limits
        self._images = images
        self._finder = next((task for task in _FINDERS if task in predictor.model.decoders), None)
        content = " ".join(f"{key}={value}" for key, value in sorted(predictor.description.items()))
        self.version = f"lumen-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def add_to(self, app: FastAPI) -> None:
        """Add the calls to an application."""

        @app.get(PREFIX + "/health")
        async def health() -> dict[str, str]:
            return {"status": "UP", "model_class": "Lumen"}

        @app.post(PREFIX + "/setup")
        async def setup(http: HttpRequest) -> dict[str, str]:
            given = await read_json(http)
            config = given.get("schema", "")
            if config:  # an empty project has none yet
                read_labels(config)
            return {"model_version": self.version}

        @app.post(PREFIX + "/predict")
        async def predict(http: HttpRequest) -> dict[str, Any]:
            given = read_fields(Tasks, await read_json(http))
            return {"results": await self.predictions(given, http), "model_version": self.version}

        @app.post(PREFIX + "/webhook")
        async def webhook(http: HttpRequest) -> dict[str, str]:
            await read_json(http)
            return {"status": "nothing is learned from annotations"}

    async def predictions(self, given: Tasks, http: HttpRequest) -> list[dict[str, Any]]:
        """Return a prediction for each task.

        Raises:
            ConfigError: The model finds no boxes, there are too many tasks, or the labelling config takes no boxes.
            DataError: An image cannot be read.
        """
        if self._finder is None:
            raise ConfigError(f"this model finds no boxes; Label Studio needs a decoder for one of {_FINDERS}")
        if len(given.tasks) > MAX_TASKS:
            raise ConfigError(f"{len(given.tasks)} tasks came, the limit is {MAX_TASKS}: send them in parts")
        control = read_labels(given.label_config)
        request = make_request(Fields(phrases=list(control.labels), task=self._finder), self._limits)
        # One after the other: so a client has one question in the queue.
        return [await self._predict(task, control, request, http) for task in given.tasks]

    async def _predict(
        self, task: dict[str, Any], control: BoxLabels, request: Request, http: HttpRequest
    ) -> dict[str, Any]:
        data = task.get("data")
        source = data.get(control.field) if isinstance(data, dict) else None
        content = await run_in_threadpool(read_source, source, self._images, self._limits)
        question = Question(content, hashlib.sha256(content).hexdigest(), request, "rle", False)
        answer = await self._answer(question, http)
        names = {"from_name": control.from_name, "to_name": control.to_name}
        return make_prediction(answer.table, rectangles(answer.table, answer.size_hw, **names), self.version)


def read_labels(config: str) -> BoxLabels:
    """Return the first control of a labelling config that takes boxes.

    Raises:
        ConfigError: The config cannot be read, or takes no boxes on an image.
    """
    if not isinstance(config, str) or len(config) > _MAX_CONFIG:
        raise ConfigError(f"a labelling config is a text of at most {_MAX_CONFIG} letters")
    try:
        root = ElementTree.fromstring(config)
    except (ElementTree.ParseError, UnicodeError) as error:  # json can hold halves of surrogate pairs
        raise ConfigError(f"the labelling config cannot be read as XML: {error}") from error
    images = {element.get("name"): element.get("value", "") for element in root.iter("Image")}
    for element in root.iter("RectangleLabels"):
        labels = tuple(dict.fromkeys(label.get("value", "") for label in element.iter("Label")))
        name, shown = element.get("name"), element.get("toName")
        if name and shown in images and images[shown].startswith("$") and labels and all(labels):
            return BoxLabels(name, str(shown), images[shown][1:], labels)
    found = sorted({element.tag for element in root.iter() if element.get("toName")})
    raise ConfigError(
        "the labelling config has no <RectangleLabels name toName> with <Label value> for an <Image value='$...'>, "
        f"its controls are {found}: boxes are what this backend predicts"
    )


def read_source(source: Any, images: Path | None, limits: Limits) -> bytes:
    """Return the image file that a task names: in base64 (``data:``), or a file of Label Studio's local storage.

    Raises:
        DataError: It is something else, missing, too large, or outside of the folder.
    """
    if isinstance(source, str) and source.startswith("data:"):
        return from_base64(source)
    if not isinstance(source, str) or not source:
        raise DataError(f"the task names no image, got {source!r:.80}")
    try:
        parts = urlsplit(source)
        named = parse_qs(parts.query).get("d", [""])[0]
    except ValueError as error:  # an address may be given that is none
        raise DataError(f"the image {source!r:.80} is not an address: {error}") from error
    if not parts.path.endswith(LOCAL_FILES) or not named:
        raise DataError(
            f"the image {source!r:.80} is not fetched: give it as data:image/...;base64,... or by local storage "
            f"({LOCAL_FILES}?d=PATH), with lumen serve --images FOLDER"
        )
    if images is None:
        raise DataError(f"the image {named!r} is a local file, and no folder is served: lumen serve --images FOLDER")
    path = images / unquote(named).lstrip("/")
    check_inside(path, images)
    try:
        if not path.is_file():
            raise DataError(f"there is no file {named!r} in the folder of --images")
        if path.stat().st_size > limits.body_bytes:
            raise DataError(f"{named}: {path.stat().st_size} bytes, the limit is {limits.body_bytes}")
        return path.read_bytes()
    except OSError as error:  # a name that is too long, a file that may not be read
        raise DataError(f"the file {named!r:.80} cannot be read: {error.strerror}") from error
