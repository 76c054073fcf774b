"""Draw samples as the network sees them: objects with their declared fields, prompts, and the heatmap to be learned."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from lumen import visualization as vis  # noqa: E402
from lumen.cli import one_line_errors  # noqa: E402

EXAMPLES = """examples:
  python tools/browse_dataset.py configs/detection/detection_nano_shapes.py
  python tools/browse_dataset.py configs/detection/detection_nano_shapes.py --num 4 --split test --out /tmp/look
  python tools/browse_dataset.py configs/detection/detection_nano_bccd.py --index 7 12 --stride 8
a mixture of data sets is shown set by set, each with its share of --num
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="pure-Python config")
    parser.add_argument("--out", type=Path, default=Path("out/browse"), help="folder (default: out/browse)")
    parser.add_argument("--num", type=int, default=12, help="samples, spread over the data set (default: 12)")
    parser.add_argument("--index", type=int, nargs="*", help="these samples instead")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="whose pipeline to run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the augmentation (default: 0)")
    parser.add_argument("--stride", type=int, default=8, help="input pixels per cell of the heatmap (default: 8)")
    return parser.parse_args()


def build_dataset(config: Any, split: str) -> Any:
    """Build the data set of one of the config's loaders.

    Raises:
        ConfigError: The config has no such loader.
    """
    from lumen.data.pipelines import fill_pipelines
    from lumen.engine.model_inputs import inputs_of_config
    from lumen.errors import ConfigError
    from lumen.registry import DATASETS

    loader = config.get(f"{split}_dataloader")
    if not loader:
        raise ConfigError(f"the config defines no {split}_dataloader")
    return DATASETS.build(fill_pipelines(loader["dataset"], inputs_of_config(config)))


def target_heat(sample: Any, target: str, stride: int) -> np.ndarray:
    """Return what the heatmaps of all prompts are trained towards, the highest of them per input pixel."""
    from lumen.ops.heatmap import TARGETS

    height, width = sample.img_shape
    found = sample.gt_instances
    size_hw, num_prompts = (height // stride, width // stride), len(sample.prompts)
    heat = TARGETS[target](found.bboxes, found.prompt_index, num_pairs=num_prompts, size_hw=size_hw, stride=stride)
    highest = heat.amax(0) if num_prompts else torch.zeros(size_hw)
    return vis.spread_heat(highest.numpy(), stride, (size_hw[0] * stride, size_hw[1] * stride))


def draw_sample(packed: dict[str, Any], target: str, stride: int) -> np.ndarray:
    """Return one picture: the sample, the target heatmap, and the prompts with the number of their objects.

    Prompts that are answered as text have no heatmap and stand with their answers.
    """
    from lumen.prompts import TEXT_TASKS

    sample, image = packed["data_samples"], packed["inputs"].permute(1, 2, 0).numpy()
    prompts, found = sample.prompts, sample.gt_instances
    is_text = [prompt.task in {task.name for task in TEXT_TASKS} for prompt in prompts]
    panels = [vis.draw_truth(image, prompts, found, sample.get("fields"))]
    titles = [f"{sample.img_id}: {Path(sample.img_path).name}"]
    if not prompts or not all(is_text):
        heat = target_heat(sample, target, stride)
        panels.append(vis.draw_heatmap(image[: heat.shape[0], : heat.shape[1]], heat))
        titles.append(f"target, stride {stride}")
    phrases = [prompt.text or f"({prompt.task})" for prompt in prompts]
    counts = torch.bincount(found.prompt_index, minlength=len(phrases)).tolist()
    ignored = torch.bincount(sample.ignored_instances.prompt_index, minlength=len(phrases)).tolist()
    notes = [
        f"-> {prompt.answer or '?'}" if answered else _note(*numbers)
        for prompt, answered, *numbers in zip(prompts, is_text, counts, ignored, strict=True)
    ]
    tasks = ", ".join(dict.fromkeys(prompt.task for prompt in prompts))
    panels.append(vis.legend(phrases, notes, width=480))
    titles.append(f"{len(phrases)} prompts: {tasks}" if prompts else "no prompts")
    return vis.contact_sheet(panels, titles, columns=3, cell_wh=(480, 480))


def spread_indices(dataset: Any, num: int) -> list[int]:
    """Return ``num`` samples spread evenly; in a mixture, spread over each of its data sets."""
    from lumen.data.mixture import MixedDataset

    if not isinstance(dataset, MixedDataset):
        return chosen_indices(len(dataset), num, None)
    share = -(-num // len(dataset.sizes))
    return [
        dataset.start_of(source) + index
        for source, size in enumerate(dataset.sizes)
        for index in chosen_indices(size, share, None)
    ]


def chosen_indices(length: int, num: int, index: Sequence[int] | None) -> list[int]:
    """Return which samples to draw: those named, else ``num`` spread evenly.

    Raises:
        DataError: An index lies outside.
    """
    from lumen.errors import DataError

    outside = [number for number in index or () if not 0 <= number < length]
    if outside:
        raise DataError(f"the data set has {length} samples; there is no sample {outside[0]}")
    return list(index) if index else np.unique(np.linspace(0, length - 1, min(num, length)).astype(int)).tolist()


def _note(num_objects: int, num_ignored: int) -> str:
    absent = "(absent)" if num_objects + num_ignored == 0 else f"x {num_objects}"
    return f"{absent}, {num_ignored} ignored" if num_ignored else absent


def main() -> None:
    """Draw the samples, or print in one line why not."""
    args = parse_args()
    with one_line_errors():
        from lumen.config import read_config

        config = read_config(args.config, import_roots=[ROOT])
        dataset = build_dataset(config, args.split)
        target = (config.get("model") or {}).get("aligner", {}).get("heat", {}).get("target", "centernet")
        np.random.seed(args.seed)
        indices = chosen_indices(len(dataset), 0, args.index) if args.index else spread_indices(dataset, args.num)
        for index in indices:
            picture = draw_sample(dataset[index], target, args.stride)
            vis.save_png(args.out / f"{args.split}_{index:06d}.png", picture)
    print(f"wrote {len(indices)} of {len(dataset)} samples to {args.out}")


if __name__ == "__main__":
    main()
