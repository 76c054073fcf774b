"""Pictures of what the model answers, while it is trained and when it is tested."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils.data import Dataset

from lumen.engine.ddp import unwrapped
from lumen.engine.optim import autocast, check_dtype
from lumen.engine.reproducible import kept_rng, seeded_cpu_rng
from lumen.errors import ConfigError
from lumen.ops.fields import answer_to_input
from lumen.registry import HOOKS
from lumen.structures import PerceptionSample
from lumen.visualization import (
    RgbImage,
    contact_sheet,
    draw_answer,
    draw_heatmap,
    draw_truth,
    save_png,
    spread_heat,
)

_CELL_WH = (480, 480)


@HOOKS.register_module()
class VisualHook(Hook):
    """Draws a few fixed validation samples: targets, answers of whatever task they ask, and a heatmap per phrase.

    Pictures go to ``visuals/iter_N.png`` in the work folder and to the backends of the run's visualizer. Training is
    not affected: random numbers, the mode of each module and buffers stay unchanged. With several ranks the first one
    draws.

    Args:
        interval: Iterations between pictures, drawn with the weights of training. ``None`` draws at each validation,
            with the averaged weights where ``EmaHook`` keeps some.
        num_samples: Number of samples, spread evenly over the validation data.
        num_heatmaps: Heatmaps per sample at most: phrases that have targets first.
        min_score: Boxes and masks below this score are left out.
        dtype: ``float32``, or ``bfloat16`` for mixed precision.

    Raises:
        ConfigError: A number is below 1, or ``dtype`` is not accepted.
    """

    priority = "LOW"  # behind the averaged weights

    def __init__(
        self,
        interval: int | None = None,
        *,
        num_samples: int = 4,
        num_heatmaps: int = 3,
        min_score: float = 0.3,
        dtype: str = "float32",
    ) -> None:
        if min(num_samples, num_heatmaps, 1 if interval is None else interval) < 1:
            raise ConfigError(
                "interval (where it is not None), num_samples and num_heatmaps must be at least 1, got "
                f"{interval}, {num_samples} and {num_heatmaps}"
            )
        self.interval = interval
        self.num_samples = num_samples
        self.num_heatmaps = num_heatmaps
        self.min_score = min_score
        self._dtype = check_dtype(dtype)

    def before_train(self, runner: Any) -> None:
        """Refuse a run without validation data.

        Raises:
            ConfigError: There are none.
        """
        if runner.val_loop is None:
            raise ConfigError("VisualHook draws validation samples: define val_dataloader, val_cfg and val_evaluator")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Draw at each interval."""
        if self.interval is not None and (runner.iter + 1) % self.interval == 0:
            self._draw(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Any) -> None:
        """Draw at each validation, unless there is an interval."""
        if self.interval is None:
            self._draw(runner, runner.iter)

    def _draw(self, runner: Any, num_iters: int) -> None:
        if not is_main_process():
            return
        model = unwrapped(runner.model)
        with undisturbed(model), autocast(self._dtype, model):
            sheet = draw_samples(
                model,
                runner.val_loop.dataloader.dataset,
                num_samples=self.num_samples,
                num_heatmaps=self.num_heatmaps,
                min_score=self.min_score,
            )
        save_png(Path(runner.work_dir) / "visuals" / f"iter_{num_iters}.png", sheet)
        runner.visualizer.add_image("answers", sheet, step=num_iters)


