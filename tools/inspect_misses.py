"""Find the objects that a model misses, name the reasons, and draw input, target, heatmap and verdict of the worst."""

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from lumen import visualization as vis  # noqa: E402
from lumen.cli import one_line_errors  # noqa: E402
from lumen.serialization.atomic import write_text  # noqa: E402

EXAMPLES = """examples:
  python tools/inspect_misses.py configs/detection/detection_nano_shapes.py best.pth --out out/misses --num 20
  python tools/inspect_misses.py configs/detection/detection_nano_shapes.py best.pth --img-id 7 12
  python tools/inspect_misses.py configs/detection/detection_nano_bccd.py best.pth --limit 50 --threshold 0.2
"""
COLUMNS = ("img_id", "phrase", "box", "score", "reason", "verdict")


@dataclass(frozen=True, slots=True)
class Miss:
    """One object that nothing answers: where it is, and the verdict on it."""

    index: int
    img_id: Any
    prompt_index: int
    phrase: str
    box: tuple[float, ...]
    verdict: vis.Verdict


@dataclass(frozen=True, slots=True)
class Phrase:
    """One phrase with objects on one image, as ``vis.inspect`` takes it."""

    sample: Any
    prompt_index: int
    truth: torch.Tensor
    candidates: vis.Candidates
    heat: torch.Tensor
    stride: int
    presence: float
    is_full: bool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="pure-Python config of a model that answers with boxes")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a run of it")
    parser.add_argument("--out", type=Path, default=Path("out/misses"), help="folder (default: out/misses)")
    parser.add_argument("--num", type=int, default=20, help="pictures of missed objects, worst first (default: 20)")
    parser.add_argument("--img-id", type=int, nargs="+", help="these images only, with all phrases that have objects")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="whose data to read (default: test)")
    parser.add_argument("--limit", type=int, help="read at most this many images")
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="lowest score that counts as an answer (default: 0.3)"
    )
    parser.add_argument("--iou", type=float, default=0.5, help="lowest IoU that counts as found (default: 0.5)")
    return parser.parse_args()


def box_decoder(model: Any) -> Any:
    """Return the first decoder that answers with boxes and scores for each prompt.

    Raises:
        ConfigError: The model has none.
    """
    from lumen.errors import ConfigError

    for decoder in model.decoders.values():
        if decoder.spec.predictions >= {"bboxes", "scores", "prompt_index"}:
            return decoder
    names = [type(decoder).__name__ for decoder in model.decoders.values()]
    raise ConfigError(
        f"misses are inspected of decoders that write bboxes, scores and prompt_index, this model has {names}"
    )


def candidates_of(decoder: Any, shared: Any, sample: Any) -> tuple[InstanceData, int]:
    """Return all boxes of each pair, marked whether the decoder answers with them, and the number of its answers.

    Of a decoder with a ``BoxHead`` these are the boxes of all peaks; of another one, its answers alone.
    """
    from lumen.decoders.boxes import BoxHead, boxes_at
    from lumen.decoders.peaks import pick_peaks

    answer = decoder.predict(shared, [sample])[0]
    pair_of = {prompt: pair for pair, prompt in enumerate(shared.prompt_index.tolist())}
    answer_pair = shared.prompt_index.new_tensor([pair_of[prompt] for prompt in answer.prompt_index.tolist()])
    head = next((module for module in decoder.modules() if isinstance(module, BoxHead)), None)
    if head is None:
        heights = answer.get("peak_scores", answer.scores)
        table = InstanceData(
            bboxes=answer.bboxes, scores=answer.scores, peak_scores=heights, pair_index=answer_pair,
            points=(answer.bboxes[:, :2] + answer.bboxes[:, 2:]) / 2, is_kept=torch.ones_like(answer_pair).bool(),
        )  # fmt: skip
        return table, len(answer)
    pair, cells_xy, scores, heights = pick_peaks(shared, num_peaks=_limits(decoder).num_peaks, min_score=0.0)
    boxes = boxes_at(head(shared), shared.image_index[pair], cells_xy, shared.stride)
    is_answer = (boxes[:, None] == answer.bboxes).all(-1) & (pair[:, None] == answer_pair)
    table = InstanceData(
        bboxes=boxes, scores=scores, peak_scores=heights, pair_index=pair,
        points=(cells_xy + 0.5) * shared.stride, is_kept=is_answer.any(1),
    )  # fmt: skip
    return table, len(answer)


