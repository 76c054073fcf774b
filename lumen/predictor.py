"""``LumenPredictor``: an image once, phrases as often as you like, answers in original pixels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from mmengine import Config
from mmengine.structures import InstanceData
from PIL import Image
from torch import Tensor

from lumen.checkpoint import load_checkpoint, load_trained_state
from lumen.config import read_config
from lumen.data.image import PAD_VALUE, read_image, render_image, to_rgb
from lumen.data.transforms import FrameImage
from lumen.errors import CheckpointError, ConfigError, DataError, PromptError
from lumen.geometry import ImageFrame
from lumen.masks import maps_to_original
from lumen.model import Lumen
from lumen.paths import CHECKOUT
from lumen.registry import MODELS, TRANSFORMS
from lumen.structures import PerceptionSample, Prompt, SharedRepresentation

DEFAULT_THRESHOLD = 0.3
_DTYPES = (torch.float32, torch.bfloat16)

ImageLike = str | PathLike[str] | Image.Image | np.ndarray


class LumenPredictor:
    """Ask a trained model for phrases in images.

    ``set_image`` runs the vision tower once; each question then costs one pass over its phrases. Asking twice, asking
    in a batch, and asking a phrase twice give the same answers as asking once.

    Args:
        model: Put in evaluation mode and moved to ``device``.
        input_hw: Height and width of the network input, as in training.
        mode: ``letterbox`` or ``stretch``, as in training.
        pad_value: Grey value beside the image, as in training.
        classes: Phrases to ask for where a question names none.
        device: Where to compute.
        dtype: ``torch.float32``, or ``torch.bfloat16`` for autocast; scores and boxes stay float32.
        description: What is known of the model, for reports.

    Raises:
        ConfigError: If ``mode`` or ``dtype`` is no such value.
    """

    def __init__(
        self,
        model: Lumen,
        *,
        input_hw: Sequence[int],
        mode: str = "letterbox",
        pad_value: int = PAD_VALUE,
        classes: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        description: Mapping[str, str] | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype must be one of {_DTYPES}, got {dtype!r}")
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.dtype = dtype
        self.classes = None if classes is None else tuple(classes)
        self.description = dict(description or model.describe())
        # The view without augmentation of the class that made the training images, so that they are framed alike.
        self._framing = FrameImage(input_hw=input_hw, mode=mode, pad_value=pad_value)
        self._frame: ImageFrame | None = None
        self._encoded: _Encoded | None = None

    @classmethod
    def from_checkpoint(
        cls,
        config_path: str | PathLike[str],
        checkpoint_path: str | PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "LumenPredictor":
        """Build the model of a config, load a checkpoint, and take input size and mode from the test pipeline.

        Args:
            config_path: The config of the run, or what the run dumped into its work folder.
            checkpoint_path: A checkpoint of that run.
            classes: See the class.
            device: The first GPU where there is one, else the CPU, when left out.
            dtype: bfloat16 on a GPU, float32 elsewhere, when left out.

        Raises:
            ConfigError: The config cannot be read, or names no ``FrameImage``.
            CheckpointError: The checkpoint, or the base model that it builds on, cannot be loaded.
        """
        config = read_config(config_path, import_roots=[CHECKOUT])
        framing = find_framing(config)
        checkpoint = load_checkpoint(checkpoint_path)
        model = _build_model(config)
        load_trained_state(model, checkpoint)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        known = {"config": str(config_path), "checkpoint": str(checkpoint_path)}
        return cls(
            model,
            input_hw=framing.input_hw,
            mode=framing.mode,
            pad_value=framing.pad_value,
            classes=classes,
            device=device,
            dtype=dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32),
            description={**model.describe(), "iter": str(checkpoint["meta"].get("iter", "?")), **known},
        )

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network input."""
        return self._framing.input_hw

    def set_image(self, image: ImageLike) -> None:
        """Encode an image; the questions that follow are about it.

        Args:
            image: Path, PIL image, or uint8 RGB array (height, width, 3).

        Raises:
            DataError: The image cannot be read, or is no such array.
        """
        frame, pixels = self._draw(_load(image))
        with self._inference():
            self._encoded = self._encode(pixels[None])
        self._frame = frame

    def predict(
        self,
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int = DEFAULT_THRESHOLD,
    ) -> InstanceData:
        """Answer phrases about the image that was set.

        Args:
            phrases: Any number of them; None for ``classes``.
            task: Task of the decoder that answers.
            score_threshold: Answers with a lower score are left out.

        Returns:
            One row per answer, best first, on the CPU: the task's ``TaskSpec.predictions``, boxes in original pixels.
            ``labels`` is the index into ``phrases``, and ``phrases`` the text; ``prompt_index`` is left out.

        Raises:
            PromptError: A phrase is not acceptable, or no decoder knows the task.
            DataError: No image was set.
        """
        self._require_image()
        question = _Question.of(self._phrases(phrases), task)
        return self._answer(self._encoded, [self._frame], question, score_threshold)[0]

    def heatmaps(
        self, phrases: Sequence[str] | None = None, *, task: str = "detection"
    ) -> Float[Tensor, "phrases height width"]:
        """Return how probable each phrase is at each pixel of the original image, on the CPU.

        A value is the heatmap's times the phrase's presence, so that a peak is as high as the score of its detection.
        The map is interpolated from the model's grid.

        Args:
            phrases: Any number of them; None for ``classes``.
            task: Task that the wording names.

        Raises:
            PromptError: A phrase is not acceptable, or no decoder knows the task.
            DataError: No image was set.
        """
        self._require_image()
        question = _Question.of(self._phrases(phrases), task)
        with self._inference():
            shared = self._share(self._encoded, [question.sample(self._frame)])
            heat = shared.heat_logits.float().sigmoid() * shared.presence_logits.float().sigmoid()[:, None, None, None]
        return maps_to_original(heat.cpu()[:, 0], self._frame)[question.unique_of]

    def predict_batch(
        self,
        images: Iterable[ImageLike],
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int = DEFAULT_THRESHOLD,
        batch_size: int = 8,
    ) -> list[InstanceData]:
        """Answer the same phrases about many images; the image that was set stays.

        Args:
            images: As ``set_image`` takes them, of any sizes.
            phrases: See ``predict``.
            task: See ``predict``.
            score_threshold: See ``predict``.
            batch_size: Images that are computed at once.

        Returns:
            One table per image, as ``predict`` returns it.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        question = _Question.of(self._phrases(phrases), task)
        drawn = [self._draw(_load(image)) for image in images]
        answers = []
        for at in range(0, len(drawn), batch_size):
            frames, pixels = zip(*drawn[at : at + batch_size], strict=True)
            with self._inference():
                encoded = self._encode(torch.stack(pixels))
            answers += self._answer(encoded, frames, question, score_threshold)
        return answers

    def _answer(
        self, encoded: "_Encoded", frames: Sequence[ImageFrame], question: "_Question", score_threshold: float | int
    ) -> list[InstanceData]:
        samples = [question.sample(frame) for frame in frames]
        with self._inference():
            samples = self.model.predict(self._share(encoded, samples), samples)
        return [question.table(sample.pred_instances.cpu(), score_threshold) for sample in samples]

    def _encode(self, pixels: Tensor) -> "_Encoded":
        images = pixels.to(self.device)
        return _Encoded(images, self.model.lmm.encode_images(images))

    def _share(self, encoded: "_Encoded", samples: Sequence[PerceptionSample]) -> SharedRepresentation:
        prompts = [sample.prompts for sample in samples]
        features = self.model.lmm.ask(encoded.states, self.input_hw, prompts, extras=self.model.extras, predicting=True)
        return self.model.align(self.model.add_images(features, encoded.images, samples))

    def _draw(self, image: np.ndarray) -> tuple[ImageFrame, Tensor]:
        frame = self._framing.draw_frame(image.shape[:2])
        drawn = render_image(image, frame, pad_value=self._framing.pad_value)
        return frame, torch.from_numpy(drawn).permute(2, 0, 1)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Compute without gradients; in bfloat16 if asked."""
        is_bfloat16 = self.dtype == torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16):
            yield

    def _phrases(self, phrases: Sequence[str] | None) -> tuple[str, ...]:
        if phrases is None and self.classes is None:
            raise PromptError("name the phrases to ask for, or give the predictor classes")
        if isinstance(phrases, str):
            raise PromptError(f"phrases must be a list of texts, got the text {phrases!r}; write [{phrases!r}]")
        return self.classes if phrases is None else tuple(phrases)

    def _require_image(self) -> None:
        if self._frame is None:
            raise DataError("no image was set; call set_image(image) first, or predict_batch(images, phrases)")


