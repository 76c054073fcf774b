"""Print a config as a runner gets it: bases and overrides applied, every name checked, helpers gone.

With ``--filled`` also what is derived from the model and the length of the run: the size of images and the task in each
pipeline, and the schedule of the rate.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.engine.tool import add_common_options, load_tool_config, run_tool  # noqa: E402

EXAMPLES = """examples:
  python tools/print_config.py configs/detection/detection_nano_shapes.py
  python tools/print_config.py configs/detection/detection_nano_shapes.py --filled --cfg-options _ask.num_prompts=4
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument("--filled", action="store_true", help="with what is derived from the model and from max_iters")
    return parser.parse_args()


def with_names(node: Any) -> Any:
    """Return a config with classes and functions as the texts that a dumped config names them by."""
    if isinstance(node, Mapping):
        return {key: with_names(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(map(with_names, node))
    return f"{node.__module__}.{node.__qualname__}" if callable(node) else node


def main(options: argparse.Namespace) -> None:
    """Load, fill and print."""
    config = load_tool_config(options, ROOT)
    if options.filled:
        from lumen.data.pipelines import fill_pipelines
        from lumen.engine.model_inputs import inputs_of_config
        from lumen.engine.schedule import placed_schedulers

        inputs = inputs_of_config(config)
        for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
            if config.get(name) is not None:
                config[name] = with_names(fill_pipelines(config[name], inputs))
        if config.get("train_cfg") is not None:
            schedulers = placed_schedulers(config.get("param_scheduler"), config.train_cfg["max_iters"])
            config.param_scheduler = with_names(schedulers)
    print(Config(config._cfg_dict).pretty_text)  # formatted, which a config of a run is not: that takes a second


if __name__ == "__main__":
    run_tool(main, parse_options())
