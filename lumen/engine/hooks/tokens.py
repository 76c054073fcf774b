"""Few image tokens first."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook

from lumen.engine.ddp import unwrapped
from lumen.errors import ConfigError
from lumen.registry import HOOKS


@HOOKS.register_module()
class FewTokensHook(Hook):
    """Sets how many image tokens an ``LmmPretrainer`` shows its LLM, by the share of the run that is done.

    Depends on the number of the iteration alone, so a resumed run goes on as if it had not been interrupted.

    Args:
        stages: Pairs of a share of the run and the number of tokens from there on, None for all; the first at 0.

    Raises:
        ConfigError: The shares do not begin at 0 or do not ascend.
    """

    def __init__(self, stages: Sequence[tuple[float, int | None]]) -> None:
        self._stages = [(float(share), number) for share, number in stages]
        shares = [share for share, _ in self._stages]
        if not shares or shares[0] != 0 or shares != sorted(set(shares)):
            raise ConfigError(f"stages are pairs (share of the run, tokens), in order and from 0, got {list(stages)}")

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set the number."""
        model = unwrapped(runner.model)
        done = runner.iter / runner.max_iters
        model.num_tokens = [number for share, number in self._stages if share <= done][-1]
