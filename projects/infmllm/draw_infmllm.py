"""Draw what a trained InfMLLM in small writes about images of the test split: boxes of sentences, answers, a caption.

python projects/infmllm/draw_infmllm.py work_dirs/infmllm_s2_nano/iter_250.pth --out docs/assets/infmllm_nano.jpg
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from lumen import visualization as vis
from lumen.data.pipelines import fill_pipelines
from lumen.engine.check_config import load_config
from lumen.inference.predictor import LumenPredictor
from lumen.registry import DATASETS
from lumen.structures import PerceptionSample, Prompt
from lumen.visualization import RgbImage

FOLDER = Path(__file__).parent
NUM_SENTENCES, NUM_QUESTIONS = 3, 4
CELL_WH = (346, 520)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of infmllm_s2_nano.py or infmllm_s3_nano.py")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .jpg or .png")
    parser.add_argument("--columns", type=int, default=4, help="so many images, the first with as many sentences")
    return parser.parse_args()


def samples_of(evaluation: str, predictor: LumenPredictor) -> Iterator[PerceptionSample]:
    """Yield the samples of an evaluation."""
    config = load_config(FOLDER / f"infmllm_eval_{evaluation}_nano.py", tool_root=FOLDER.parents[1])
    images = DATASETS.build(fill_pipelines(config.test_dataloader.dataset, predictor.model.inputs))
    return (image["data_samples"] for image in images)


def draw(predictor: LumenPredictor, path: str, sentences: list[str], questions: list[Prompt]) -> RgbImage:
    """Return an image with the boxes that are written for sentences, and answers and a caption below it."""
    image = np.array(Image.open(path).convert("RGB"))
    asked = predictor.image(image)
    found = asked.predict(sentences, task="written_boxes")
    picture = vis.draw_boxes(image, found.bboxes.numpy(), found.labels.tolist(), sentences)
    answers = asked.predict([question.text for question in questions], task="vqa").texts
    caption = asked.predict(task="caption").texts
    return vis.draw_texts(picture, [*questions, Prompt("", task="caption")], [*answers, *caption])


def main() -> None:
    """Draw one image a column."""
    args = parse_args()
    predictor = LumenPredictor.from_checkpoint(FOLDER / "infmllm_eval_grounding_nano.py", args.checkpoint)
    long = (sample for sample in samples_of("grounding", predictor) if len(sample.prompts) >= NUM_SENTENCES)
    sentences = {
        sample.img_path: [prompt.text for prompt in sample.prompts[:NUM_SENTENCES]]
        for sample in islice(long, args.columns)
    }
    asked = (sample for sample in samples_of("vqa", predictor) if sample.img_path in sentences)
    pictures = [
        draw(predictor, sample.img_path, sentences[sample.img_path], list(sample.prompts[:NUM_QUESTIONS]))
        for sample in islice(asked, len(sentences))
    ]
    sheet = vis.contact_sheet(pictures, columns=args.columns, cell_wh=CELL_WH)
    Image.fromarray(sheet).save(args.out, quality=82)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
