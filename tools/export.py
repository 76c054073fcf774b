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
  python tools/export.py CONFIG CHECKPOINT --out exported/nano --copy-base --license apache-2.0 --push my-org/nano
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
    parser.add_argument("--license", help="licence of what is exported, as the hub spells it: apache-2.0")
    parser.add_argument(
        "--copy-base", action="store_true", help="write a copy of the base model along; not with --decoder"
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="upload the folder to this repository of the hub")
    parser.add_argument("--private", action="store_true", help="--push: a new repository is private")
    options = parser.parse_args()
    if options.private and options.push is None:
        parser.error("--private belongs to --push")
    if options.copy_base and options.decoder is not None:
        parser.error("--copy-base writes the base of a whole model: leave it or --decoder out")
    return options


def main(options: argparse.Namespace) -> None:
    """Build the model, load the checkpoint, write."""
    config = load_tool_config(options, ROOT)
    from mmengine.registry import DefaultScope

    from lumen.data.annotations import parse_json
    from lumen.data.views import find_views
    from lumen.inference.hub import push_to_hub
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
        about = {"stage": options.stage, "card": card, "license_id": options.license}
        save_decoder(model, options.decoder, options.out, config=settings, **about)
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
            license_id=options.license,
            copy_base=options.copy_base,
        )
    print(f"wrote {options.out}")
    if options.push is not None:
        print(f"uploaded: {push_to_hub(options.out, options.push, private=options.private or None)}")


if __name__ == "__main__":
    run_tool(main, parse_options())
