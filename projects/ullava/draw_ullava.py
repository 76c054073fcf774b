"""Draw what a trained u-LLaVA answers about images of the test splits, salient objects and sentences: mask, box, tag.

python projects/ullava/draw_ullava.py work_dirs/ullava_s2_nano/iter_1500.pth --out docs/assets/ullava_nano.jpg
"""

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from ullava_samples import parse_tag

from lumen import visualization as vis
from lumen.data.pipelines import fill_pipelines
from lumen.engine.check_config import load_config
from lumen.inference.predictor import LumenPredictor
from lumen.registry import DATASETS
from lumen.structures import PerceptionSample
from lumen.visualization import RgbImage

FOLDER = Path(__file__).parent
ROWS = {"salient": 1, "referring": 2}
"""Questions about each image, by evaluation: a row for each."""
CELL = 240


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of ullava_s2_nano.py")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .jpg or .png")
    parser.add_argument("--columns", type=int, default=5, help="so many images, the first with as many questions")
    return parser.parse_args()


def draw(predictor: LumenPredictor, sample: PerceptionSample, number: int) -> list[RgbImage]:
    """Return the image once for each of its first questions, with what is answered, and the tag below it."""
    image = np.array(Image.open(sample.img_path).convert("RGB"))
    questions = [prompt.text for prompt in sample.prompts[:number]]
    answer = predictor.image(image).predict(questions, task="ullava")
    pictures = []
    for row in range(len(answer)):
        one = answer[row : row + 1]
        picture = vis.draw_masks(image, one.masks, [0])
        picture = vis.draw_boxes(picture, one.bboxes.numpy() * picture.shape[0] / image.shape[0], [0], ["box"])
        text = f"{answer.phrases[row]} {parse_tag(answer.texts[row])}"
        pictures.append(vis.stacked(picture, vis.text_block([text], width=picture.shape[1])))
    return pictures


def draw_rows(evaluation: str, checkpoint: Path, columns: int) -> list[RgbImage]:
    """Return the rows of an evaluation, one after the other: a column for each image."""
    path, number = FOLDER / f"ullava_eval_{evaluation}_nano.py", ROWS[evaluation]
    predictor = LumenPredictor.from_checkpoint(path, checkpoint)
    config = load_config(path, tool_root=FOLDER.parents[1])
    images = DATASETS.build(fill_pipelines(config.test_dataloader.dataset, predictor.model.inputs))
    samples = (image["data_samples"] for image in images)
    long = islice((sample for sample in samples if len(sample.prompts) >= number), columns)
    drawn = [draw(predictor, sample, number) for sample in long]
    return [pictures[row] for row in range(number) for pictures in drawn]


def main() -> None:
    """Draw all rows as one picture."""
    args = parse_args()
    pictures = [picture for name in ROWS for picture in draw_rows(name, args.checkpoint, args.columns)]
    sheet = vis.contact_sheet(pictures, columns=args.columns, cell_wh=(CELL, CELL))
    Image.fromarray(sheet).save(args.out, quality=75)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