def _limits(decoder: Any) -> Any:
    """Return the limits of a decoder; defaults where it has none."""
    from lumen.decoders.peaks import BoxLimits

    limits = getattr(decoder, "limits", None)
    return limits if isinstance(limits, BoxLimits) else BoxLimits()


def pairs_of(model: Any, decoder: Any, shared: Any, sample: Any) -> Any:
    """Return the part of the representation that a decoder reads."""
    from lumen.routing import pairs_of_task, select_pairs

    specs = [other.spec for other in model.decoders.values()]
    start = sum(spec.map_queries for spec in specs[: specs.index(decoder.spec)])
    maps = slice(start, start + decoder.spec.map_queries)
    return select_pairs(shared, pairs_of_task([sample], shared, decoder.spec.name), maps)


def phrases_of(model: Any, decoder: Any, packed: dict[str, Any]) -> Iterator[Phrase]:
    """Ask the prompts of one sample, and yield those that have objects."""
    from mmengine.dataset import pseudo_collate

    sample = packed["data_samples"]
    with torch.inference_mode():
        batch = model.data_preprocessor(pseudo_collate([packed]), False)
        shared = pairs_of(model, decoder, model(**batch, mode="tensor"), sample)
        table, num_answers = candidates_of(decoder, shared, sample)
    table, targets = table.cpu(), sample.gt_instances
    for pair, prompt_index in enumerate(shared.prompt_index.tolist()):
        truth = targets.bboxes[targets.prompt_index == prompt_index]
        if len(truth):
            of_pair = table[table.pair_index == pair]
            yield Phrase(
                sample,
                prompt_index,
                truth,
                vis.Candidates(**{name: of_pair[name] for name in vis.Candidates.__dataclass_fields__}),
                shared.heat_logits[pair, 0].float().sigmoid().cpu(),
                shared.stride,
                float(shared.presence_logits[pair].float().sigmoid()),
                num_answers >= _limits(decoder).max_per_image,
            )


def find_misses(
    model: Any, decoder: Any, dataset: Any, indices: Sequence[int], *, threshold: float, min_iou: float
) -> tuple[list[Miss], int]:
    """Return the missed objects of some samples, worst first, and the number of all objects."""
    misses, total = [], 0
    for index in indices:
        for phrase in phrases_of(model, decoder, dataset[index]):
            verdicts = vis.judge(
                phrase.truth,
                phrase.candidates,
                presence=phrase.presence,
                is_full=phrase.is_full,
                threshold=threshold,
                min_iou=min_iou,
            )
            total += len(verdicts)
            text = phrase.sample.prompts[phrase.prompt_index].text
            misses += [
                Miss(index, phrase.sample.img_id, phrase.prompt_index, text, tuple(box), verdict)
                for box, verdict in zip(phrase.truth.tolist(), verdicts, strict=True)
                if verdict.reason != "found"
            ]
    return sorted(misses, key=lambda miss: miss.verdict.score), total


def draw_phrase(packed: dict[str, Any], phrase: Phrase, target: str, *, threshold: float, min_iou: float) -> Any:
    """Return the picture of one phrase."""
    from lumen.ops.heatmap import TARGETS

    numbers = torch.zeros(len(phrase.truth), dtype=torch.long)
    size_hw = tuple(phrase.heat.shape)
    painted = TARGETS[target](phrase.truth, numbers, num_pairs=1, size_hw=size_hw, stride=phrase.stride)
    picture, _ = vis.inspect(
        packed["inputs"].permute(1, 2, 0).numpy(),
        phrase.sample.prompts[phrase.prompt_index].text,
        phrase.truth,
        phrase.candidates,
        heat=phrase.heat,
        target=painted[0],
        stride=phrase.stride,
        presence=phrase.presence,
        is_full=phrase.is_full,
        threshold=threshold,
        min_iou=min_iou,
    )
    return picture


