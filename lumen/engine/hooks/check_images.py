"""Checks of image files before the first step, not when each is read."""

from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch.utils.data import Dataset

from lumen.data.annotations import format_report
from lumen.data.check import image_problem
from lumen.data.clips import LoadClip, clip_problem
from lumen.data.faults import datasets_with_images, find_faults, unusable
from lumen.errors import DataError
from lumen.registry import HOOKS

_EVALUATION_SHARE = 0.05


@HOOKS.register_module()
class CheckImagesHook(Hook):
    """Reads the header of every image file before training and before a test, and lists what is wrong.

    Of a clip it reads the first frame.
    Training stops before its first step where more images cannot be used than its data set's ``skip_budget`` allows.
    In an evaluation such images count as images without answers; it is an error where they are more than one and
    more than 5 %, or all.

    Args:
        decode: Decode every file, too: slower, but no image can fail later.
    """

    def __init__(self, decode: bool = False) -> None:
        self._decode = decode

    def before_train(self, runner: Any) -> None:
        """Check the images of training and validation.

        Raises:
            DataError: Too many cannot be used.
        """
        parts = {"train": runner.train_loop.dataloader.dataset}
        if runner.val_loop is not None:
            parts["val"] = runner.val_loop.dataloader.dataset
        self._check(parts)

    def before_test(self, runner: Any) -> None:
        """Check the images of the test.

        Raises:
            DataError: Too many cannot be used.
        """
        self._check({"test": runner.test_loop.dataloader.dataset})

    def _check(self, parts: dict[str, Dataset]) -> None:
        """Check on one rank, and stop on all of them."""
        sets = [(name, part) for name, whole in parts.items() for part in datasets_with_images(whole)]
        for _, part in sets:
            part.full_init()  # all ranks together: they share what one of them reads
        errors: list[str | None] = [None]
        if is_main_process():
            found = [self._look_at(name, part) for name, part in sets]
            errors = ["\n".join(error for error in found if error) or None]
        broadcast_object_list(errors)
        if errors[0]:
            raise DataError(errors[0])

    def _look_at(self, name: str, dataset: Dataset) -> str | None:
        """List what is wrong with the files of one data set; return why it cannot be used, if it cannot."""
        has_clips = any(isinstance(step, LoadClip) for step in dataset.pipeline.transforms)
        faults = find_faults(dataset, decode=self._decode, problem_of=clip_problem if has_clips else image_problem)
        if not faults:
            return None
        text = f"{name}: {dataset.ann_file or type(dataset).__name__}: image files\n{format_report(faults)}"
        print_log(text, logger="current", level=30)
        count, size = len(unusable(faults)), len(dataset)
        share = getattr(dataset, "skip_budget", 0.0) if name == "train" else _EVALUATION_SHARE
        allowed = max(share * size, 0 if name == "train" else 1)
        if count <= allowed and count < size:
            return None
        return f"{text}\n{count} of {size} images cannot be used, at most {share:.3%} may; fix or remove them"