@HOOKS.register_module()
class ShowHook(Hook):
    """Writes a picture of every tested sample: the targets, and beside them the answer.

    Pictures are named after the number of the sample and its image. With several ranks each writes its own samples.

    Args:
        folder: Where to write.
        min_score: Boxes and masks below this score are left out.
    """

    def __init__(self, folder: str | Path, *, min_score: float = 0.3) -> None:
        self._folder = Path(folder)
        self._min_score = min_score
        self._num_drawn = 0

    def before_test(self, runner: Any) -> None:
        """Start with the first sample."""
        self._num_drawn = 0

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Mapping[str, Any],
        outputs: Sequence[PerceptionSample] | None = None,
    ) -> None:
        """Draw a batch."""
        model = unwrapped(runner.model)
        dataset = runner.test_loop.dataloader.dataset
        for image, sample in zip(data_batch["inputs"], outputs or (), strict=True):
            number = self._num_drawn * get_world_size() + get_rank()
            kinds = kinds_of(model, sample)
            pair = draw_pair(
                image, sample, sample.pred_instances, dataset=dataset, min_score=self._min_score, kinds=kinds
            )
            pictures, titles = zip(*pair, strict=True)
            name = f"{number:06d}_{Path(sample.get('img_path') or '').stem}".rstrip("_")
            save_png(self._folder / f"{name}.png", contact_sheet(pictures, titles, columns=2, cell_wh=_CELL_WH))
            self._num_drawn += 1


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradients; random numbers and the mode of each module are afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with kept_rng(), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def draw_samples(
    model: nn.Module, dataset: Dataset, *, num_samples: int, num_heatmaps: int, min_score: float
) -> RgbImage:
    """Return a sheet with a row per sample: targets, answers, heatmaps.

    Args:
        model: A ``Lumen`` in evaluation mode.
        dataset: Gives packed samples; those that are drawn are always the same.
        num_samples: See ``VisualHook``.
        num_heatmaps: See ``VisualHook``.
        min_score: See ``VisualHook``.
    """
    cells: list[tuple[RgbImage, str]] = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, num_samples).astype(int)).tolist():
        with seeded_cpu_rng(0, index):
            packed = dataset[index]
        row = _draw_row(model, packed, dataset, num_heatmaps, min_score)
        cells += row + [(np.zeros((8, 8, 3), np.uint8), "")] * (2 + num_heatmaps - len(row))
    pictures, titles = zip(*cells, strict=True)
    return contact_sheet(pictures, titles, columns=2 + num_heatmaps, cell_wh=_CELL_WH)


def edges_of(dataset: Dataset, sample: PerceptionSample) -> Sequence[Sequence[int]]:
    """Return the bones of a sample's keypoints; none where its data set knows none."""
    skeletons = getattr(dataset, "metainfo", {}).get("skeletons")
    return skeletons[sample.box_label] if skeletons else ()


def kinds_of(model: nn.Module, sample: PerceptionSample) -> dict[str, str]:
    """Return the kinds of the fields that the task of a sample declares; none for a sample without prompts."""
    return model.decoders[sample.prompts[0].task].spec.kinds if sample.prompts else {}


def draw_pair(
    image: Tensor,
    sample: PerceptionSample,
    answer: InstanceData,
    *,
    dataset: Dataset,
    min_score: float,
    kinds: Mapping[str, str],
) -> list[tuple[RgbImage, str]]:
    """Return two pictures with their titles: the targets of a sample, and an answer to it.

    Args:
        image: uint8 RGB (3, height, width), in input pixels.
        sample: The sample; its targets are in input pixels.
        answer: In original pixels.
        dataset: Where the sample comes from; knows the bones between keypoints.
        min_score: See ``VisualHook``.
        kinds: See ``kinds_of``.
    """
    pixels, prompts = image.permute(1, 2, 0).cpu().numpy(), sample.prompts
    drawn = answer_to_input(answer, sample.frame, kinds)
    truth = draw_truth(pixels, prompts, sample.gt_instances.cpu(), sample.get("fields"))
    edges = edges_of(dataset, sample)
    return [
        (truth, f"{sample.get('img_id', '?')}: targets"),
        (draw_answer(pixels, prompts, drawn, edges=edges, min_score=min_score, kinds=kinds), "answers"),
    ]


def _draw_row(
    model: nn.Module, packed: dict[str, Any], dataset: Dataset, num_heatmaps: int, min_score: float
) -> list[tuple[RgbImage, str]]:
    """Return pictures with their titles."""
    sample: PerceptionSample = packed["data_samples"]
    image = packed["inputs"].permute(1, 2, 0).numpy()
    prompts, targets = sample.prompts, sample.gt_instances
    batch = model.data_preprocessor(pseudo_collate([packed]), False)
    shared = model(**batch, mode="tensor")
    answer = model(**batch, mode="predict")[0].pred_instances
    kinds = kinds_of(model, sample)
    row = draw_pair(packed["inputs"], sample, answer, dataset=dataset, min_score=min_score, kinds=kinds)
    if shared.heat_logits is None:
        return row
    heat = shared.heat_logits[:, 0].float().sigmoid().cpu().numpy()
    presence = shared.presence_logits.float().sigmoid().tolist()
    asked, wanted = shared.prompt_index.tolist(), set(targets.prompt_index.tolist())
    for pair in sorted(range(len(asked)), key=lambda pair: asked[pair] not in wanted)[:num_heatmaps]:
        picture = draw_heatmap(image, spread_heat(heat[pair], shared.stride, image.shape[:2]))
        row.append((picture, f"{presence[pair]:.2f} x {heat[pair].max():.2f}: {prompts[asked[pair]].text}"))
    return row