def summary(misses: Sequence[Miss], num_objects: int) -> str:
    """Return a table of the reasons, the commonest first."""
    counts = Counter(miss.verdict.reason for miss in misses)
    rows = [f"{len(misses)} of {num_objects} objects missed", f"{'count':>6}{'share':>8}  reason"]
    rows += [f"{count:>6}{count / len(misses):>8.1%}  {vis.REASONS[key]}" for key, count in counts.most_common()]
    return "\n".join(rows)


def write_table(path: Path, misses: Sequence[Miss]) -> None:
    """Write all misses as CSV; boxes are xyxy in input pixels."""
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    writer.writerow(COLUMNS)
    for miss in misses:
        box = " ".join(f"{edge:.1f}" for edge in miss.box)
        score, reason, text = f"{miss.verdict.score:.4f}", miss.verdict.reason, miss.verdict.text
        writer.writerow([miss.img_id, miss.phrase, box, score, reason, text])
    write_text(path, rows.getvalue())


def chosen_indices(dataset: Any, img_ids: Sequence[int] | None, limit: int | None) -> list[int]:
    """Return which samples to read.

    Raises:
        DataError: The data set lacks an image.
    """
    from lumen.errors import DataError

    if img_ids is None:
        return list(range(len(dataset)))[:limit]
    places = {dataset.get_data_info(index)["img_id"]: index for index in range(len(dataset))}
    lacking = [img_id for img_id in img_ids if img_id not in places]
    if lacking:
        raise DataError(f"the data set has no images {lacking}; its ids are {min(places)} to {max(places)}")
    return [places[img_id] for img_id in img_ids]


def run(args: argparse.Namespace) -> str:
    """Judge, draw and write; return the summary.

    Raises:
        ConfigError: The config has no such loader, or the model no decoder of boxes.
    """
    from lumen.config import read_config
    from lumen.data.pipelines import fill_pipelines
    from lumen.errors import ConfigError
    from lumen.inference.predictor import LumenPredictor
    from lumen.registry import DATASETS

    config = read_config(args.config, import_roots=[ROOT])
    loader = config.get(f"{args.split}_dataloader")
    if not loader:
        raise ConfigError(f"the config defines no {args.split}_dataloader")
    model = LumenPredictor.from_checkpoint(args.config, args.checkpoint, dtype=torch.float32).model
    dataset = DATASETS.build(fill_pipelines(loader["dataset"], model.inputs))
    decoder, limits = box_decoder(model), {"threshold": args.threshold, "min_iou": args.iou}
    indices = chosen_indices(dataset, args.img_id, args.limit)
    misses, num_objects = find_misses(model, decoder, dataset, indices, **limits)
    wanted = list(dict.fromkeys((miss.index, miss.prompt_index) for miss in misses))[: args.num]
    for index in dict.fromkeys([index for index, _ in wanted] if args.img_id is None else indices):
        packed = dataset[index]
        for phrase in phrases_of(model, decoder, packed):
            if args.img_id is not None or (index, phrase.prompt_index) in wanted:
                picture = draw_phrase(packed, phrase, model.aligner.heat.target, **limits)
                vis.save_png(args.out / f"{phrase.sample.img_id}_{phrase.prompt_index:04d}.png", picture)
    args.out.mkdir(parents=True, exist_ok=True)
    write_table(args.out / "misses.csv", misses)
    table = summary(misses, num_objects)
    write_text(args.out / "summary.txt", table + "\n")
    return table


def main() -> None:
    """Inspect, or report an error in one line."""
    args = parse_args()
    with one_line_errors():
        print(run(args))
    print(f"wrote pictures, misses.csv and summary.txt to {args.out}")


if __name__ == "__main__":
    main()
