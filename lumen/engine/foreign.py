"""False alarms: does a model find things whose names it never learned, where none of them is?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from mmengine import dist
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from lumen.data.vocabulary import FOREIGN_NAMES, without_words_of
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
        ConfigError: There are not so many names, or the model cannot be asked for names.
    """

    def __init__(self, model: nn.Module, *, number: int, classes: Sequence[str]) -> None:
        self._wrapped = model
        self._model = model.module if is_model_wrapper(model) else model
        if not isinstance(self._model, Lumen) or self._model.lmm.input_spec is None:
            raise ConfigError("foreign_names needs a Lumen that reads images; set test_cfg.foreign_names=0")
        if not 0 < number <= len(FOREIGN_NAMES):
            raise ConfigError(f"foreign_names must lie in 0..{len(FOREIGN_NAMES)}, got {number}")
        self.names = without_words_of(FOREIGN_NAMES[:number], classes)
        # Number of answers, those that are alarms, and the sum of the best scores.
        self._totals = torch.zeros(3, dtype=torch.float64)

    def ask(self, batch: Mapping[str, Any]) -> None:
        """Ask for all names about each image of a batch; what it costs the LMM is not counted in its ``usage``.

        Raises:
            ConfigError: The decoder that the samples ask gives no scores.
        """
        usage = replace(self._model.lmm.usage)
        samples = [self._foreign(sample) for sample in batch["data_samples"]]
        for sample in self._wrapped.test_step({**batch, "data_samples": samples}):
            answer, best = sample.pred_instances, torch.zeros(len(self.names))
            best.scatter_reduce_(0, answer.prompt_index.cpu(), answer.scores.float().cpu(), "amax")
            self._totals += torch.stack([torch.ones_like(best), (best >= ALARM_SCORE).float(), best]).sum(1).double()
        for name, value in asdict(usage).items():  # the parts of the LMM share this one counter
            setattr(self._model.lmm.usage, name, value)

    def figures(self) -> dict[str, float]:
        """Return, over all ranks, the share of names with a detection of at least 0.5, and their mean best score.

        The counts are reset.
        """
        totals: Tensor = self._totals.clone().to(next(self._model.parameters()).device)
        self._totals.zero_()
        dist.all_reduce(totals, op="sum")
        number, alarms, scores = totals.tolist()
        shares = {"foreign/false_alarms": alarms / max(number, 1), "foreign/mean_score": scores / max(number, 1)}
        return {"foreign/names": float(len(self.names)), **shares}

    def _foreign(self, sample: PerceptionSample) -> PerceptionSample:
        task = sample.prompts[0].task if sample.prompts else next(iter(self._model.decoders))
        if task not in self._model.decoders or "scores" not in self._model.decoders[task].spec.predictions:
            raise ConfigError(f"task {task!r} gives no scores, so that there are no alarms; set foreign_names=0")
        asked = sample.new()
        asked.set_field(tuple(Prompt(name, task) for name in self.names), "prompts", field_type="metainfo")
        for table in ("gt_instances", "ignored_instances"):
            if table in sample:
                asked.set_data({table: sample.get(table)[:0]})
        return asked
