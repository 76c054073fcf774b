"""An image that is encoded once and asked as often as you like, by any number of threads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.data.keypoints import Skeleton
from lumen.data.views import Views
from lumen.errors import DataError, PromptError
from lumen.inference.compute import SharedModel, require_batch
from lumen.inference.conversation import Reply, repeated, routes_of
from lumen.inference.crops import check_boxes, crop_samples, pose_table
from lumen.inference.questions import Question, question_about, require_task, require_threshold
from lumen.inference.tiled import answer_tiles, require_tileable
from lumen.inference.tiles import Tiles, as_tiles
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.split import num_bytes
from lumen.ops.geometry import InputTransform, box_area
from lumen.ops.masks import maps_to_original
from lumen.prompts import check_phrase

MAX_HEAT_BYTES = 2**30
"""Memory of the heatmaps of one question; that of 40 phrases on 12 million pixels would be 1.9 GB."""

_FINDERS = ("detection", "segmentation")


class AskedImage:
    """An image and what the vision tower made of it; ``LumenPredictor.image`` makes one.

    It holds all that belongs to the image, so that threads may ask about images of their own, or about the same one:
    the answers are those of one thread. The model computes for one thread at a time.

    Args:
        shared: The model.
        views: How objects are framed.
        classes: Phrases to ask for where a question names none.
        image: In original pixels.
        frame: From original pixels to the network input.
        encoded: The image after the vision tower.
    """

    def __init__(
        self,
        shared: SharedModel,
        *,
        views: Views,
        classes: Sequence[str] | None,
        image: UInt8[np.ndarray, "height width 3"],
        frame: InputTransform,
        encoded: EncodedImages,
    ) -> None:
        self._shared = shared
        self._decoders = shared.model.decoders
        self._views = views
        self._classes = classes
        self._image = image
        self._frame = frame
        self._encoded = encoded

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image, in original pixels."""
        return self._image.shape[0], self._image.shape[1]

    @property
    def num_bytes(self) -> int:
        """Memory of the image, of what the tower made of it, and of the prefixes that the LLM has read so far."""
        return self._image.nbytes + num_bytes(self._encoded)

    def predict(
        self,
        phrases: Sequence[str] | None = None,
        *,
        task: str = "detection",
        score_threshold: float | int | None = None,
        tiles: Tiles | int | None = None,
    ) -> InstanceData:
        """Answer phrases about the image.

        Args:
            phrases: Any number of them; None for ``classes``, or for the image alone where the task is
                ``caption``.
            task: Task of the decoder that answers.
            score_threshold: Answers with a lower score are left out; a semantic mask's score is the phrase's presence.
                None for the task's own: 0 for ``grounding`` and ``referring_segmentation``, whose decoder decides
                which sentence has no target, 0.3 otherwise. Counts and texts are never left out.
            tiles: Ask about the image as a whole and about each tile, too, for objects that are too small when all of
                it is shrunk to the network input; see ``Tiles``. A number is the side of a tile in pixels. An image
                that is not larger than a tile is asked as without.

        Returns:
            One row per answer, on the CPU: the task's ``TaskSpec.predictions``, boxes and points in original pixels,
            masks as a list of COCO run-length codes of the original image. ``labels`` is the index into ``phrases``,
            and ``phrases`` the text; ``prompt_index`` is left out. Best first over all phrases; tasks that answer
            phrase by phrase (sentences, semantic masks, counts, texts) in the order of ``phrases``.

        Raises:
            PromptError: A phrase is not acceptable, no decoder knows the task, or it is not one for tiles.
            ConfigError: The threshold is not a finite number, or the tiles cannot be.
        """
        question = question_about(self._shared.model, phrases, task, self._classes)
        tiles = None if tiles is None else as_tiles(tiles)
        if tiles is not None:
            require_tileable(self._decoders[task].spec)
        table = self._answer(question, score_threshold)
        if tiles is None or max(self.size_hw) <= tiles.side:
            return table
        options = {"question": question, "whole": table, "score_threshold": score_threshold}
        return answer_tiles(self._shared, self._image, tiles, self._views.whole, **options)

    def pose(
        self,
        category: str,
        keypoints: Sequence[str] | Skeleton,
        boxes: Any = None,
        *,
        score_threshold: float | int | None = None,
        batch_size: int = 16,
    ) -> InstanceData:
        """Find the keypoints of each object of a category in the image.

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
            DataError: A box is empty or lies outside of the image.
        """
        require_task(self._shared.model, "pose")
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
            answers += self._shared.decode(self._shared.encode(pixels), samples, "pose")
        return pose_table(answers, question, objects, category)

    def answer(self, question: str) -> str:
        """Answer a question about the image, in words.

        Raises:
            PromptError: The question is not acceptable, or no decoder knows the task ``vqa``.
        """
        return self._say(Question.of([question], "vqa"))

    def caption(self, instruction: str = "") -> str:
        """Describe the image; ``instruction`` replaces the default one. Raises as ``answer``."""
        return self._say(Question.of([instruction], "caption"))

    def chat(self, history: Sequence[Sequence[str]], question: str) -> str:
        """Answer the next question of a conversation about the image. Raises as ``answer``.

        Args:
            history: The (question, answer) of each turn so far, the oldest first; it is not changed.
            question: The next one.
        """
        return self._say(Question.turn(history, question))

    def converse(
        self,
        text: str,
        history: Sequence[Sequence[str]] = (),
        *,
        slot_routes: Mapping[str, str] | None = None,
        score_threshold: float | int | None = None,
    ) -> Reply:
        """Answer a turn of a conversation freely; where the answer points at objects, decoders find them.

        Unlike ``chat`` it needs no decoder of texts, and unlike ``predict`` the LMM itself decides what it points at.

        Args:
            text: What the user says.
            history: ``Reply.history`` of the turn before.
            slot_routes: Task whose decoder answers, by the token with which the LMM points, such as
                ``{"[SEG]": "segmentation"}``. When left out, the tokens of the tasks that the model has; where tasks
                share one, the first of them.
            score_threshold: See ``predict``.

        Raises:
            PromptError: The text or the history is not acceptable, or the model has no decoder for a task.
            ConfigError: ``slot_routes`` names a token that does not point, or a task that does not answer places; or
                the threshold is not a finite number.
        """
        routes = routes_of(self._shared.model, slot_routes)
        require_threshold(score_threshold)
        prompt = Question.turn(history, text).prompts[0]
        turn, tables = self._shared.write_turn(self._encoded, prompt), {}
        for task in dict.fromkeys(routes.values()):
            pairs = turn.for_task(task, routes)
            if pairs.flat:
                question = repeated(text, task, len(pairs.flat))
                answers = self._shared.decode(self._encoded, [question.sample(self._frame)], task, pairs=pairs)
                tables[task] = question.table(answers[0], score_threshold)
        said = ((text, turn.text),) if turn.text else ()
        return Reply(turn.text, tables, (*prompt.history, *said), turn.num_unpaired)

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
            DataError: The maps would take more than ``MAX_HEAT_BYTES``.
        """
        question = question_about(self._shared.model, phrases, task, self._classes)
        if task in self._shared.model.text_tasks or not self._shared.model.aligner.has_heat:
            raise PromptError(f"task {task!r} has no heatmap: it is answered in words, or the aligner gives none")
        num_bytes = 4 * len(question.phrases) * self._image.shape[0] * self._image.shape[1]
        if num_bytes > MAX_HEAT_BYTES:
            raise DataError(
                f"heatmaps of {len(question.phrases)} phrases on {self._image.shape[:2]} (height, width) pixels take "
                f"{num_bytes / 1e9:.1f} GB, the limit is {MAX_HEAT_BYTES / 1e9:.1f}: ask for fewer phrases at a time"
            )
        heat = self._shared.heat(self._encoded, question.sample(self._frame))
        maps = maps_to_original(heat[:, 0], self._frame)
        is_once = len(question.prompts) == len(question.phrases)
        return maps if is_once else maps[question.unique_of]

    def _answer(self, question: Question, score_threshold: float | int | None) -> InstanceData:
        require_threshold(score_threshold)
        answers = self._shared.decode(self._encoded, [question.sample(self._frame)], question.task)
        return question.table(answers[0], score_threshold)

    def _say(self, question: Question) -> str:
        require_task(self._shared.model, question.task)
        return self._answer(question, None).texts[0]

    def _find(self, category: str, score_threshold: float | int | None) -> InstanceData:
        """Return the boxes of a category with their scores, best first."""
        finder = next((task for task in _FINDERS if task in self._decoders), None)
        if finder is None:
            raise PromptError(
                f"no decoder of this model, {list(self._decoders)}, finds {category!r}; give boxes, such as those "
                "that another model found"
            )
        found = self.predict([category], task=finder, score_threshold=score_threshold)
        found = found[box_area(found.bboxes) > 0]
        return InstanceData(bboxes=found.bboxes, scores=found.scores)

    def _given(self, boxes: Any) -> InstanceData:
        bboxes = check_boxes(boxes, self._image.shape[:2])
        return InstanceData(bboxes=bboxes, scores=torch.ones(len(bboxes)))
