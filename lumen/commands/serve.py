"""``lumen serve``: a model behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from lumen.commands.options import (
    WRITTEN,
    BaseModel,
    CheckpointFile,
    ConfigFile,
    Device,
    DialectName,
    LmmName,
    MaxNewTokens,
    MaxPixels,
    ModelFolder,
    choose_source,
)
from lumen.errors import DataError
from lumen.inference.sources import MAX_NEW_TOKENS, describe_source, open_model
from lumen.serving.limits import Limits

EXAMPLES = (
    "Examples:",
    "lumen serve --model work_dirs/detection_nano_shapes",
    "lumen serve --model exported/ --port 9000 --host 0.0.0.0",
    "lumen serve --lmm Qwen/Qwen3-VL-4B-Instruct",
    "curl -F image=@photo.jpg -F phrases=star -F phrases='red ring' http://127.0.0.1:8000/predict",
)
_DEFAULT = Limits()

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for a free one.")]
Host = Annotated[
    str, typer.Option(help="Address to listen at; 0.0.0.0 for all. There is no password: let a proxy ask for one.")
]
Images = Annotated[
    Path | None, typer.Option(help="Folder of the files that Label Studio names as local storage; none by default.")
]
MaxBytes = Annotated[int, typer.Option(min=1, help="Bytes of a request, image included.")]
MaxImagePixels = Annotated[int, typer.Option(min=1, help="Height times width of an image.")]
MaxPhrases = Annotated[int, typer.Option(min=1, help="Phrases of a question.")]
MaxQueue = Annotated[int, typer.Option(min=1, help="Questions that wait; further ones are answered 503.")]
BodySeconds = Annotated[float, typer.Option(min=1, help="Time in which a request must have arrived.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Questions that are asked together.")]
KeptImages = Annotated[int, typer.Option(min=1, help="Images whose next question costs its phrases alone.")]
KeptBytes = Annotated[int, typer.Option(min=1, help="Memory of these, in bytes.")]


def serve(
    model: ModelFolder = None,
    base_model: BaseModel = None,
    config: ConfigFile = None,
    checkpoint: CheckpointFile = None,
    lmm: LmmName = None,
    dialect: DialectName = None,
    max_new_tokens: MaxNewTokens = MAX_NEW_TOKENS,
    max_pixels: MaxPixels = None,
    device: Device = None,
    port: Port = 8000,
    host: Host = "127.0.0.1",
    images: Images = None,
    max_bytes: MaxBytes = _DEFAULT.body_bytes,
    max_image_pixels: MaxImagePixels = _DEFAULT.pixels,
    max_phrases: MaxPhrases = _DEFAULT.phrases,
    max_queue: MaxQueue = _DEFAULT.queue,
    body_seconds: BodySeconds = _DEFAULT.body_seconds,
    max_batch: MaxBatch = _DEFAULT.batch,
    kept_images: KeptImages = _DEFAULT.kept_images,
    kept_bytes: KeptBytes = _DEFAULT.kept_bytes,
) -> None:
    """Serve a model over HTTP: a page to try it, /predict for programs, /label-studio for Label Studio.

    Ends at SIGTERM or Ctrl-C, once the questions that wait are answered.
    """
    from lumen.serving.server import serve as run

    if images is not None and not images.is_dir():
        raise DataError(f"there is no folder {str(images)!r}; --images names the folder of local files")
    bare = (lmm, dialect, max_new_tokens, max_pixels)
    source = choose_source(WRITTEN if lmm else "detection", bare, (model, config, checkpoint, base_model))
    print(f"model: {describe_source(source)}")
    limits = Limits(
        body_bytes=max_bytes,
        pixels=max_image_pixels,
        phrases=max_phrases,
        queue=max_queue,
        body_seconds=body_seconds,
        batch=max_batch,
        kept_images=kept_images,
        kept_bytes=kept_bytes,
    )
    run(lambda: open_model(source, device), limits, host=host, port=port, images=images)
