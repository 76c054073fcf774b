"""Parameters frozen by name."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.hooks import Hook
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lumen.engine.ddp import unwrapped
from lumen.engine.optim import part_patterns
from lumen.errors import ConfigError
from lumen.registry import HOOKS


@HOOKS.register_module()
class FreezeHook(Hook):
    """Freezes parameters by name, before the model is wrapped and the optimizer is built.

    Modules that are frozen as a whole stay in evaluation mode: no dropout, and running statistics stay unchanged.

    Args:
        freeze: Glob patterns of parameter names; ``*`` matches dots too, as in ``adapter.*``.
        trainable: Patterns of exceptions, which stay as they are.
        statistics: Patterns of names of modules. The running statistics of batch normalisation in them stay unchanged
            and are used in training, too, while its weights are trained: small batches would spoil good statistics.
    """

    def __init__(self, freeze: Sequence[str], trainable: Sequence[str] = (), statistics: Sequence[str] = ()) -> None:
        self._freeze = tuple(freeze)
        self._trainable = tuple(trainable)
        self._statistics = tuple(statistics)

    def after_build_model(self, runner: Any) -> None:
        """Freeze, and log how many parameters of each part are trained."""
        freeze_parameters(runner.model, self._freeze, self._trainable)
        norms_with_fixed_statistics(runner.model, self._statistics)
        runner.logger.info(parameter_table(runner.model))

    def before_train(self, runner: Any) -> None:
        """Look up the normalisation layers; wrapping may have replaced them."""
        model = unwrapped(runner.model)
        self._norms = norms_with_fixed_statistics(model, self._statistics)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Put frozen modules back into evaluation mode; the loop has just set everything to training."""
        eval_frozen_modules(runner.model)
        for norm in self._norms:
            norm.eval()


def freeze_parameters(model: nn.Module, patterns: Collection[str], trainable: Collection[str] = ()) -> None:
    """Switch off the gradient of parameters whose name matches one of ``patterns`` and none of ``trainable``.

    Raises:
        ConfigError: A pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    idle = [p for p in (*patterns, *trainable) if not any(fnmatchcase(name, p) for name in names)]
    if idle:
        raise ConfigError(
            f"FreezeHook: patterns {idle} match no parameter of the model, whose parts are {part_patterns(names)}. "
            "Correct them in custom_hooks, or take them out"
        )
    for name, parameter in model.named_parameters():
        matches = any(fnmatchcase(name, pattern) for pattern in patterns)
        if matches and not any(fnmatchcase(name, pattern) for pattern in trainable):
            parameter.requires_grad_(False)


def eval_frozen_modules(model: nn.Module) -> None:
    """Set the modules whose parameters are all frozen to evaluation mode; modules without parameters stay."""
    flags = [parameter.requires_grad for parameter in model.parameters()]
    if flags and not any(flags):
        model.eval()
        return
    for child in model.children():
        eval_frozen_modules(child)


def norms_with_fixed_statistics(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Return the batch normalisation layers that are, or lie in, a module whose name matches one of ``patterns``.

    Raises:
        ConfigError: A pattern matches no such layer.
    """
    norms = {name: part for name, part in model.named_modules() if isinstance(part, _BatchNorm)}
    places = {name: _prefixes(name) for name in norms}
    idle = [p for p in patterns if not any(fnmatchcase(place, p) for names in places.values() for place in names)]
    if idle:
        raise ConfigError(f"FreezeHook: statistics {idle} match no batch normalisation; it is in {sorted(norms)[:5]}")
    return [
        norm for name, norm in norms.items() if any(fnmatchcase(place, p) for place in places[name] for p in patterns)
    ]


def _prefixes(name: str) -> list[str]:
    """Return the names of a module and of all modules around it."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def parameter_table(model: nn.Module) -> str:
    """Return a table of trained and frozen parameters for each part of the model."""
    rows = [f"{'part':<24}{'trained':>16}{'frozen':>16}"]
    for part, module in [*model.named_children(), ("total", model)]:
        counts = {True: 0, False: 0}
        for parameter in module.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        rows.append(f"{part:<24}{counts[True]:>16,}{counts[False]:>16,}")
    return "parameters\n" + "\n".join(rows)
