"""What a second question about a picture costs a server, against the first.

The first decodes the file, runs the tower, and the LLM over the prefix; the second finds all that by the hash of the
file, and costs its phrases. Both end in boxes of the detection decoder. Random weights, float32, one thread, least CPU
time, taken in turns. The bar is a ratio, and holds only if the second answer is that of the first.
"""

import argparse
import hashlib
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table, time_in_turns

from lumen.aligners.dense import DenseAligner
from lumen.data.image import decode_image
from lumen.decoders.detection import DetectionDecoder
from lumen.inference.predictor import LumenPredictor
from lumen.inference.reports import Request
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.serving.asking import Answer, Job, answer_jobs
from lumen.serving.store import ImageStore

SIZES = LlavaSizes(layers=12, width=768, mlp_width=2048, vision_layers=12, vision_width=384, image_side=336)
WORDS = ("star", "red ring", "blue circle", "large cross", "heart", "small square", "triangle", "green star")
BAR = 8.0
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/second_question.py               a minute of CPU time
  OMP_NUM_THREADS=1 python tools/benchmarks/second_question.py --phrases 1 4 --rounds 2
"""


def main() -> None:
    """Measure each number of phrases, print a table, stop below the bar or at a difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--phrases", type=int, nargs="+", default=[1, 4, 8], help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hide_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        adapter = HFAdapter(str(make_llava(folder, SIZES)))
    print(f"LLM {SIZES.layers} x {SIZES.width}, {SIZES.num_image_tokens} image tokens")
    sys.exit("\n".join(measure(adapter, arguments.phrases, arguments.rounds, BAR)) or None)


def measure(adapter: HFAdapter, phrases: list[int], rounds: int, bar: float) -> list[str]:
    """Print the CPU time of both questions for each number of phrases; return what failed."""
    aligner = {"type": DenseAligner, "channels": 256, "num_heads": 8, "mlp_channels": 1024}
    predictor = LumenPredictor(Lumen(adapter, aligner, [{"type": DetectionDecoder}]))
    content, rows, failures = jpeg(), [], []
    for count in phrases:
        request = Request(WORDS[:count], "detection", 0.0)
        answers, kept = {}, ImageStore(max_images=1, max_bytes=2**40)
        answer_jobs(predictor, kept, [job_of(content, request)])
        ways = {
            "first": lambda answers=answers, request=request: answers.update(first=ask(predictor, content, request)),
            "second": lambda answers=answers, request=request, kept=kept: answers.update(
                second=ask(predictor, content, request, kept)
            ),
        }
        seconds = time_in_turns(ways, rounds)
        ratio = seconds["first"] / seconds["second"]
        rows.append([str(count), *(f"{1000 * seconds[name]:.0f}" for name in ways), f"{ratio:.1f}"])
        if not answers["second"].was_kept or not torch.allclose(
            answers["first"].table.bboxes, answers["second"].table.bboxes, atol=0.05
        ):
            failures.append(f"{count} phrases: the second answer differs from the first")
        if ratio < bar:
            failures.append(f"{count} phrases: {ratio:.1f} times cheaper, the bar is {bar:g}")
    print_table(["phrases", "first (ms)", "second (ms)", "ratio"], rows)
    return failures


def ask(predictor: LumenPredictor, content: bytes, request: Request, kept: ImageStore | None = None) -> Answer:
    """Answer a question as the server does: a picture that is kept is not decoded."""
    key = hashlib.sha256(content).hexdigest()
    if kept is not None and key in kept:
        return answer_jobs(predictor, kept, [Job(key, None, request)])[0]
    store = ImageStore(max_images=1, max_bytes=2**40)
    return answer_jobs(predictor, store, [job_of(content, request)])[0]


def job_of(content: bytes, request: Request) -> Job:
    """Return a question about a file."""
    return Job(hashlib.sha256(content).hexdigest(), decode_image(content, "the image"), request)


def jpeg(height: int = 480, width: int = 640) -> bytes:
    """Return a picture of smooth noise, as large as a small photo."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, format="JPEG")
    return file.getvalue()


if __name__ == "__main__":
    main()
