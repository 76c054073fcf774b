"""Image files that cannot be used: found before the first step of a run, and passed over in an evaluation."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from lumen.data.check import CUT, image_problem
from lumen.data.image import PAD_VALUE
from lumen.errors import DataError

_THREADS = 8


def grey_in_test(
    read: Callable[[Mapping[str, Any]], np.ndarray], results: dict[str, Any], size: tuple[int, ...]
) -> np.ndarray:
    """Return the image of a record; in an evaluation, a grey one in place of one that cannot be used.

    The evaluation then goes on: the sample has ``fault`` in its metainfo, and its answers are dropped.

    Args:
        read: Reads the image of a record.
        results: The record; ``fault`` is added to it where its image cannot be used.
        size: Height and width of the grey image; frames, height and width of a clip.

    Raises:
        DataError: The image cannot be used, and ``test_mode`` of the record is not set.
    """
    try:
        return read(results)
    except DataError as error:
        if not results.get("test_mode"):
            raise
        results["fault"] = str(error)
        return np.full((*size, 3), PAD_VALUE, dtype=np.uint8)


def datasets_with_images(dataset: Dataset) -> Iterator[BaseDataset]:
    """Yield the data sets of image files that a data set is made of, through mixtures and wrappers."""
    # Wrappers name their parts `dataset`, `base` or `datasets`, in MMEngine and here.
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    inner = [
        getattr(dataset, name) for name in ("dataset", "base") if isinstance(getattr(dataset, name, None), Dataset)
    ]
    # A joined data set has its images in `base`; the others only add texts.
    for part in (*getattr(dataset, "datasets", ()), *inner):
        yield from datasets_with_images(part)


def find_faults(
    dataset: BaseDataset, *, decode: bool = False, problem_of: Callable[..., str | None] = image_problem
) -> dict[str, list[str]]:
    """Return problem -> paths of the image files that it concerns, each file once; empty where all is well.

    Args:
        dataset: A data set whose records have ``img_path`` and, where the size is known, ``ori_hw``.
        decode: Decode every file; otherwise its header is read, and its end is checked.
        problem_of: What says what is wrong with a file: ``image_problem``, or ``clip_problem`` for clips.
    """
    dataset.full_init()
    records = (dataset.get_data_info(index) for index in range(len(dataset)))
    # By path: images with several objects or texts come once.
    sizes = {record["img_path"]: record.get("ori_hw") for record in records if record.get("img_path")}
    root = dataset.data_prefix.get("img") or "."
    faults: defaultdict[str, list[str]] = defaultdict(list)
    # Threads: waiting for disks takes most of the time.
    with ThreadPoolExecutor(_THREADS) as pool:
        problems = pool.map(lambda item: problem_of(item[0], root, item[1], decode=decode), sizes.items())
        for path, problem in zip(sizes, problems, strict=True):
            if problem is not None:
                faults[problem].append(path)
    return dict(faults)


def unusable(faults: Mapping[str, list[str]]) -> list[str]:
    """Return the files that cannot be used; one that lacks a little can."""
    return [path for problem, paths in faults.items() if problem != CUT for path in paths]
