"""Several processes, called ranks, on machines without a GPU; MMEngine starts those of machines with one."""

from datetime import timedelta
from typing import Any

import torch
from mmengine.dist import is_distributed

from lumen.errors import ConfigError


def start_cpu_ranks(launcher: str, settings: dict[str, Any]) -> None:
    """Join the processes of ``torchrun`` where there is no GPU; elsewhere, and after the first call, do nothing.

    MMEngine gives each rank a GPU, also where there is none.

    Args:
        launcher: How the processes were started; ``none`` for one process.
        settings: ``env_cfg.dist_cfg``: ``backend``, ``gloo`` when left out, ``timeout`` in seconds, and what else
            ``torch.distributed.init_process_group`` takes.

    Raises:
        ConfigError: The launcher or the backend needs a GPU.
    """
    if launcher == "none" or is_distributed() or torch.cuda.is_available():
        return
    options = {"backend": "gloo", **settings}
    if launcher != "pytorch" or options["backend"] != "gloo":
        raise ConfigError(
            "ranks on a machine without a GPU need --launcher pytorch, with torchrun, and backend='gloo' in "
            f"env_cfg.dist_cfg, got --launcher {launcher} and backend={options['backend']!r}"
        )
    if "timeout" in options:
        options["timeout"] = timedelta(seconds=options["timeout"])
    torch.distributed.init_process_group(**options)
