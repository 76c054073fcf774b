"""Bodies of requests: read in bounded time and memory, and turned into questions."""

import asyncio
import base64
import binascii
import hashlib
import json
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.types import Message, Receive

from lumen.errors import ConfigError, DataError
from lumen.inference.reports import Request
from lumen.serving.limits import Limits, SlowClientError, TooLargeError


class Fields(BaseModel):
    """The fields of a question beside the image, in a form or in JSON."""

    model_config = ConfigDict(extra="forbid")

    phrases: Annotated[list[str], Field(description="Phrases, sentences or questions; for pose the category.")] = []
    task: Annotated[str, Field(description="Task of the decoder that answers.")] = "detection"
    threshold: Annotated[float | None, Field(description="Lowest score that is kept; the task's own if left out.")] = (
        None
    )
    keypoints: Annotated[list[str], Field(description="Names of the keypoints, for pose.")] = []
    masks: Annotated[Literal["rle", "png"], Field(description="Form of masks: COCO run lengths, or PNG.")] = "rle"
    heatmaps: Annotated[bool, Field(description="Whether to answer a heatmap per phrase, as PNG.")] = False


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it came.

    Args:
        content: The image file.
        key: Its hash.
        request: What is asked.
        masks: ``rle`` or ``png``.
        heatmaps: Whether heatmaps are wanted.
    """

    content: bytes
    key: str
    request: Request
    masks: str
    heatmaps: bool


class BoundedReceive:
    """ASGI's ``receive`` with a bound on bytes and time of the body.

    What comes beyond the bound is read and dropped until the body ends or its time is over: a client that is still
    sending could not read an answer.

    Args:
        receive: Of the server.
        limits: The bounds.
    """

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._end = time.monotonic() + limits.body_seconds
        self._num_bytes = 0
        self._is_done = False

    async def __call__(self) -> Message:
        """Return the next message.

        Raises:
            SlowClientError: The body did not arrive in time.
            TooLargeError: It has more bytes than the limit.
        """
        while True:
            message = await self._next()
            if message["type"] != "http.request" or self._is_done:
                return message
            self._num_bytes += len(message.get("body", b""))
            self._is_done = not message.get("more_body", False)
            if self._num_bytes <= self._limits.body_bytes:
                return message
            if self._is_done:
                raise TooLargeError(
                    f"the request has {self._num_bytes} bytes, the limit is {self._limits.body_bytes}: send a smaller "
                    "image"
                )

    async def _next(self) -> Message:
        if self._is_done:  # the client may take its time to go away
            return await self._receive()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._end - time.monotonic()):
                return await self._receive()
        except TimeoutError:
            raise SlowClientError(
                f"{self._num_bytes} bytes of the request came in {self._limits.body_seconds:g} s, which is the limit: "
                "send a smaller image, or over a faster connection"
            ) from None


async def read_question(http: HttpRequest, limits: Limits) -> Question:
    """Return the question of a request: a form with the file ``image``, or JSON with ``image`` in base64.

    Raises:
        ConfigError: The body has another form, or a field is unknown or not accepted.
        DataError: There is no image.
        TooLargeError: The body is too large.
        SlowClientError: It did not arrive in time.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        given = await _read_form(http, limits)
    elif kind == "application/json":
        given = await read_json(http)
        image = given.pop("image", None)
        given["image"] = None if image is None else from_base64(image)
    else:
        raise ConfigError(f"send multipart/form-data or application/json, got the content type {kind!r}")
    content = given.pop("image")
    if not content:
        raise DataError("the request holds no image: send the file in the field 'image', in JSON as base64")
    fields = read_fields(Fields, given)
    return Question(
        content=content,
        key=hashlib.sha256(content).hexdigest(),
        request=make_request(fields, limits),
        masks=fields.masks,
        heatmaps=fields.heatmaps,
    )


def make_request(fields: Fields, limits: Limits) -> Request:
    """Return what is asked.

    Raises:
        ConfigError: There are too many phrases, or the task lacks what it needs.
    """
    number = len(fields.phrases) + len(fields.keypoints)
    if number > limits.phrases:
        raise ConfigError(f"the question has {number} phrases, the limit is {limits.phrases}: ask several questions")
    phrases = tuple(fields.phrases) or (("",) if fields.task == "caption" else ())
    if not phrases:
        raise ConfigError("name at least one phrase in the field 'phrases'")
    return Request(phrases, fields.task, fields.threshold, tuple(fields.keypoints))


async def read_json(http: HttpRequest) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        ConfigError: It is something else.
    """
    content = await http.body()
    try:
        given = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the body cannot be read as JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"the body must be a JSON object, got a {type(given).__name__}")
    return given


def read_fields(kind: type[BaseModel], given: dict[str, Any]) -> Any:
    """Return the fields of a body.

    Raises:
        ConfigError: One is unknown, missing or not accepted.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False)
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r:.80}" for one in found]
        raise ConfigError(f"{'; '.join(faults[:5])}. Known fields are image, {', '.join(kind.model_fields)}") from error


def from_base64(text: Any) -> bytes:
    """Return the bytes of base64, with or without ``data:...;base64,`` before it.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(text, str):
        raise DataError(f"an image in JSON is a text in base64, got a {type(text).__name__}")
    coded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the image cannot be read as base64: {error}") from error


async def _read_form(http: HttpRequest, limits: Limits) -> dict[str, Any]:
    try:
        form = await http.form(max_files=1, max_fields=2 * limits.phrases + 16)
    except HTTPException as error:
        raise ConfigError(f"the form cannot be read: {error.detail}") from error
    given: dict[str, Any] = {"image": None}
    for name in form:
        values = form.getlist(name)
        if name == "image":
            if not isinstance(values[0], UploadFile):
                raise DataError("the field 'image' must be a file, got a text: in a form, images are uploaded")
            given["image"] = await values[0].read()
        elif name in ("phrases", "keypoints"):
            given[name] = values
        else:
            given[name] = values[0] if len(values) == 1 else values
    await form.close()
    return given
