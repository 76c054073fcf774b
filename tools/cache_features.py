"""Store the LMM features of a data set, so that decoders train without the LMM.

A config of the cached stage is the full config with these lines; metrics, aligner and decoders stay as they are:

    model["lmm"] = dict(type=CachedAdapter, cache="data/cache/train", lmm=model["lmm"])
    train_dataloader["dataset"] = dict(
        type=CachedFeatures, cache="data/cache/train", dataset=train_dataloader["dataset"])
    val_dataloader["dataset"] = dict(type=CachedFeatures, cache="data/cache/val", dataset=val_dataloader["dataset"])
    test_dataloader = val_dataloader
    load_from = dict(checkpoint="work_dirs/detection_nano_shapes/iter_2300.pth", fresh=["decoders.segmentation.*"])
    custom_hooks = [dict(type=FreezeHook, freeze=["aligner.*", "decoders.detection.*"])]

``fresh`` names the new decoders, ``freeze`` what is not trained. Checkpoints of this stage load with the full config.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.engine.tool import add_common_options, load_tool_config, run_tool  # noqa: E402

EXAMPLES = """examples:
  python tools/cache_features.py configs/detection/detection_nano_shapes.py iter_2300.pth --out data/cache/val
  python tools/cache_features.py configs/detection/detection_nano_shapes.py iter_2300.pth --out data/cache/train \\
      --split train --dtype bfloat16 --cfg-options train_dataloader.dataset.pipeline.1.flip_probability=0
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument("checkpoint", type=Path, help="checkpoint, or a work dir for its newest one")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="which data set of the config [%(default)s]"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of the features [%(default)s]"
    )
    parser.add_argument("--extras", nargs="+", default=[], help="further features, such as images")
    parser.add_argument("--batch-size", type=int, default=4, help="images at once [%(default)s]")
    parser.add_argument("--device", default="cpu", help="where to compute [%(default)s]")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Load the config and write the cache."""
    config = load_tool_config(options, ROOT)
    import torch

    from lumen.engine.caching import CacheOptions, write_cache
    from lumen.serialization.checkpoint import named_checkpoint

    torch.set_num_threads(options.threads or (torch.get_num_threads() if torch.cuda.is_available() else 1))
    checkpoint = named_checkpoint(options.checkpoint)
    chosen = CacheOptions(
        dtype=options.dtype,
        extras=tuple(options.extras),
        batch_size=options.batch_size,
        seed=config.get("randomness", {}).get("seed", 0),
        device=options.device,
        amp=options.amp,
    )
    write_cache(config, checkpoint, options.split, options.out, chosen)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_tool(main, parse_options())
