"""The optimizer wrapper: bfloat16 on any device, clipping, and no step on numbers that are not finite."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lumen.engine.ddp import unwrapped
from lumen.engine.finite import StepGuard
from lumen.errors import ConfigError, LumenError
from lumen.lmm.untrained import pretrained_names
from lumen.model import Lumen
from lumen.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from lumen.serialization.sharding import whole

DTYPES = ("float32", "bfloat16")
TABLES = ("*embed_tokens*", "*lm_head*", "*new_tokens*", "*map_queries*")
_WINDOW = 100


def check_dtype(dtype: str) -> str:
    """Return ``dtype``, or raise ConfigError where it is none of ``DTYPES``."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    return dtype


def autocast(dtype: str, model: nn.Module) -> AbstractContextManager:
    """Open mixed precision on the device of ``model``; nothing happens for ``float32``."""
    if check_dtype(dtype) == "float32":
        return nullcontext()
    # MMEngine's own wrapper opens autocast on GPUs alone; bfloat16 works on a CPU as well.
    device = next(model.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16)


@OPTIM_WRAPPERS.register_module()
class LumenOptimWrapper(OptimWrapper):
    """Steps an optimizer. A step whose loss, gradient or buffers are not finite is skipped.

    A skipped step leaves weights and buffers unchanged, such as the statistics of batch normalisation. Weights or an
    optimizer state that are not finite cannot be repaired: they stop the run.

    Args:
        optimizer: The optimizer.
        clip_grad: ``dict(max_norm=..., norm_type=2)``, or None.
        dtype: ``float32``, or ``bfloat16`` for mixed precision; weights and optimizer stay in float32.
        max_skips: Skipped steps among the last 100 that are still tolerated.
        accumulative_counts: Gradient accumulation: ``LumenRunner`` loads so many times ``batch_size`` samples for each
            step and computes them in so many pieces. The step equals that of the whole batch, since each loss is
            divided by a count of all pieces. An iteration is a step: ``max_iters``, schedules and hooks count steps,
            where MMEngine counts pieces.

    Raises:
        ConfigError: A setting is not accepted.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grad: dict[str, Any] | None = None,
        dtype: str = "float32",
        max_skips: int = 5,
        accumulative_counts: int = 1,
    ) -> None:
        unknown = set(clip_grad or ()) - {"max_norm", "norm_type"}
        if unknown or (clip_grad is not None and "max_norm" not in clip_grad):
            raise ConfigError(f"clip_grad takes max_norm and, optionally, norm_type, got {clip_grad}")
        if accumulative_counts < 1:
            raise ConfigError(f"accumulative_counts must be at least 1, got {accumulative_counts}")
        super().__init__(optimizer)  # without accumulative_counts: MMEngine would average pieces normalised alone
        self.accumulative_counts = accumulative_counts
        self._clip_grad_to = clip_grad
        self._dtype = check_dtype(dtype)
        self._max_skips = max_skips
        self._losses: list[Tensor] = []
        self._guard = StepGuard(optimizer)
        self._has_kept = False
        self._skips: deque[bool] = deque(maxlen=_WINDOW)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Open mixed precision around the forward pass, and hold back gradient exchange while accumulating.

        Buffers are kept before the first pass of a step, so that a skipped step can put them back.
        """
        if not self._has_kept:
            self._guard.keep(model)
            self._has_kept = True
        with super().optim_context(model), autocast(self._dtype, model):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add the gradient of ``loss``, and remember the loss for the next step."""
        # Detached, so that no graph is kept; read in `step`, so that nothing waits for a GPU here.
        self._losses.append(loss.detach())
        super().backward(loss, **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Step, unless a loss since the last step, the norm of the gradient or a buffer is not finite.

        Raises:
            LumenError: More than ``max_skips`` of the last 100 steps were skipped, or the weights or the state of the
                optimizer are not finite after the step before.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Over the shards of all ranks where the model is sharded.
        norm = whole(get_total_norm([p.grad for p in parameters], (self._clip_grad_to or {}).get("norm_type", 2.0)))
        counts, is_sound = self._checked(norm)
        if not is_sound:
            raise _not_finite()
        self._skips.append(not counts)
        if not counts:
            self._guard.put_back()
            self._skip(norm)
        else:
            self.message_hub.update_scalar("train/grad_norm", float(norm))
            if self._clip_grad_to:
                # With the norm that is known already; torch's other function would compute it again.
                clip_grads_with_norm_(parameters, self._clip_grad_to["max_norm"], norm)
            self.optimizer.step(**kwargs)
        self._losses.clear()
        self._has_kept = False

    def require_finite(self) -> None:
        """Check what a checkpoint would hold; all ranks call it.

        Raises:
            LumenError: Weights, buffers or the state of the optimizer are not finite.
        """
        sound = torch.tensor(int(self._guard.state_is_finite() and self._guard.buffers_are_finite()))
        all_reduce(sound, "min")
        if not bool(sound):
            raise _not_finite()

    def _checked(self, norm: Tensor) -> tuple[bool, bool]:
        """Return whether the step counts and whether the state before it is finite, on all ranks.

        One rank that skipped alone would leave the others with different weights. What the last step made of the
        weights is seen here, one step late, so that ranks are asked once per step.
        """
        finite = torch.stack([value.to(norm.device).isfinite().all() for value in [norm, *self._losses]]).all()
        flags = torch.tensor([self._guard.buffers_are_finite(), self._guard.state_is_finite()], dtype=torch.int32)
        flags = flags.to(norm.device)
        flags[0] *= finite
        # The minimum is 0 as soon as one rank has a value that is not finite.
        all_reduce(flags, "min")
        counts, is_sound = flags.tolist()
        return bool(counts), bool(is_sound)

    def _skip(self, norm: Tensor) -> None:
        losses = [float(loss) for loss in self._losses]
        text = (
            f"loss {losses}, gradient norm {float(norm)}: a step was skipped because they, or buffers, are not finite"
        )
        print_log(text, logger="current", level=30)
        if sum(self._skips) > self._max_skips:
            raise LumenError(
                f"{text}; so were {sum(self._skips)} of the last {len(self._skips)} steps. Lower the learning rate, "
                "clip gradients, or look at the last batches"
            )


def _not_finite() -> LumenError:
    return LumenError(
        "the weights, the optimizer's state or buffers hold numbers that are not finite; nothing is saved. Go on from "
        "the last checkpoint with a lower learning rate or clipped gradients"
    )


def _check_rate(rate: Any, place: str) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (0 <= rate < math.inf):
        raise ConfigError(f"{place} must be a finite number that is not negative, got {rate!r}")


def part_patterns(names: Sequence[str]) -> list[str]:
    """Return a pattern for each part of a model whose parameters have these names, two levels deep."""
    return sorted({".".join(name.split(".")[:2][: name.count(".")]) + ".*" for name in names if "." in name})


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedConstructor:
    """Sort the trainable parameters into few groups, so that a fused optimizer steps them in few calls.

    Vectors and scalars (biases, norms) are never decayed. MMEngine's own constructor makes a group per parameter.

    Args:
        optim_wrapper_cfg: The optimizer wrapper, with the optimizer.
        paramwise_cfg: ``lr_mult``: factors on the learning rate by glob pattern of parameter names; the last pattern
            that matches counts. ``muon``: with an optimizer that knows ``muon`` groups, put matrices and convolution
            kernels there; tables of tokens (``TABLES``) never. ``adamw``: glob patterns of what else stays out.

    Raises:
        ConfigError: If a pattern matches no parameter, or ``paramwise_cfg`` holds anything else.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        settings = dict(paramwise_cfg or {})
        self._wrapper = dict(optim_wrapper_cfg)
        self._lr_mult: dict[str, float] = dict(settings.pop("lr_mult", {}))
        self._with_muon: bool = settings.pop("muon", False)
        self._adamw: list[str] = list(settings.pop("adamw", []))
        if settings:
            raise ConfigError(f"paramwise_cfg takes lr_mult, muon and adamw, got {sorted(settings)}")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper."""
        model = unwrapped(model)
        optimizer = dict(self._wrapper.pop("optimizer"))
        for name in ("lr", "muon_lr"):
            if name == "lr" or name in optimizer:
                _check_rate(optimizer.get(name), f"optim_wrapper.optimizer.{name}")
        for pattern, factor in self._lr_mult.items():
            _check_rate(factor, f"optim_wrapper.paramwise_cfg.lr_mult[{pattern!r}]")
        optimizer["params"] = self._groups(model, optimizer["lr"])
        wrapper = {"type": LumenOptimWrapper, **self._wrapper, "optimizer": OPTIMIZERS.build(optimizer)}
        return OPTIM_WRAPPERS.build(wrapper)

    def _groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        groups: dict[tuple[float, str], list[nn.Parameter]] = {}
        # A pattern with a typing error would train parts at a rate that nobody chose.
        self._require_matches([name for name, _ in model.named_parameters()])
        by_muon: list[str] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                matching = [pattern for pattern in self._lr_mult if fnmatchcase(name, pattern)]
                # The last pattern that matches counts, so that a config goes from general to special.
                factor = self._lr_mult[matching[-1]] if matching else 1.0
                is_kept_out = any(fnmatchcase(name, pattern) for pattern in (*self._adamw, *TABLES))
                kind = self._kind(parameter, is_kept_out)
                # A group per rate and kind, not per parameter: a fused optimizer steps each group in one call.
                groups.setdefault((factor, kind), []).append(parameter)
                # A matrix with a rate of its own was named on purpose.
                if kind == "muon" and not matching:
                    by_muon.append(name)
        self._refuse_pretrained(model, by_muon)
        settings = {"vector": {"weight_decay": 0.0}, "matrix": {}, "muon": {"muon": True}}
        return [{"params": params, "lr": lr * factor, **settings[kind]} for (factor, kind), params in groups.items()]

    def _require_matches(self, names: Sequence[str]) -> None:
        """Refuse patterns without any parameter. Those of frozen parameters are fine: a stage may freeze what it likes.

        Raises:
            ConfigError: Names the setting and what the model has.
        """
        for key, patterns in (("lr_mult", self._lr_mult), ("adamw", self._adamw)):
            idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
            if idle:
                raise ConfigError(
                    f"optim_wrapper.paramwise_cfg.{key}: {idle} match no parameter of the model, whose parts are "
                    f"{part_patterns(names)}. Correct the patterns, or take them out of {key}"
                )

    def _refuse_pretrained(self, model: nn.Module, names: Sequence[str]) -> None:
        """Refuse to train matrices of a pretrained LMM by Muon, whose steps are as large as from scratch.

        Raises:
            ConfigError: Some of the parameters ``names`` of the model are such, and no ``lr_mult`` names them.
        """
        known = {f"lmm.{name}" for name in pretrained_names(model.lmm)} if isinstance(model, Lumen) else set()
        found = [name for name in names if name in known]
        if found:
            raise ConfigError(
                f"{len(found)} matrices of the pretrained LMM would be trained by Muon at its full rate, such as "
                f"{found[0]}: freeze them with FreezeHook, name them in paramwise_cfg.adamw, or give them a rate of "
                "their own in paramwise_cfg.lr_mult"
            )

    def _kind(self, parameter: nn.Parameter, is_kept_out: bool) -> str:
        if parameter.ndim < 2:
            return "vector"
        # A kernel is a matrix of (out, in * height * width); one row or column has no spectrum to even out.
        is_matrix = min(parameter.shape[0], parameter.flatten(1).shape[1]) > 1
        return "muon" if self._with_muon and is_matrix and not is_kept_out else "matrix"
