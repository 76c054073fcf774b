"""``LumenPredictor``: an image once, phrases and questions as often as you like, answers in original pixels."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from PIL import Image
from torch import Tensor

from lumen.data.image import PAD_VALUE, as_rgb
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import Skeleton
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views
from lumen.errors import ConfigError, DataError, PromptError
from lumen.inference.asked_image import AskedImage
from lumen.inference.compute import DTYPES, SharedModel, choose_device, require_batch
from lumen.inference.conversation import Reply
from lumen.inference.drawn import DrawnImage, answer_drawn, draw_image
from lumen.inference.pretrained import from_pretrained, load_trained
from lumen.inference.questions import question_about, require_threshold
from lumen.inference.tiles import Tiles
from lumen.lmm.encoded import EncodedImages
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform

ImageLike = str | PathLike[str] | Image.Image | np.ndarray


class LumenPredictor:
    """Ask a trained model about images: phrases, sentences, keypoints, questions in words.

    ``set_image`` runs the vision tower once, and the first question runs the LLM over the prefix; each
    later question costs one pass over its phrases alone. The next image replaces the last one. Asking twice,
    asking in a batch, and asking a phrase twice give the same answers as asking once.

    Threads share a predictor by ``predictor.image(image).predict(...)`` and ``predict_batch``. The image that
    ``set_image`` sets is one for all threads: a question after it may be about the image of another thread.

    Args:
        model: Put in evaluation mode and moved to ``device``.
        input_hw: Height and width of the network input, as in training; the model's own when left out.
        mode: ``letterbox`` or ``stretch``, as in training.
        pad_value: Grey value beside the image, as in training.
        views: How images and objects are framed, instead of the three arguments above; built from them when left out.
        classes: Phrases to ask for where a question names none.
        device: Where to compute.
        dtype: ``torch.float32``, or ``torch.bfloat16`` for autocast; scores and boxes stay float32.
        description: What is known of the model, for reports.

    Raises:
        ConfigError: If ``mode`` or ``dtype`` is not an accepted value, or ``input_hw`` and ``views`` are both given.
    """

    def __init__(
        self,
        model: Lumen,
        *,
        input_hw: Sequence[int] | None = None,
        mode: str = "letterbox",
        pad_value: int = PAD_VALUE,
        views: Views | None = None,
        classes: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        description: Mapping[str, str] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        if input_hw is not None and views is not None:
            raise ConfigError(f"give input_hw or views, not both, got input_hw={input_hw} and views={views}")
        input_hw = model.inputs.input_hw if input_hw is None else input_hw
        self._shared = SharedModel(model, device=torch.device(device), dtype=dtype)
        self.model = self._shared.model
        self.device, self.dtype = self._shared.device, dtype
        self.classes = None if classes is None else tuple(classes)
        self.description = dict(description or model.describe())
        # Views of the classes that framed the training images, without augmentation, so that the framing is the same.
        self._views = views or Views(
            ResizeToInput(input_hw=input_hw, mode=mode, pad_value=pad_value),
            CropInstance(input_hw=input_hw, pad_value=pad_value),
            AskKeypoints(),
        )
        self._asked: AskedImage | None = None

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
            ConfigError: The config cannot be read, or names neither ``ResizeToInput`` nor ``CropInstance``.
            CheckpointError: The checkpoint, or the base model that it builds on, cannot be loaded.
        """
        trained = load_trained(config_path, checkpoint_path)
        device, dtype = choose_device(device, dtype)
        return cls(
            trained.model,
            views=trained.views,
            classes=classes,
            device=device,
            dtype=dtype,
            description=trained.description,
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        types: Collection[type] = (),
        base_model: str | PathLike[str] | None = None,
        revision: str | None = None,
        classes: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "LumenPredictor":
        """Open a folder that ``tools/export.py`` wrote; see ``lumen.inference.pretrained.from_pretrained``.

        Args:
            folder: The folder, or ``org/name``, a repository of the Hugging Face Hub.
            types: Classes of plug-ins that may be built.
            base_model: Folder or model id of the base model, if it is not the folder that is named in this one. A model
                id that only the folder names is not downloaded.
            revision: Branch, tag or commit of the repository.
            classes: Those of the folder when left out.
            device: See ``from_checkpoint``.
            dtype: See ``from_checkpoint``.

        Raises:
            CheckpointError: The folder, or the base model that it builds on, cannot be loaded.
            ConfigError: ``revision`` is given for a folder.
        """
        loaded = from_pretrained(folder, types=types, base_model=base_model, revision=revision)
        device, dtype = choose_device(device, dtype)
        return cls(
            loaded.model,
            views=loaded.views,
            classes=loaded.classes if classes is None else classes,
            device=device,
            dtype=dtype,
            description={**loaded.description, "folder": str(folder)},
        )

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network input."""
        return self._views.whole.input_hw

    def set_image(self, image: ImageLike) -> None:
        """Encode an image; the questions that follow are about it.

        Args:
            image: Path, PIL image, or uint8 RGB array (height, width, 3).

        Raises:
            DataError: The image cannot be read, or is not such an array.
        """
        self._asked = self.image(image)

    def image(self, image: ImageLike) -> AskedImage:
        """Encode an image and return what can be asked about it; the image that was set stays.

        Threads use this: an answer then belongs to the image whatever the others ask meanwhile.

        Args:
            image: See ``set_image``.

        Raises:
            DataError: See ``set_image``.
        """
        pixels = _own_pixels(image)
        drawn = self.draw(pixels)
        return self._asked_image(pixels, drawn.frame, self._shared.encode(drawn.pixels[None], cache_prefix=True))

    def predict(
        self,
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int | None = None,
        tiles: Tiles | int | None = None,
    ) -> InstanceData:
        """Answer phrases about the image that was set; see ``AskedImage.predict``."""
        return self._current().predict(phrases, task=task, score_threshold=score_threshold, tiles=tiles)

    def pose(
        self,
        category: str,
        keypoints: Sequence[str] | Skeleton,
        boxes: Any = None,
        *,
        score_threshold: float | int | None = None,
        batch_size: int = 16,
    ) -> InstanceData:
        """Find keypoints in the image that was set; see ``AskedImage.pose``."""
        options = {"score_threshold": score_threshold, "batch_size": batch_size}
        return self._current().pose(category, keypoints, boxes, **options)

    def answer(self, question: str) -> str:
        """Answer a question about the image that was set, in words; see ``AskedImage.answer``."""
        return self._current().answer(question)

    def caption(self, instruction: str = "") -> str:
        """Describe the image that was set; see ``AskedImage.caption``."""
        return self._current().caption(instruction)

    def chat(self, history: Sequence[Sequence[str]], question: str) -> str:
        """Answer the next question of a conversation about the image that was set; see ``AskedImage.chat``."""
        return self._current().chat(history, question)

    def converse(
        self,
        text: str,
        history: Sequence[Sequence[str]] = (),
        *,
        slot_routes: Mapping[str, str] | None = None,
        score_threshold: float | int | None = None,
    ) -> Reply:
        """Go on with a conversation about the image that was set; see ``AskedImage.converse``."""
        options = {"slot_routes": slot_routes, "score_threshold": score_threshold}
        return self._current().converse(text, history, **options)

    def heatmaps(
        self, phrases: Sequence[str] | None = None, *, task: str = "detection"
    ) -> Float[Tensor, "phrases height width"]:
        """Return the heatmaps of phrases on the image that was set; see ``AskedImage.heatmaps``."""
        return self._current().heatmaps(phrases, task=task)

    def predict_batch(
        self,
        images: Iterable[ImageLike],
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int | None = None,
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
        require_batch(batch_size)
        if isinstance(images, str | PathLike | Image.Image | np.ndarray) or not isinstance(images, Iterable):
            raise DataError(f"images are a list of images, got a {type(images).__name__}; write [image]")
        ask = {"task": task, "score_threshold": score_threshold}
        answers = self.predict_drawn([], phrases, **ask)  # what cannot be asked is refused before an image is read
        waiting = iter(images)
        # Drawn batch by batch, so that memory does not grow with the number of images.
        while drawn := [self.draw(image) for image in islice(waiting, batch_size)]:
            answers += self.predict_drawn(drawn, phrases, **ask)
        return answers

    def draw(self, image: ImageLike) -> DrawnImage:
        """Read an image and resample it to the network input; the model is not needed, so threads can read ahead.

        Args:
            image: See ``set_image``.

        Raises:
            DataError: See ``set_image``.
        """
        return draw_image(as_rgb(image), self._views.whole)

    def predict_drawn(
        self,
        images: Sequence[DrawnImage],
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int | None = None,
    ) -> list[InstanceData]:
        """Answer the same phrases about some images, computed at once where they have one input size.

        Args:
            images: Any number of them, as memory allows.
            phrases: See ``predict``.
            task: See ``predict``.
            score_threshold: See ``predict``.

        Returns:
            One table per image, as ``predict`` returns it.
        """
        question = question_about(self.model, phrases, task, self.classes)
        require_threshold(score_threshold)
        return answer_drawn(self._shared, images, question, score_threshold)

    def ask_together(
        self, images: Sequence[ImageLike], asked: Sequence[tuple[Sequence[str], str, float | None]]
    ) -> list[tuple[AskedImage, InstanceData]]:
        """Encode some images in one pass and answer a question about each; the image that was set stays.

        Args:
            images: As ``set_image`` takes them, of any sizes.
            asked: Phrases (at least one), task and score threshold for each image; see ``predict``.

        Returns:
            For each image what ``image`` returns, with its first question behind it, and the table of the answer.

        Raises:
            DataError: An image cannot be read, or there are not as many questions as images.
            PromptError: A question has no phrase, or is not acceptable; see ``AskedImage.predict``.
        """
        if len(images) != len(asked) or not images:
            raise DataError(f"give a question for each image, and at least one, got {len(asked)} for {len(images)}")
        questions = [question_about(self.model, phrases, task, self.classes) for phrases, task, _ in asked]
        if any(not question.phrases for question in questions):
            raise PromptError("each image needs at least one phrase when several are asked together")
        for _, _, threshold in asked:
            require_threshold(threshold)
        pixels = [_own_pixels(image) for image in images]
        drawn = [self.draw(image) for image in pixels]
        encoded = self._shared.encode(torch.stack([each.pixels for each in drawn]), cache_prefix=True)
        frames = [each.frame for each in drawn]
        samples = [question.sample(frame) for question, frame in zip(questions, frames, strict=True)]
        tables = self._shared.decode(encoded, samples, questions[0].task)
        parts = self._shared.split(encoded)
        return [
            (self._asked_image(*one), question.table(table, threshold))
            for *one, question, table, (_, _, threshold) in zip(
                pixels, frames, parts, questions, tables, asked, strict=True
            )
        ]

    def _asked_image(self, pixels: np.ndarray, frame: InputTransform, encoded: EncodedImages) -> AskedImage:
        parts = {"image": pixels, "frame": frame, "encoded": encoded}
        return AskedImage(self._shared, views=self._views, classes=self.classes, **parts)

    def _current(self) -> AskedImage:
        if self._asked is None:
            raise DataError("no image was set; call set_image(image) first, or predict_batch(images, phrases)")
        return self._asked


def _own_pixels(image: ImageLike) -> np.ndarray:
    """Return an image as RGB bytes in an array of its own: tiles and crops are cut from it later."""
    pixels = as_rgb(image)
    return pixels.copy() if pixels is image else pixels
