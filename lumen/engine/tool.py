"""What the tools share: their common options, and errors in one line."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Huge pages spare a CPU about 5 % of a training step. torch reads this once, when it is imported, which is later.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool which runs a config has."""
    parser.add_argument("config", type=Path, help="pure-Python config; it is run as code")
    parser.add_argument("--work-dir", type=Path, help="folder for logs and checkpoints [work_dirs/<config name>]")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change settings, as in a.b=1 a.0.c=[1,2], or helpers of the config with all that uses them, as in _a.b=1",
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="how the processes were started")
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16, in training and evaluation")
    parser.add_argument("--plugin-dir", type=Path, help="folder that imports of the config start from")
    parser.add_argument("--seed", type=int, help="seed of the run")
    parser.add_argument("--threads", type=int, help="threads of torch [1 on a machine without GPU]")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")


def add_plugin_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a tool that builds a model without a config, which would import plug-ins itself."""
    parser.add_argument(
        "--plugins",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="Python files that register parts, run first",
    )
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")


def import_plugins(files: Sequence[Path]) -> None:
    """Import Python files, each with its folder on the import path.

    Raises:
        ConfigError: A file is missing, or has the name of another module.
    """
    from lumen.config import add_import_path
    from lumen.errors import ConfigError

    for file in files:
        if not file.is_file():
            raise ConfigError(f"there is no plug-in {file}; --plugins takes Python files")
        add_import_path(file.resolve().parent)
        module = importlib.import_module(file.stem)
        if Path(module.__file__ or "").resolve() != file.resolve():
            raise ConfigError(f"the plug-in {file} has the name of another module, {module.__file__}: rename it")


def load_tool_config(options: argparse.Namespace, tool_root: Path) -> Any:
    """Load the config that the options name, with their changes.

    Paths are looked for in the current folder, then in the checkout; the work folder is made in the current folder.

    Raises:
        ConfigError: See ``lumen.engine.check_config.load_config``.
    """
    from lumen.engine.check_config import check_config, load_config, parse_overrides

    # Overrides come first: a work folder or a seed given as an option of its own wins over them.
    overrides = parse_overrides(options.cfg_options)
    config = load_config(options.config, overrides, tool_root=tool_root, plugin_dir=options.plugin_dir)
    config.launcher = options.launcher
    if options.work_dir is not None or config.get("work_dir") is None:
        config.work_dir = str(options.work_dir or Path("work_dirs") / options.config.stem)
    if options.amp:
        # Training and evaluation alike: figures belong to the precision that they were computed in.
        for name in ("optim_wrapper", "val_cfg", "test_cfg"):
            if config.get(name) is not None:
                config[name]["dtype"] = "bfloat16"
    if options.seed is not None:
        config.setdefault("randomness", {})["seed"] = options.seed
    if options.threads is not None:
        config.setdefault("env_cfg", {})["num_threads"] = options.threads
    check_config(config)
    return config


def run_tool(main: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run ``main``; an error of Lumen or of the system becomes one line and exit code 2, unless ``--debug`` is given.

    Ctrl-C ends in one line and exit code 130.
    """
    from lumen.errors import LumenError

    try:
        main(options)
    except (LumenError, OSError) as error:  # of the system: a full or read-only disk, no permission
        if options.debug:
            raise
        print("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if options.debug:
            raise
        print("interrupted; what was saved stays", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
