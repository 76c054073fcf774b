"""``LumenPredictor``: an image once, phrases and questions as often as you like, answers in original pixels."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from mmengine.structures import InstanceData
from PIL import Image
from torch import Tensor

from lumen.data.image import PAD_VALUE, as_rgb, render_image
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.keypoints import Skeleton
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views
from lumen.errors import ConfigError, DataError, PromptError
from lumen.inference.compute import DTYPES, choose_device, inference_context, require_batch
from lumen.inference.crops import check_boxes, crop_samples, pose_table
from lumen.inference.pretrained import from_pretrained, load_trained
from lumen.inference.questions import Question
from lumen.lmm.encoded import EncodedImages
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform, box_area
from lumen.ops.masks import maps_to_original
from lumen.prompts import check_phrase
from lumen.structures import PerceptionSample, SharedRepresentation

_FINDERS = ("detection", "segmentation")
_ASKS_NOTHING = frozenset({"caption"})

ImageLike = str | PathLike[str] | Image.Image | np.ndarray


class LumenPredictor:
    """Ask a trained model about images: phrases, sentences, keypoints, questions in words.

    ``set_image`` runs the vision tower once, and the first question runs the LLM over the prefix; each
    later question costs one pass over its phrases alone. The next image replaces the last one. Asking twice,
    asking in a batch, and asking a phrase twice give the same answers as asking once.

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
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.dtype = dtype
        self.classes = None if classes is None else tuple(classes)
        self.description = dict(description or model.describe())
        # Views of the classes that framed the training images, without augmentation, so that the framing is the same.
        self._views = views or Views(
            ResizeToInput(input_hw=input_hw, mode=mode, pad_value=pad_value),
            CropInstance(input_hw=input_hw, pad_value=pad_value),
            AskKeypoints(),
        )
        self._image: np.ndarray | None = None
        self._frame: InputTransform | None = None
        self._encoded: EncodedImages | None = None

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
        classes: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "LumenPredictor":
        """Open a folder that ``tools/export.py`` wrote; see ``lumen.inference.pretrained.from_pretrained``.

        Args:
            folder: The folder.
            types: Classes of plug-ins that may be built.
            base_model: Folder or model id of the base model, if it is not the folder that is named in this one. A model
                id that only the folder names is not downloaded.
            classes: Those of the folder when left out.
            device: See ``from_checkpoint``.
            dtype: See ``from_checkpoint``.

        Raises:
            CheckpointError: The folder, or the base model that it builds on, cannot be loaded.
        """
        loaded = from_pretrained(folder, types=types, base_model=base_model)
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
        image = as_rgb(image)
        frame, pixels = self._draw(image)
        self._encoded = self._encode(pixels[None], cache_prefix=True)
        self._image, self._frame = image, frame

    def predict(
        self,
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int | None = None,
    ) -> InstanceData:
        """Answer phrases about the image that was set.

        Args:
            phrases: Any number of them; None for ``classes``, or for the image alone where the task is
                ``caption``.
            task: Task of the decoder that answers.
            score_threshold: Answers with a lower score are left out; a semantic mask's score is the phrase's presence.
                None for the task's own: 0 for ``grounding`` and ``referring_segmentation``, whose decoder decides
                which sentence has no target, 0.3 otherwise. Counts and texts are never left out.

        Returns:
            One row per answer, on the CPU: the task's ``TaskSpec.predictions``, boxes and points in original pixels,
            masks as a list of COCO run-length codes of the original image. ``labels`` is the index into ``phrases``,
            and ``phrases`` the text; ``prompt_index`` is left out. Best first over all phrases; tasks that answer
            phrase by phrase (sentences, semantic masks, counts, texts) in the order of ``phrases``.

        Raises:
            PromptError: A phrase is not acceptable, or no decoder knows the task.
            DataError: No image was set.
        """
        self._require_image()
        question = self._question(phrases, task)
        return self._answer(self._encoded, [self._frame], question, score_threshold)[0]

    def pose(
        self,
        category: str,
        keypoints: Sequence[str] | Skeleton,
        boxes: Any = None,
        *,
        score_threshold: float | int | None = None,
        batch_size: int = 16,
    ) -> InstanceData:
        """Find the keypoints of each object of a category in the image that was set.

        Args:
            category: What the objects are called.
            keypoints: Names of the keypoints, or the skeleton that holds them.
            boxes: xyxy in original pixels, (n, 4). When left out, the objects are found first, by detection or, where
                there is none, by segmentation.
            score_threshold: Found boxes with a lower score are left out; see ``predict``.
            batch_size: Crops that are computed at once.

        Returns:
            One row per object, in the order of ``boxes`` or of the scores of the found boxes, on the CPU:
            ``keypoints`` (n, k, 2) in original pixels and ``keypoint_scores`` (n, k) in the order of the names;
            ``scores``, of keypoints and box together; ``bboxes`` and ``box_scores``, 1 for given boxes; ``labels``, all
            0, and ``phrases``, the category. No rows where no keypoint is named.

        Raises:
            PromptError: A name is not acceptable, or the model has no decoder for poses, or none that finds objects.
            DataError: No image was set, or a box is empty or lies outside of it.
        """
        self._require_image()
        self._require_task("pose")
        require_batch(batch_size)
        names = keypoints.names if isinstance(keypoints, Skeleton) else keypoints
        for name in (category, *Question.of(names, "pose").phrases):
            check_phrase(name, ())  # an empty one would disappear in the wording
        question = Question.of(self._views.ask.phrases(names, category), "pose")
        objects = self._find(category, score_threshold) if boxes is None else self._given(boxes)
        objects = objects if question.phrases else objects[:0]
        answers: list[InstanceData] = []
        for start in range(0, len(objects), batch_size):
            chunk = objects[slice(start, start + batch_size)]
            samples, pixels = crop_samples(question, self._image, chunk, self._views.crop)
            answers += self._decode(self._encode(pixels), samples, "pose")
        return pose_table(answers, question, objects, category)

    def answer(self, question: str) -> str:
        """Answer a question about the image that was set, in words.

        Raises:
            PromptError: The question is not acceptable, or no decoder knows the task ``vqa``.
            DataError: No image was set.
        """
        return self._say(Question.of([question], "vqa"))

    def caption(self, instruction: str = "") -> str:
        """Describe the image that was set; ``instruction`` replaces the default one. Raises as ``answer``."""
        return self._say(Question.of([instruction], "caption"))

    def chat(self, history: Sequence[Sequence[str]], question: str) -> str:
        """Answer the next question of a conversation about the image that was set. Raises as ``answer``.

        Args:
            history: The (question, answer) of each turn so far, the oldest first; it is not changed.
            question: The next one.
        """
        return self._say(Question.turn(history, question))

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
            PromptError: A phrase is not acceptable, no decoder knows the task, or it is answered in words.
            DataError: No image was set.
        """
        self._require_image()
        question = self._question(phrases, task)
        if task in self.model.text_tasks or not self.model.aligner.has_heat:
            raise PromptError(f"task {task!r} has no heatmap: it is answered in words, or the aligner gives none")
        with inference_context(self.device, self.dtype):
            shared = self._share(self._encoded, [question.sample(self._frame)])
            heat = shared.heat_logits.float().sigmoid() * shared.presence_logits.float().sigmoid()[:, None, None, None]
        return maps_to_original(heat.cpu()[:, 0], self._frame)[question.unique_of]

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
        question = self._question(phrases, task)
        drawn = [self._draw(as_rgb(image)) for image in images]
        answers = []
        for start in range(0, len(drawn), batch_size):
            frames, pixels = zip(*drawn[start : start + batch_size], strict=True)
            answers += self._answer(self._encode(torch.stack(pixels)), frames, question, score_threshold)
        return answers

    def _answer(
        self,
        encoded: EncodedImages,
        frames: Sequence[InputTransform],
        question: Question,
        score_threshold: float | int | None,
    ) -> list[InstanceData]:
        answers = self._decode(encoded, [question.sample(frame) for frame in frames], question.task)
        return [question.table(answer, score_threshold) for answer in answers]

    def _decode(self, encoded: EncodedImages, samples: Sequence[PerceptionSample], task: str) -> list[InstanceData]:
        with inference_context(self.device, self.dtype):
            samples = self.model.predict(self._share(encoded, samples), samples, task=task)
        return [sample.pred_instances.cpu() for sample in samples]

    def _share(self, encoded: EncodedImages, samples: Sequence[PerceptionSample]) -> SharedRepresentation:
        prompts = [sample.prompts for sample in samples]
        features = self.model.lmm.ask(encoded, prompts, extras=self.model.extras, predicting=True)
        return self.model.align(self.model.add_images(features, encoded.images, samples))

    def _encode(self, pixels: Tensor, *, cache_prefix: bool = False) -> EncodedImages:
        with inference_context(self.device, self.dtype):
            return self.model.lmm.encode_images(pixels.to(self.device), cache_prefix=cache_prefix)

    def _say(self, question: Question) -> str:
        self._require_image()
        self._require_task(question.task)
        return self._answer(self._encoded, [self._frame], question, None)[0].texts[0]

    def _find(self, category: str, score_threshold: float | int | None) -> InstanceData:
        """Return the boxes of a category with their scores, best first."""
        finder = next((task for task in _FINDERS if task in self.model.decoders), None)
        if finder is None:
            raise PromptError(
                f"no decoder of this model, {list(self.model.decoders)}, finds {category!r}; give boxes, such as those "
                "that another model found"
            )
        found = self.predict([category], task=finder, score_threshold=score_threshold)
        found = found[box_area(found.bboxes) > 0]
        return InstanceData(bboxes=found.bboxes, scores=found.scores)

    def _given(self, boxes: Any) -> InstanceData:
        bboxes = check_boxes(boxes, self._image.shape[:2])
        return InstanceData(bboxes=bboxes, scores=torch.ones(len(bboxes)))

    def _draw(self, image: np.ndarray) -> tuple[InputTransform, Tensor]:
        whole = self._views.whole
        frame = whole.draw_frame(image.shape[:2])
        drawn = render_image(image, frame, pad_value=whole.pad_value)
        return frame, torch.from_numpy(drawn).permute(2, 0, 1)

    def _question(self, phrases: Sequence[str] | None, task: str) -> Question:
        self._require_task(task)
        if "prompt_index" not in self.model.decoders[task].spec.predictions:
            raise PromptError(f"task {task!r} asks about objects one at a time: use pose(category, keypoints)")
        if phrases is None and task in _ASKS_NOTHING:
            return Question.of([""], task)
        if phrases is None and self.classes is None:
            raise PromptError("name the phrases to ask for, or give the predictor classes")
        return Question.of(self.classes if phrases is None else phrases, task)

    def _require_task(self, task: str) -> None:
        if task not in self.model.decoders:
            raise PromptError(f"no decoder for task {task!r}; this model has {list(self.model.decoders)}")

    def _require_image(self) -> None:
        if self._frame is None:
            raise DataError("no image was set; call set_image(image) first, or predict_batch(images, phrases)")
