"""Requests per second and latency of a server under load, asking together against one by one.

Each request is a picture that the server has not seen, with some phrases. Both servers are processes of their own with
the same model; clients keep one request under way each. At the end the first server is overloaded: a queue of 8 and
more clients than that, of whose requests each must be answered, by 200 or 503. Loopback only.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path

import httpx2 as httpx
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _timing import print_table

WORDS = ("star", "red ring", "circle", "cross", "heart", "square", "triangle", "green star")
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/serve_load.py                    2 minutes
  OMP_NUM_THREADS=1 python tools/benchmarks/serve_load.py --clients 1 8 --requests 50
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came back.

    Args:
        seconds: Of the whole.
        latencies: Of each request that was answered 200, in seconds.
        answers: How often each status came; ``lost`` for a request without an answer.
    """

    seconds: float
    latencies: list[float]
    answers: Counter

    @property
    def rate(self) -> float:
        """Requests answered 200 per second."""
        return len(self.latencies) / self.seconds

    @property
    def p95(self) -> float:
        """Latency that 95 % of these requests kept, in milliseconds."""
        return 1000 * float(np.percentile(self.latencies, 95))


def main() -> None:
    """Load both servers, print tables, stop where a request was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=200, help="per number of clients (default: %(default)s)")
    parser.add_argument("--phrases", type=int, default=4, help="in a request (default: %(default)s)")
    parser.add_argument("--side", type=int, default=160, help="of the pictures and the input (default: %(default)s)")
    parser.add_argument("--serve", nargs=3, type=int, metavar=("PORT", "BATCH", "QUEUE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return run_server(arguments.side, *arguments.serve)
    pictures, rows = unseen_pictures(arguments.side), []
    for batch in (1, 8):
        with server(arguments.side, batch, 64) as url:
            load(url, pictures, 8, 16, arguments.phrases)  # warms up
            rows.append([load(url, pictures, number, arguments.requests, arguments.phrases)
                         for number in arguments.clients])  # fmt: skip
    table = [
        [str(number), *(text for way in (alone, together) for text in (f"{way.rate:.1f}", f"{way.p95:.0f}")),
         f"{together.rate / alone.rate:.2f}"]
        for number, alone, together in zip(arguments.clients, *rows, strict=True)
    ]  # fmt: skip
    header = ["clients", "one by one (1/s)", "p95 (ms)", "together (1/s)", "p95 (ms)", "x"]
    print_table(header, table)
    with server(arguments.side, 8, 8) as url:
        overload = load(url, pictures, 64, 2 * arguments.requests, arguments.phrases)
    print(f"\n64 clients, a queue of 8: {dict(sorted(overload.answers.items()))} of {2 * arguments.requests}")
    answers = sum((each.answers for way in rows for each in way), overload.answers)
    wrong = {status: times for status, times in answers.items() if status not in ("200", "503")}
    sys.exit(f"not answered by 200 or 503: {wrong}" if wrong else None)


def unseen_pictures(side: int) -> Iterator[bytes]:
    """Yield pictures that differ in a pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    smooth = np.array(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))
    return (_png(smooth, number) for number in count())


def _png(pixels: np.ndarray, number: int) -> bytes:
    changed, file = pixels.copy(), BytesIO()
    changed[0, 0] = (number % 256, number // 256 % 256, number // 65536)
    Image.fromarray(changed).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def load(url: str, pictures: Iterator[bytes], clients: int, requests: int, phrases: int) -> Load:
    """Send requests by so many clients and return what came back."""
    bodies = [next(pictures) for _ in range(requests)]
    latencies, answers = [], Counter()
    with httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_connections=clients)) as client:

        def send(body: bytes) -> None:
            start = time.perf_counter()
            try:
                data = {"phrases": WORDS[:phrases]}
                status = str(client.post("/predict", files={"image": body}, data=data).status_code)
            except httpx.TransportError as error:
                status = f"lost ({type(error).__name__})"
            answers[status] += 1
            if status == "200":
                latencies.append(time.perf_counter() - start)

        begin = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(send, bodies))
    return Load(time.perf_counter() - begin, latencies, answers)


@contextmanager
def server(side: int, batch: int, queue: int) -> Iterator[str]:
    """Run a server in a process of its own; yield its address."""
    command = [sys.executable, __file__, "--side", str(side), "--serve", "0", str(batch), str(queue)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        try:
            yield next(line for line in process.stdout if line.startswith("serving at ")).split()[-1]
        finally:
            process.terminate()


def run_server(side: int, port: int, batch: int, queue: int) -> None:
    """Serve the packaged nano with a decoder of random weights."""
    from lumen.serving.limits import Limits
    from lumen.serving.server import serve

    serve(lambda: make_predictor(side), Limits(batch=batch, queue=queue), host="127.0.0.1", port=port)


def make_predictor(side: int):
    """Return the model."""
    import torch

    from lumen.aligners.dense import DenseAligner
    from lumen.decoders.detection import DetectionDecoder
    from lumen.inference.predictor import LumenPredictor
    from lumen.lmm.adapter import HFAdapter
    from lumen.model import Lumen

    torch.set_num_threads(1)
    torch.manual_seed(0)
    aligner = {"type": DenseAligner, "channels": 96, "num_heads": 4, "mlp_channels": 256}
    model = Lumen(HFAdapter("nano"), aligner, [{"type": DetectionDecoder}], input_hw=(side, side))
    return LumenPredictor(model)


if __name__ == "__main__":
    main()
