"""The same number of LLM calls on every rank, where the LLM is sharded over them.

A call of a sharded LLM (FSDP2) gathers the pieces of each layer from all ranks, so a rank that calls it less often, for
lack of questions, of images or of words to write, leaves the others waiting. Each call is therefore announced, and a
rank that is done makes calls which nobody reads until all are done.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from mmengine import dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lumen.lmm.encoded import EncodedImages
from lumen.lmm.packing.passes import Passes
from lumen.lmm.packing.rows import prefix_row


class Lockstep:
    """Announces the calls of an LLM to the other ranks; does nothing for an LLM that is not sharded.

    Args:
        llm: The LLM; gets a hook that announces each call.
    """

    def __init__(self, llm: nn.Module) -> None:
        self._llm = llm
        self._is_idle = False
        llm.register_forward_pre_hook(self._announce)

    def finish(self, passes: Passes, encoded: EncodedImages, prefix: Sequence[int]) -> list[Float[Tensor, "0 dim"]]:
        """Call the LLM until no rank has calls of its own left. Every rank has to get here equally often.

        Args:
            passes: How to call the LLM.
            encoded: Images, of which the first is shown.
            prefix: The tokens of a call.

        Returns:
            No states of each call. In training they must take part in the loss: the backward pass gathers pieces too.
        """
        results = []
        self._is_idle = True
        while self._is_shared() and bool(self._anyone_calls(False)):
            states = passes.rows(prefix_row(prefix), encoded, prefix)
            results.append(states[0][:0, 0])
        self._is_idle = False
        return results

    def _announce(self, llm: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._is_idle and self._is_shared():
            self._anyone_calls(True)

    def _is_shared(self) -> bool:
        return dist.get_world_size() > 1 and any(isinstance(module, FSDPModule) for module in self._llm.modules())

    def _anyone_calls(self, calls: bool) -> Tensor:
        flag = torch.tensor(int(calls), device=next(self._llm.parameters()).device)
        dist.all_reduce(flag, "max")
        return flag