def find_framing(config: Config) -> FrameImage:
    """Return the ``FrameImage`` of a config's test pipeline, or of its validation pipeline where it has no test.

    Raises:
        ConfigError: There is none.
    """
    for name in ("test_dataloader", "val_dataloader"):
        loader = config.get(name)
        for step in loader["dataset"].get("pipeline", ()) if loader else ():
            if isinstance(step, FrameImage):
                return step
            if isinstance(step, Mapping) and _is_framing(step["type"]):
                return TRANSFORMS.build(step)
    raise ConfigError(
        f"{config.filename}: neither test_dataloader nor val_dataloader has FrameImage in its dataset's pipeline; add "
        "it, or make LumenPredictor(model, input_hw=...) yourself"
    )


def _is_framing(kind: type | str) -> bool:
    return kind is FrameImage or (isinstance(kind, str) and kind.rpartition(".")[2] == FrameImage.__name__)


def _build_model(config: Config) -> Lumen:
    try:
        return MODELS.build(config.model)
    except OSError as error:
        raise CheckpointError(
            f"the base model of {config.filename} cannot be read: {str(error).strip().splitlines()[0]} "
            "Checkpoints hold what was trained only; put the base model where the config's name_or_path says"
        ) from error


def _load(image: ImageLike) -> np.ndarray:
    """Return RGB bytes, by the same rules as the data sets."""
    if isinstance(image, str | PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.array(to_rgb(image))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"an image is a path, a PIL image or a uint8 RGB array (height, width, 3), got {came}")
    if 0 in image.shape:
        raise DataError(f"the image has no pixels: {image.shape}")
    return image


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Images as the network sees them, beside what the vision tower made of them.

    Args:
        images: uint8 input pixels, which some decoders look at themselves.
        states: Of ``encode_images``.
    """

    images: UInt8[Tensor, "images 3 height width"]
    states: Any


@dataclass(frozen=True, slots=True)
class _Question:
    """Phrases of one task; each wording is asked once, however often it is named.

    Args:
        phrases: As the caller named them.
        prompts: One per wording.
        unique_of: Prompt of each phrase.
    """

    phrases: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    unique_of: Int[Tensor, " phrases"]

    @classmethod
    def of(cls, phrases: tuple[str, ...], task: str) -> "_Question":
        position = {phrase: index for index, phrase in enumerate(dict.fromkeys(phrases))}
        prompts = tuple(Prompt(text=phrase, task=task) for phrase in position)
        return cls(phrases, prompts, torch.tensor([position[phrase] for phrase in phrases], dtype=torch.long))

    def sample(self, frame: ImageFrame) -> PerceptionSample:
        """Return a sample that asks this question about an image."""
        return PerceptionSample(
            metainfo={"prompts": self.prompts, "frame": frame, "ori_shape": frame.ori_hw, "img_shape": frame.input_hw}
        )

    def table(self, answer: InstanceData, score_threshold: float | int) -> InstanceData:
        """Turn rows per wording into rows per phrase, best first; rows keep their order where scores are equal."""
        is_asked = self.unique_of[:, None] == answer.prompt_index
        phrase, row = (is_asked & (answer.scores >= score_threshold)).nonzero(as_tuple=True)
        order = answer.scores[row].argsort(descending=True, stable=True)
        phrase, rows = phrase[order], answer[row[order]]
        table = InstanceData(**{key: value for key, value in rows.items() if key not in ("prompt_index", "labels")})
        table.labels = phrase
        table.phrases = [self.phrases[index] for index in phrase.tolist()]
        return table
