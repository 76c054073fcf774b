"""Export a checkpoint as a folder of safetensors, JSON and a README.md, to be shared."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lumen.engine.tool import add_common_options, load_tool_config, run_tool  # noqa: E402

EXAMPLES = """examples:
  python tools/export.py configs/detection/detection_nano_shapes.py work_dirs/detection_nano_shapes \\
      --out exported/nano --card work_dirs/detection_nano_shapes/protocol_test.json
  python tools/export.py CONFIG CHECKPOINT --out exported/masks --decoder segmentation
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument("checkpoint", type=Path, help="checkpoint, or a work dir for its newest one")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--decoder", metavar="TASK", help="write the decoder of this task alone")
    parser.add_argument(
        "--stage", default="decoding", help="how that decoder was trained, for the model card [%(default)s]"
    )
    parser.add_argument("--classes", nargs="+", help="phrases that the exported model is asked by default")
    parser.add_argument(
        "--card", type=Path, help="protocol_test.json of an evaluation, for the figures of the model card"
    )
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Build the model, load the checkpoint, write."""
    config = load_tool_config(options, ROOT)
    from mmengine.registry import DefaultScope

    from lumen.data.annotations import parse_json
    from lumen.data.views import find_views
    from lumen.inference.pretrained import decoder_config, save_decoder, save_pretrained
    from lumen.registry import MODELS
    from lumen.serialization.checkpoint import load_checkpoint, load_trained_state, named_checkpoint

    checkpoint = load_checkpoint(named_checkpoint(options.checkpoint))
    card = None if options.card is None else parse_json(options.card)
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(config.model).eval()
    names = load_trained_state(model, checkpoint)
    if options.decoder is not None:
        settings = decoder_config(config.model, options.decoder)
        save_decoder(model, options.decoder, options.out, config=settings, stage=options.stage, card=card)
    else:
        about = {"iter": str(checkpoint["meta"].get("iter", "?")), "config": options.config.name}
        save_pretrained(
            model,
            options.out,
            config=config.model,
            views=find_views(config, model.inputs),
            names=names,
            classes=options.classes,
            description=about,
            card=card,
        )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_tool(main, parse_options())
