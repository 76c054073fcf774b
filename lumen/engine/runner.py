"""The runner: MMEngine's, with checkpoints that are data, exact resumes, and freezing before wrapping."""

import time
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from lumen import __version__
from lumen.data.check import class_difference
from lumen.data.pipelines import FedModel, fill_pipelines
from lumen.engine.ddp import LumenDDP, unwrapped
from lumen.engine.fsdp import FSDP2
from lumen.engine.hooks import CheckImagesHook, SafeCheckpointHook
from lumen.engine.loops import LumenTestLoop, LumenTrainLoop, LumenValLoop
from lumen.engine.optim import LumenOptimWrapper
from lumen.engine.precision import check_autocast, is_mixed, widen_trained
from lumen.engine.ranks import start_cpu_ranks
from lumen.engine.reproducible import kept_rng, reproducible, rng_state, set_rng_state
from lumen.engine.resuming import require_resumable, rng_of_rank, warn_about_config
from lumen.engine.schedule import placed_schedulers
from lumen.engine.stopping import StopSignal, start_worker
from lumen.engine.work_folder import held
from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.lmm.tokens.limits import text_limits
from lumen.model import Lumen
from lumen.paths import find_path
from lumen.registry import MODEL_WRAPPERS, RUNNERS
from lumen.serialization.atomic import write_text
from lumen.serialization.checkpoint import (
    absent_names,
    describe,
    load_checkpoint,
    load_newest,
    load_trained_state,
    plain,
    save_checkpoint,
    trained_state,
)
from lumen.serialization.sharding import gather, shard_optimizer_state

_WHOLE = "_whole"  # behind the name of a config that is written with all that it inherits


