"""Draw what a trained L-Man answers about pictures of the test split: boxes, keypoints, parts, attributes, numbers.

python projects/lman/draw_persons.py work_dirs/lman_s2_nano/iter_700.pth --out projects/lman/persons.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from lman_world.appearance import ATTRIBUTES
from lman_world.figure import KEYPOINTS, PARTS, SKELETON
from PIL import Image

from lumen import visualization as vis
from lumen.inference.predictor import LumenPredictor
from lumen.visualization import RgbImage

FOLDER = Path(__file__).parent
CELL = 240


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of lman_s2_nano.py")
    parser.add_argument("--data", type=Path, default=Path("data/persons"), help="the person world")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .jpg or .png")
    parser.add_argument("--numbers", type=int, nargs=4, default=[2, 3, 6, 7], help="which pictures of each kind")
    return parser.parse_args()


def draw_scene(predictor: LumenPredictor, image: RgbImage) -> RgbImage:
    """Return an image with the persons that are found in it, their boxes and skeletons."""
    asked = predictor.image(image)
    answer = asked.pose("person", [name.replace("_", " ") for name in KEYPOINTS])
    picture = vis.draw_boxes(image, answer.bboxes.numpy(), [0] * len(answer), ["person"], answer.box_scores.tolist())
    factor = picture.shape[0] / image.shape[0]
    return vis.draw_skeletons(picture, answer.keypoints.numpy() * factor, answer.keypoint_scores.numpy(), SKELETON)


def draw_portrait(predictor: LumenPredictor, image: RgbImage) -> RgbImage:
    """Return an image with the parts of the person, and below it the attributes that are affirmed."""
    asked = predictor.image(image)
    # The background is asked too, since masks make room for each other.
    parts = asked.predict(["background", *PARTS], task="semantic_segmentation")
    parts = parts[parts.labels > 0]
    attributes = asked.predict(ATTRIBUTES, task="attributes", score_threshold=0.5)
    picture = vis.draw_masks(image, parts.masks, parts.labels.tolist())
    return vis.stacked(
        picture, vis.text_block([", ".join(sorted(attributes.phrases)) or "no attribute"], width=picture.shape[1])
    )


def draw_crowd(predictor: LumenPredictor, image: RgbImage) -> RgbImage:
    """Return an image with the number of persons below it."""
    answer = predictor.image(image).predict(["person"], task="counting")
    return vis.draw_counts(image, ["person"], answer.counts.tolist())


def main() -> None:
    """Draw four pictures of each kind, one kind a row."""
    args = parse_args()
    predictor = LumenPredictor.from_checkpoint(FOLDER / "lman_eval_detection.py", args.checkpoint)
    rows = {"scenes": draw_scene, "portraits": draw_portrait, "crowds": draw_crowd}
    pictures = [
        draw(predictor, np.array(Image.open(args.data / kind / "test" / f"{number:06d}.jpg").convert("RGB")))
        for kind, draw in rows.items()
        for number in args.numbers
    ]
    sheet = vis.contact_sheet(pictures, columns=len(args.numbers), cell_wh=(CELL, CELL))
    Image.fromarray(sheet).save(args.out, quality=82)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
