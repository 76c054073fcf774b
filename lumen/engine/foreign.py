"""False alarms: does a model find things whose names it never learned, where none of them is?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

import torch
from mmengine import dist
from torch import nn

from lumen.data.vocabulary import FOREIGN_NAMES, without_words_of
from lumen.engine.ddp import unwrapped
from lumen.errors import ConfigError
from lumen.model import Lumen
from lumen.structures import PerceptionSample, Prompt

ALARM_SCORE = 0.5


class ForeignNames:
    """Asks about each image of a test for names of things that it does not show, and counts the answers.

    Args:
        model: The model, wrapped or not.
        number: How many of ``lumen.data.vocabulary.FOREIGN_NAMES`` are asked; names that share a word with a class of
            the data set are left out.
        classes: The classes of the data set.

    Raises:
        ConfigError: There are not so many names, or none is left, or the model cannot be asked for names.
    """

    def __init__(self, model: nn.Module, *, number: int, classes: Sequence[str]) -> None:
        self._wrapped = model
        self._model = unwrapped(model)
        if not isinstance(self._model, Lumen) or self._model.lmm.input_spec is None:
            raise ConfigError("foreign_names needs a Lumen that reads images; set test_cfg.foreign_names=0")
        if not 0 < number <= len(FOREIGN_NAMES):
            raise ConfigError(f"foreign_names must lie in 0..{len(FOREIGN_NAMES)}, got {number}")
        self.names = without_words_of(FOREIGN_NAMES[:number], classes)
        if not self.names:
            raise ConfigError(f"all of {FOREIGN_NAMES[:number]} share a word with a class; ask for more foreign_names")
        # For each image, in the order of this rank: the share of alarms among the names, and the mean best score.
        self._images: list[tuple[float, float]] = []

    def ask(self, batch: Mapping[str, Any]) -> None:
        """Ask for all names about each image of a batch; the LMM's ``usage`` and ``answer_report`` do not count it.

        Raises:
            ConfigError: The decoder that the samples ask gives no scores.
        """
        counters = (self._model.lmm.usage, self._model.lmm.answer_report)
        kept = [asdict(counter) for counter in counters]
        samples = [self._foreign(sample) for sample in batch["data_samples"]]
        # Through the wrapper: ranks that share an LLM call it together.
        for sample in self._wrapped.test_step({**batch, "data_samples": samples}):
            answer, best = sample.pred_instances, torch.zeros(len(self.names))
            # The best detection of each name; 0 where a name has none.
            best.scatter_reduce_(0, answer.prompt_index.cpu(), answer.scores.float().cpu(), "amax")
            self._images.append((float((best >= ALARM_SCORE).double().mean()), float(best.double().mean())))
        for counter, values in zip(counters, kept, strict=True):  # in place: the parts of the LMM share them
            for name, value in values.items():
                setattr(counter, name, value)

    def figures(self, num_images: int) -> dict[str, float]:
        """Return, over all ranks, the share of names with a detection of at least 0.5, and their mean best score.

        What was counted is forgotten. Every rank calls it.

        Args:
            num_images: Images of the test. Ranks take turns in its order, and the last ones may repeat an image so
                that all have as many batches; repeated images do not count.
        """
        turns = zip_longest(*dist.all_gather_object(self._images))
        images = [image for turn in turns for image in turn if image is not None][:num_images]
        self._images = []
        alarms, scores = (sum(column) / len(images) for column in zip(*images, strict=True))
        return {"foreign/names": float(len(self.names)), "foreign/false_alarms": alarms, "foreign/mean_score": scores}

    def _foreign(self, sample: PerceptionSample) -> PerceptionSample:
        task = sample.prompts[0].task if sample.prompts else next(iter(self._model.decoders))
        if task not in self._model.decoders or "scores" not in self._model.decoders[task].spec.predictions:
            raise ConfigError(f"task {task!r} gives no scores, so that there are no alarms; set foreign_names=0")
        # The image and its frame as they are; prompts and targets of the sample itself are taken away.
        asked = sample.new()
        asked.set_field(tuple(Prompt(name, task) for name in self.names), "prompts", field_type="metainfo")
        for table in ("gt_instances", "ignored_instances"):
            if table in sample:
                asked.set_data({table: sample.get(table)[:0]})
        return asked
