"""Answers of one predictor under many threads, each compared with the answer of a single thread."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from experiments.results import Results
from lumen.inference.predictor import LumenPredictor
from soaking._machine import provenance
from soaking._model import save_tiny_model

NAMES = ("star", "red ring", "circle", "blue square", "the small cross", "arrow")
SIZES_HW = ((48, 64), (64, 48), (90, 120), (33, 77))
CHUNK = 1000


def soak_threads(results: Results, *, answers: int, threads: int, seed: int) -> None:
    """Ask for so many answers, in chunks; a chunk that is in the results is not repeated."""
    with TemporaryDirectory() as place:
        predictor = LumenPredictor.from_pretrained(save_tiny_model(Path(place))[0], device="cpu")
        for number in range(-(-answers // CHUNK)):
            size = min(CHUNK, answers - number * CHUNK)
            row = {"what": "threads", "seed": seed, "chunk": number, "answers": size, "threads": threads}
            if not results.find(**row):
                row["faults"] = ask_in_threads(predictor, answers=size, threads=threads, rng=Random(f"{seed} {number}"))
                results.add(row | provenance())
                print(f"threads, {size} answers: {len(row['faults'])} differ", flush=True)


def ask_in_threads(predictor: LumenPredictor, *, answers: int, threads: int, rng: Random) -> list[str]:
    """Return which answers of several threads differ from those of one thread, in any bit."""
    images = [_image(number) for number in range(8)]
    questions = [
        (rng.randrange(len(images)), tuple(rng.sample(NAMES, rng.randint(1, 4))), rng.choice([0.0, 0.05, 0.3]))
        for _ in range(answers)
    ]

    def ask(question: tuple[int, tuple[str, ...], float]) -> Any:
        number, phrases, threshold = question
        return predictor.image(images[number]).predict(list(phrases), score_threshold=threshold)

    expected = {question: ask(question) for question in dict.fromkeys(questions)}
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(ask, questions))
    return [
        str(question)
        for question, table in zip(questions, found, strict=True)
        if not _is_equal(table, expected[question])
    ]


def _image(seed: int) -> np.ndarray:
    size_hw = SIZES_HW[seed % len(SIZES_HW)]
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def _is_equal(first: Any, second: Any) -> bool:
    if set(first.keys()) != set(second.keys()):
        return False
    pairs = [(value, second[name]) for name, value in first.items()]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
