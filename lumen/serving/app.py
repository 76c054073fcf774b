"""The HTTP application: questions, health, figures, the page, and the calls of Label Studio."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from lumen.data.image import decode_image
from lumen.errors import DataError, LumenError
from lumen.serving.answers import describe
from lumen.serving.asking import Answer, ForgottenError, Job, answer_jobs, check_request
from lumen.serving.bodies import BoundedReceive, Fields, Question, read_question
from lumen.serving.label_studio import LabelStudio
from lumen.serving.limits import BusyError, Limits, SlowClientError, TooLargeError
from lumen.serving.metrics import Metrics
from lumen.serving.queue import JobQueue
from lumen.serving.store import ImageStore

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from lumen.inference.predictor import LumenPredictor


class ClientGoneError(LumenError):
    """The client left before its answer."""


# 499: as nginx counts a client that left.
_STATUS = {TooLargeError: 413, SlowClientError: 408, BusyError: 503, ClientGoneError: 499, DataError: 400}
_OTHER_STATUS = 422


class Service:
    """A model with what it needs to answer over HTTP; one event loop uses it.

    Args:
        predictor: The model.
        limits: Bounds of the server.
    """

    def __init__(self, predictor: "LumenPredictor", limits: Limits) -> None:
        self.predictor = predictor
        self.limits = limits
        self.store = ImageStore(max_images=limits.kept_images, max_bytes=limits.kept_bytes)
        gauges: dict[tuple[str, str], Callable[[], float]] = {
            ("lumen_waiting_questions", "Questions that wait for the model."): lambda: len(self.queue),
            ("lumen_kept_images", "Images that can be asked again without being encoded."): lambda: len(self.store),
            ("lumen_kept_bytes", "Memory of these."): lambda: self.store.num_bytes,
        }
        self.metrics = Metrics(gauges)
        compute = partial(answer_jobs, predictor, self.store)
        self.queue = JobQueue(compute, limits, note_batch=self.metrics.batches.observe)

    async def answer(self, question: Question, http: HttpRequest) -> Answer:
        """Return the answer to a question.

        Raises:
            LumenError: The question or the image is not acceptable, the queue is full, or the client left.
        """
        check_request(self.predictor, question.request)
        job = Job(question.key, None, question.request, question.heatmaps)
        if question.key in self.store:
            try:
                return await self._wait(job, http)
            except ForgottenError:
                pass  # dropped while the question waited: decoded below
        decode = partial(decode_image, question.content, "the image", max_pixels=self.limits.pixels)
        pixels = await run_in_threadpool(decode)
        return await self._wait(Job(job.key, pixels, job.request, job.heatmaps), http)

    async def _wait(self, job: Job, http: HttpRequest) -> Answer:
        """Wait for an answer, or until the client leaves."""
        answer, leaving = self.queue.ask(job), asyncio.ensure_future(_leaves(http))
        await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not answer.done():
            answer.cancel()
            self.metrics.gone.inc()
            raise ClientGoneError("the client left before its answer")
        self.metrics.images.labels(str(job.image is None).lower()).inc()
        return answer.result()


def make_app(predictor: "LumenPredictor", limits: Limits, *, images: Path | None = None) -> FastAPI:
    """Return the application.

    Args:
        predictor: The model.
        limits: Bounds of the server.
        images: Folder of the files that tasks of Label Studio may name; None for none.
    """
    service = Service(predictor, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(service.queue.run())
        yield
        # By now uvicorn has waited for the requests that were under way.
        service.queue.close()
        await running

    # The pages of FastAPI that show the interface load scripts from elsewhere.
    app = FastAPI(title="Lumen", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_exception_handler(LumenError, _explain)
    app.add_exception_handler(Exception, _fault)
    app.add_middleware(_Measured, metrics=service.metrics, limits=limits)
    _add_questions(app, service)
    _add_pages(app, service)
    LabelStudio(service.answer, predictor, limits, images).add_to(app)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    schema = Fields.model_json_schema()
    form = {**schema, "properties": {"image": {"type": "string", "format": "binary"}, **schema["properties"]}}
    text = {**schema, "properties": {"image": {"type": "string", "format": "byte"}, **schema["properties"]}}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": text}}

    @app.post("/predict", openapi_extra={"requestBody": {"content": content, "required": True}})
    async def predict(http: HttpRequest) -> JSONResponse:
        question = await read_question(http, service.limits)
        answer = await service.answer(question, http)
        return JSONResponse(await run_in_threadpool(describe, question, answer))


def _add_pages(app: FastAPI, service: Service) -> None:
    page = resources.files("lumen.serving").joinpath("page.html").read_text(encoding="utf-8")
    model = service.predictor.model

    @app.get("/", response_class=HTMLResponse)
    async def index() -> str:
        return page

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return {
            "model": dict(service.predictor.description),
            "tasks": list(model.decoders),
            "text_tasks": sorted(model.text_tasks),
            "has_heatmaps": bool(model.aligner.has_heat),
            "limits": {name: getattr(service.limits, name) for name in service.limits.__slots__},
        }

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _explain(http: HttpRequest, error: Exception) -> JSONResponse:
    """Answer an error with what came, what is taken and what to do."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), _OTHER_STATUS)
    headers = {"Retry-After": "1"} if status == 503 else {}
    if status == 408:
        headers["Connection"] = "close"
    return JSONResponse({"error": " ".join(str(error).split())}, status, headers)


async def _fault(http: HttpRequest, error: Exception) -> JSONResponse:
    """Answer an error that Lumen does not know; Starlette raises it again afterwards, for the log."""
    return JSONResponse({"error": "the server failed at this question; its log tells why"}, 500)


async def _leaves(http: HttpRequest) -> None:
    """Return when the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


class _Measured:
    """Bounds the body of each request and counts its answer.

    Args:
        app: What answers.
        metrics: What counts.
        limits: The bounds.
    """

    def __init__(self, app: "ASGIApp", metrics: Metrics, limits: Limits) -> None:
        self._app = app
        self._metrics = metrics
        self._limits = limits

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start = time.perf_counter()

        async def counted(message: "Message") -> None:
            if message["type"] == "http.response.start":
                # Only known paths: others would fill the memory with counters.
                path = getattr(scope.get("route"), "path", "other")
                self._metrics.requests.labels(path, str(message["status"])).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
            await send(message)

        await self._app(scope, BoundedReceive(receive, self._limits), counted)