@RUNNERS.register_module()
class LumenRunner(Runner):
    """Trains by iteration and saves what was trained. Takes MMEngine's arguments, with these differences.

    - ``load_from``: a path, or ``dict(checkpoint=path, fresh=[patterns])``; ``fresh`` names what may differ from the
      checkpoint, such as the decoders of a new stage.
    - ``resume``: True for the newest checkpoint of ``work_dir``, or a path. It wins over ``load_from``: a checkpoint
      holds everything that differs from the base model, also what an earlier stage trained.
    - ``env_cfg``: takes ``num_threads``, the threads of torch; on a machine without GPU the default is 1.
    - ``train_cfg``, ``val_cfg``, ``test_cfg``: loops of ``lumen.engine.loops``; training counts iterations.
    - ``param_scheduler``: also ``dict(type=WarmUpThenDecay, ...)`` of ``lumen.engine.schedule``.
    - ``optim_wrapper.accumulative_counts``: see ``LumenOptimWrapper``.
    - Loaders: transforms without ``input_hw`` or ``task`` get what the model needs, see
      ``lumen.data.pipelines.fill_pipelines``.
    - ``model_wrapper_cfg``: also ``dict(type=FSDP2, ...)`` of ``lumen.engine.fsdp``.
    - Hooks may have ``after_build_model(runner)``, called before the model is moved and wrapped.
    - What is trained of a base model in bfloat16 or float16 is cast to float32 then, so that weights, optimizer and
      checkpoints are float32.
    """

    _beyond_base: frozenset[str] = frozenset()

    @cached_property
    def stop(self) -> StopSignal:
        """Whether the training is asked to end."""
        return StopSignal()

    def train(self) -> nn.Module:
        """Train to the end and return the model.

        Raises:
            ConfigError: Another training writes into the work folder.
            SystemExit: With ``lumen.engine.ending.EXIT_AGAIN``, after a SIGTERM and a save.
        """
        with held(Path(self.work_dir)) if is_main_process() else nullcontext():
            if is_main_process():
                self._write_config()
            return super().train()

    @property
    def is_resuming(self) -> bool:
        """Whether the run continues one, or would if that had saved something."""
        return bool(self._resume) or self.iter > 0

    @property
    def iter(self) -> int:
        """Iterations done; 0 before training. MMEngine would build the training loop, and its data, to answer this."""
        return self._train_loop.iter if isinstance(self._train_loop, BaseLoop) else 0

    @property
    def epoch(self) -> int:
        """Epochs done; 0 before training."""
        return self._train_loop.epoch if isinstance(self._train_loop, BaseLoop) else 0

    def dump_config(self) -> None:
        """Do nothing: MMEngine calls this before it is known whether another training holds the work folder."""

    def _write_config(self) -> None:
        """Write the config into the work folder; one that was read from there stays as it was written."""
        source, folder = Path(self.cfg.filename or f"{self.timestamp}.py"), Path(self.work_dir)
        # With all that it inherits, and with the overrides of the command line; the newest one of a folder is used.
        is_there = source.resolve().parent == folder.resolve()
        name = f"{source.stem.removesuffix(_WHOLE)}{_WHOLE}.py" if is_there else source.name
        write_text(folder / name, self.cfg.pretty_text)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Set the number of threads, join the other ranks, then set what MMEngine sets."""
        # A second thread of a small model mostly spins, and loader workers need the other cores.
        default = torch.get_num_threads() if torch.cuda.is_available() else 1
        torch.set_num_threads(env_cfg.get("num_threads") or default)
        start_cpu_ranks(self.launcher, env_cfg.get("dist_cfg") or {})
        super().setup_env(env_cfg)

    def register_hooks(
        self, default_hooks: dict[str, Hook | dict] | None = None, custom_hooks: list[Hook | dict] | None = None
    ) -> None:
        """Register the hooks, let them freeze, then move and wrap the model, once it is known what is frozen."""
        # Every run has these two; a config replaces them by name.
        always = {"checkpoint": {"type": SafeCheckpointHook}, "images": {"type": CheckImagesHook}}
        super().register_hooks({**always, **(default_hooks or {})}, custom_hooks)
        for hook in self.hooks:
            if isinstance(hook, CheckpointHook | EMAHook):
                raise ConfigError(
                    f"{type(hook).__name__} of MMEngine writes checkpoints that a kill can destroy; use "
                    "SafeCheckpointHook and EmaHook of lumen.engine.hooks"
                )
        # Hooks freeze now: what is cast, wrapped and sharded depends on what is trained.
        self.call_hook("after_build_model")
        if self.optim_wrapper is not None:
            self._widen_trained()
        # MMEngine wraps before it registers hooks, so `wrap_model` does nothing and the model is wrapped here.
        self.model = self._wrapped(self.cfg.get("model_wrapper_cfg"))

    def _widen_trained(self) -> None:
        """Cast what is trained to float32, once it is known what is frozen."""
        widened = widen_trained(self.model)
        if not widened:
            return
        self.logger.info(f"{len(widened)} trained parameters of 16 bits are kept in float32")
        if is_mixed(self.model):
            places = {"optim_wrapper": self.optim_wrapper, "val_cfg": self._val_loop, "test_cfg": self._test_loop}
            check_autocast(widened, places)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Return the model as it is: ``register_hooks`` wraps it."""
        return model

    def _wrapped(self, settings: dict[str, Any] | None) -> nn.Module:
        if not self.distributed:
            return super().wrap_model(None, self.model)
        if settings is None:
            settings = {"find_unused_parameters": self.cfg.get("find_unused_parameters", False)}
        named = settings.get("type", LumenDDP)
        kind = MODEL_WRAPPERS.get(named) if isinstance(named, str) else named
        if kind is None:
            raise ConfigError(f"model_wrapper_cfg.type must be LumenDDP, FSDP2 or a registered wrapper, got {named!r}")
        if kind is not FSDP2:
            return super().wrap_model({**settings, "type": kind}, self.model)
        # Weights are drawn before sharding: afterwards a rank has only a part of each tensor.
        if hasattr(self.model, "init_weights"):
            self.model.init_weights()
        # Not moved to the device as a whole: it may not fit there.
        return FSDP2(self.model, **{key: value for key, value in settings.items() if key != "type"})

    def _init_model_weights(self) -> None:
        """Start the weights as MMEngine does; what is sharded was started before it was cut."""
        if not isinstance(self.model, FSDP2):
            super()._init_model_weights()

    def build_train_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build the loop by iteration on data whose order and augmentation continue after a restart."""
        if isinstance(loop, BaseLoop):
            return loop
        if loop.get("by_epoch"):
            raise ConfigError("train_cfg.by_epoch must not be True: Lumen trains by iteration; give max_iters")
        settings = {"type": LumenTrainLoop, **{key: value for key, value in loop.items() if key != "by_epoch"}}
        # A loader that is built already keeps its own order, which cannot be continued.
        if isinstance(self._train_dataloader, dict):
            self._train_dataloader = reproducible(self._filled(self._train_dataloader, learns=True), self.seed)
            self._train_dataloader.setdefault("worker_init_fn", self._worker_start(self._train_dataloader))
        # Before MMEngine builds the loader: accumulation changes its batch size.
        self._accumulate()
        return super().build_train_loop(settings)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers; ``WarmUpThenDecay`` takes its place from the length of the run."""
        return super().build_param_scheduler(placed_schedulers(scheduler, self.max_iters))

    def build_val_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build ``LumenValLoop``, unless the config names another; warn where its classes are not those of training."""
        self._val_dataloader = self._filled(self._val_dataloader)
        if isinstance(self._val_dataloader, dict):
            self._val_dataloader.setdefault("worker_init_fn", self._worker_start(self._val_dataloader))
        built = super().build_val_loop(loop if isinstance(loop, BaseLoop) else {"type": LumenValLoop, **loop})
        if isinstance(self._train_loop, BaseLoop):
            # A warning only: a validation set may ask for fewer classes on purpose.
            difference = class_difference(self._train_loop.dataloader.dataset, built.dataloader.dataset)
            if difference is not None:
                self.logger.warning(difference)
        return built

    def _worker_start(self, dataloader: dict[str, Any]) -> dict[str, Any]:
        workers = {"num_workers": dataloader.get("num_workers", 0), "rank": get_rank()}
        return {"type": start_worker, **workers, "seed": self.seed}

    def build_test_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build ``LumenTestLoop``, unless the config names another."""
        self._test_dataloader = self._filled(self._test_dataloader)
        return super().build_test_loop(loop if isinstance(loop, BaseLoop) else {"type": LumenTestLoop, **loop})

    def _filled(self, dataloader: DataLoader | dict[str, Any], *, learns: bool = False) -> DataLoader | dict[str, Any]:
        """Return a loader whose transforms have the size and the task that the model needs."""
        model = unwrapped(self.model)
        if not isinstance(dataloader, dict) or not isinstance(model, FedModel):
            return dataloader
        inputs = model.inputs
        # Features from a cache hold no text, and have no `input_spec`.
        if learns and isinstance(model, Lumen) and model.lmm.input_spec is not None:
            inputs = replace(inputs, fit_text=text_limits(model.lmm, inputs.input_hw))
        return fill_pipelines(dataloader, inputs)

    def _accumulate(self) -> None:
        """Load ``accumulative_counts`` batches as one, which the model computes in so many pieces.

        Raises:
            ConfigError: They could not be computed as one batch.
        """
        wrapper, loader, model = self.optim_wrapper, self._train_dataloader, unwrapped(self.model)
        counts = (wrapper if isinstance(wrapper, dict) else vars(wrapper)).get("accumulative_counts", 1)
        if counts <= 1:  # below 1 is refused where the wrapper is built
            return
        # Losses are divided by counts over all pieces, which only the train step of `Lumen` knows how to do.
        takes_pieces = isinstance(self.model, Lumen | LumenDDP | FSDP2) and isinstance(model, Lumen)
        if not takes_pieces or not isinstance(loader, dict) or "batch_size" not in loader:
            raise ConfigError(
                f"accumulative_counts={counts} works for a Lumen, alone or in LumenDDP or FSDP2, whose "
                f"train_dataloader is a dict with a batch_size, got {type(model).__name__} in "
                f"{type(self.model).__name__}"
            )
        model.num_micro_batches = counts
        # One loaded batch is one step; the model cuts it into pieces.
        loader["batch_size"] *= counts

    def save_checkpoint(
        self, out_dir: str, filename: str, *, num_iters: int, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Save everything that differs from the base model, and what an exact resume needs. All ranks call it.

        Args:
            out_dir: Folder, which exists.
            filename: Name of the file.
            num_iters: Iterations that are done.
            metrics: Figures to note in ``meta``.

        Raises:
            LumenError: Weights, buffers or the state of the optimizer are not finite; older checkpoints stay.
        """
        if isinstance(self.optim_wrapper, LumenOptimWrapper):
            self.optim_wrapper.require_finite()
        model = unwrapped(self.model)
        checkpoint = {
            "state_dict": trained_state(model, self._beyond_base),
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in self.param_schedulers or ()],
            "rng": all_gather_object(rng_state()),
            "hooks": {},
            "meta": self._meta(num_iters, metrics or {}),
        }
        # Names that a loader takes from the base model, so that a missing weight is told from one left out.
        checkpoint["meta"]["absent"] = absent_names(model, checkpoint["state_dict"])
        # Hooks add their states, such as the averaged weights, before shards are gathered.
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        # All ranks take part in gathering; only the first one keeps the result.
        checkpoint = gather(checkpoint, keep=is_main_process())
        if is_main_process():
            save_checkpoint(Path(out_dir) / filename, plain(checkpoint))

    def load_or_resume(self) -> None:
        """Resume, or load weights, or do nothing, as ``resume`` and ``load_from`` say; once."""
        if self._has_loaded:
            return
        # `resume` comes before `load_from`: its checkpoint holds what `load_from` had loaded as well.
        if self._resume is True:
            newest = load_newest(self.work_dir, self.logger.warning)
            if newest is None:
                self.logger.warning(f"{self.work_dir} holds no checkpoint to resume from; training starts anew")
        else:
            newest = (self._resume, load_checkpoint(find_path(self._resume))) if self._resume else None
        if newest is not None:
            self._resume_from(*newest)
        elif isinstance(self._load_from, dict):
            self.load_checkpoint(self._load_from["checkpoint"], fresh=self._load_from.get("fresh", ()))
        elif self._load_from is not None:
            self.load_checkpoint(self._load_from)
        self._has_loaded = True

    def load_checkpoint(self, filename: str | Path, *, fresh: Collection[str] = ()) -> None:
        """Load weights only.

        Args:
            filename: Path of the checkpoint, looked for in the current folder and then in the checkout.
            fresh: Glob patterns of names that may differ, see ``load_trained_state``.
        """
        checkpoint = load_checkpoint(find_path(filename))
        self._load_weights({"state_dict": checkpoint["state_dict"], "meta": checkpoint["meta"]}, fresh)
        self._has_loaded = True
        self.logger.info(f"loaded weights from {filename}")

    def resume(self, filename: str | Path) -> None:
        """Continue a run exactly where the checkpoint left it.

        Raises:
            CheckpointError: The checkpoint does not fit the model, or its run had another seed.
        """
        self._resume_from(filename, load_checkpoint(find_path(filename)))

    def _resume_from(self, filename: str | Path, checkpoint: dict[str, Any]) -> None:
        with named_faults(f"{filename} cannot be resumed", CheckpointError, remedy="resume from another checkpoint"):
            require_resumable(checkpoint, filename, seed=self.seed)
            meta = checkpoint["meta"]
            warn_about_config(meta["config"], self.cfg.pretty_text, self.logger.warning)
            self._load_weights(checkpoint, ())
            optimizer = self.optim_wrapper.optimizer
            self.optim_wrapper.load_state_dict(shard_optimizer_state(optimizer, checkpoint["optimizer"]))
            self._load_schedulers(checkpoint["param_schedulers"])
            rng = rng_of_rank(checkpoint["rng"], self.logger.warning)
            if rng is not None:
                with kept_rng():  # damaged states are found now, not amid training
                    set_rng_state(rng)
            self.train_loop.resume(num_iters=meta["iter"], rng=rng)
        self._has_loaded = True
        self.logger.info(f"resumed from {filename}, iteration {meta['iter']}")

    def _load_weights(self, checkpoint: dict[str, Any], fresh: Collection[str]) -> None:
        model = unwrapped(self.model)
        # Training continues with the raw weights; `state_dict` is their average where there is one.
        weights = checkpoint.get("raw_state_dict", checkpoint["state_dict"])
        # What an earlier stage trained is saved again, also where it is frozen now.
        self._beyond_base |= load_trained_state(model, {**checkpoint, "state_dict": weights}, fresh=fresh)
        # Settings that change what the weights mean, such as the position of the query; a warning, not an error.
        recorded, present = checkpoint["meta"].get("model", {}), describe(model)
        for key in sorted(recorded.keys() & present.keys()):
            if recorded[key] != present[key]:
                self.logger.warning(
                    f"the checkpoint was made with {key}={recorded[key]}, this model has {key}={present[key]}"
                )
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)

    def _load_schedulers(self, states: list[dict[str, Any]]) -> None:
        schedulers = self.param_schedulers or []
        if len(states) != len(schedulers):
            raise CheckpointError(f"the checkpoint has {len(states)} schedulers, this config {len(schedulers)}")
        for scheduler, state in zip(schedulers, states, strict=True):
            scheduler.load_state_dict(state)

    def _meta(self, num_iters: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "iter": num_iters,
            "epoch": self.epoch,
            "seed": self.seed,
            "world_size": get_world_size(),
            "config": self.cfg.pretty_text,
            "model": describe(unwrapped(self.model)),
            "metrics": dict(metrics),
            "lumen_version": __version__,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
