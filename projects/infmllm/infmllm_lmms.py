"""A trained model in lmms-eval, which has the benchmarks' own prompts and metrics. Needs ``pip install lmms-eval``.

    from infmllm_lmms import LumenForLmmsEval
    from lmms_eval.evaluator import simple_evaluate

    config, checkpoint = "projects/infmllm/infmllm_s3_7b.py", "work_dirs/infmllm_s3_7b/iter_5200.pth"
    model = LumenForLmmsEval(config=config, checkpoint=checkpoint)
    simple_evaluate(model=model, tasks=["mme", "pope", "seedbench"])

Any model of Lumen that chats can be given. Nothing else of this project needs the package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image

from lumen.data.image import PAD_VALUE
from lumen.errors import ConfigError
from lumen.inference.predictor import LumenPredictor

_BLANK_HW = (224, 224)


class LumenForLmmsEval(lmms):
    """Answers the requests of lmms-eval, one after the other, greedily; an image that is asked again is encoded once.

    Args:
        config: Config of the run.
        checkpoint: Its checkpoint.
        predictor: A predictor in place of both.
        device: See ``LumenPredictor.from_checkpoint``.

    Raises:
        ConfigError: Neither both files nor a predictor is given, or the model does not chat.
        CheckpointError: See ``LumenPredictor.from_checkpoint``.
    """

    def __init__(
        self,
        config: str | None = None,
        checkpoint: str | None = None,
        *,
        predictor: LumenPredictor | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if (predictor is None) == (config is None or checkpoint is None):
            raise ConfigError("give config and checkpoint, or a predictor")
        self.predictor = predictor or LumenPredictor.from_checkpoint(config, checkpoint, device=device)
        if "chat" not in self.predictor.model.decoders:
            raise ConfigError(f"the model has no decoder for chat; it has {list(self.predictor.model.decoders)}")

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return the answer of each request.

        ``max_new_tokens`` and ``until`` of its options count; sampling and beams do not.

        Raises:
            ConfigError: A request shows several images, or a video.
        """
        answers, shown = [], None
        for request in requests:
            question, options, to_visual, doc_id, task, split = request.args
            if (task, split, doc_id) != shown:
                self.predictor.set_image(_image(to_visual(self.task_dict[task][split][doc_id]) or [], task))
                shown = (task, split, doc_id)
            answers.append(self._answer(question, options))
        return answers

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refuse: rounds of this kind show further images.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("tasks of several rounds are not supported: choose tasks of output type generate_until")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refuse: answers are generated.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("likelihoods are not computed: choose tasks of output type generate_until")

    def _answer(self, question: str, options: Mapping[str, Any]) -> str:
        adapter = self.predictor.model.lmm
        kept = adapter.generation
        adapter.generation = replace(kept, max_new_tokens=int(options.get("max_new_tokens", kept.max_new_tokens)))
        try:
            text = self.predictor.chat((), question.replace("<image>", "").strip())
        finally:
            adapter.generation = kept
        ends = options.get("until", ())
        for end in [ends] if isinstance(ends, str) else ends:
            text = text.partition(end)[0] if end else text
        return text.strip()


def _image(visuals: Sequence[Any], task: str) -> np.ndarray:
    """Return the image of a request as RGB, a grey one where there is none."""
    if not visuals:
        return np.full((*_BLANK_HW, 3), PAD_VALUE, dtype=np.uint8)
    if len(visuals) > 1 or not isinstance(visuals[0], Image.Image):
        kinds = [type(visual).__name__ for visual in visuals]
        raise ConfigError(f"task {task!r} shows {kinds}; this model takes one image")
    return np.asarray(visuals[0].convert("RGB"))
