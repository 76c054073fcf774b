"""Every task of one multi-task model on shapes, each figure beside its blind baseline. Evaluations run tools/test.py.

Blind baselines: sentences of other images, black images, the most frequent answer of each form of question, the mean
place of each keypoint in its box, the mean count of the training set. Figures are those of the test split; what
is chosen, a checkpoint or a setting, is chosen with ``--split val``.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _timing import print_table
from mmengine.structures import InstanceData

from lumen.config import read_config
from lumen.data.pipelines import fill_pipelines
from lumen.engine.model_inputs import inputs_of_config
from lumen.paths import find_path
from lumen.registry import DATASETS, METRICS
from lumen.serialization.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "multitask"
TASKS = ("detection", "segmentation", "pose", "grounding", "referring_segmentation", "counting", "vqa")
BLIND = {
    "grounding": "test_dataloader.dataset.type=ShuffledReferDataset",
    "vqa": "test_dataloader.dataset.pipeline.2.share=1.0",
}
ROWS = (
    ("detection", "coco/bbox_mAP", ""),
    ("segmentation", "coco/segm_mAP", ""),
    ("pose", "pose/AP", "mean place"),
    ("pose", "pose/PCK@0.1", "mean place"),
    ("grounding", "grounding/accuracy", "other sentences"),
    ("grounding", "grounding/accuracy_attribute", "other sentences"),
    ("grounding", "grounding/accuracy_relation", "other sentences"),
    ("grounding", "grounding/n_acc_at_t_acc_90", "other sentences"),
    ("referring_segmentation", "referring_segmentation/ciou", ""),
    ("counting", "counting/MAE", "training mean"),
    ("counting", "counting/MAE_present", ""),
    ("vqa", "vqa/accuracy", "black image"),
    *(("vqa", f"vqa/accuracy_{form}", "black image") for form in ("colour", "count", "existence", "relation")),
)
EXAMPLES = """examples:
  python tools/benchmarks/multitask.py work_dirs/multitask_nano_shapes
  python tools/benchmarks/multitask.py work_dirs/multitask_scratch_shapes --lmm data/nano4
  python tools/benchmarks/multitask.py work_dirs/multitask_nano_shapes/iter_2000.pth --only grounding vqa --split val
"""


def main() -> None:
    """Evaluate every task, then blindly, and print the table."""
    options = parse_options()
    seen = {task: evaluate(task, options) for task in options.only}
    blind = {task: evaluate(task, options, BLIND[task]) for task in options.only if task in BLIND}
    if "pose" in options.only:
        blind["pose"] = guess_mean_places(options.split)
    if "counting" in options.only:
        blind["counting"] = {"counting/MAE": seen["counting"]["counting/MAE_baseline"]}
    rows = [
        [name, f"{seen[task][name]:.3f}", f"{blind[task][name]:.3f} ({kind})" if kind else ""]
        for task, name, kind in ROWS
        if task in seen and name in seen[task]
    ]
    if "vqa" in options.only:
        rows.append(
            [
                "vqa/accuracy",
                f"{seen['vqa']['vqa/accuracy']:.3f}",
                f"{guess_answers(options.split):.3f} (frequent answer)",
            ]
        )
    print_table([f"figure ({options.split} split)", "model", "blind"], rows)
    if options.out:
        write_text(options.out, json.dumps({"model": seen, "blind": blind}, indent=2, sort_keys=True) + "\n")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint, or the work dir of the run")
    parser.add_argument("--lmm", help="base model of the checkpoint (default: that of the configs)")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks (default: all)")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="images to judge on (default: test)")
    parser.add_argument(
        "--work-dir", type=Path, default=ROOT / "work_dirs" / "multitask_eval", help="folder of the runs"
    )
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    return parser.parse_args()


def evaluate(task: str, options: argparse.Namespace, *overrides: str) -> dict[str, float]:
    """Run tools/test.py for one task; return its figures."""
    folder = options.work_dir / (f"{task}_blind" if overrides else task)
    out = folder / "figures.json"
    config = CONFIGS / f"eval_{task}.py"
    command = [sys.executable, str(ROOT / "tools" / "test.py"), str(config)]
    command += [str(options.checkpoint), "--work-dir", str(folder), "--out", str(out)]
    base = [f"model.lmm.name_or_path={options.lmm}"] if options.lmm else []
    command += ["--cfg-options", *split_options(config, options.split), *base, *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))


def split_options(config: Path, split: str) -> list[str]:
    """Return the overrides that put the files of another split in place of those of the test split."""
    dataset = read_config(config, import_roots=[ROOT]).test_dataloader["dataset"]
    files = {name: dataset[name] for name in ("ann_file", "instances_file") if name in dataset}
    moved = {name: file.replace("_test.", f"_{split}.") for name, file in files.items()}
    return [f"test_dataloader.dataset.{name}={value}" for name, value in {**moved, "data_prefix.img": split}.items()]


def guess_answers(judged: str) -> float:
    """Return the accuracy of the most frequent training answer of each form of question."""
    questions = {split: _read(f"questions_{split}.json")["questions"] for split in ("train", judged)}
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in questions["train"]:
        counts[question["form"]][question["answer"]] += 1
    guesses = {form: answers.most_common(1)[0][0] for form, answers in counts.items()}
    return float(np.mean([guesses[question["form"]] == question["answer"] for question in questions[judged]]))


def guess_mean_places(split: str) -> dict[str, float]:
    """Return the pose figures of the mean place of each keypoint, relative to its box, in the training set."""
    content = _read("instances_train.json")
    places: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    label_of_id = {category["id"]: label for label, category in enumerate(content["categories"])}
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        points = np.array(entry["keypoints"], dtype=float).reshape(-1, 3)[:, :2]
        places[label_of_id[entry["category_id"]]].append((points - (x, y)) / (width, height))
    means = {label: torch.tensor(np.mean(points, 0), dtype=torch.float32) for label, points in places.items()}
    config = read_config(CONFIGS / "eval_pose.py", import_roots=[ROOT])
    settings = config.test_dataloader["dataset"]
    settings.update(ann_file=f"annotations/instances_{split}.json", data_prefix={"img": split})
    dataset = DATASETS.build(fill_pipelines(settings, inputs_of_config(config)))
    samples = [_guess(dataset[index]["data_samples"], means).to_dict() for index in range(len(dataset))]
    figures: dict[str, float] = {}
    for item in config.test_evaluator:
        metric = METRICS.build(item)
        metric.dataset_meta = dataset.metainfo
        metric.process(None, samples)
        figures |= metric.evaluate(len(samples))
    return figures


def _guess(sample: Any, means: dict[int, torch.Tensor]) -> Any:
    x1, y1, x2, y2 = (float(side) for side in sample.box)
    points = means[int(sample.box_label)] * torch.tensor([x2 - x1, y2 - y1]) + torch.tensor([x1, y1])
    places = torch.tensor([prompt.label for prompt in sample.prompts])
    scores = torch.ones(1, len(places))
    sample.pred_instances = InstanceData(keypoints=points[places][None], keypoint_scores=scores, scores=scores[:, 0])
    return sample


def _read(name: str) -> dict[str, Any]:
    return json.loads((Path(find_path("data/shapes")) / "annotations" / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
