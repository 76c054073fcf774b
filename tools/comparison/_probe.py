"""Where is the position of an object lost? What linear maps read of image tokens and of the state behind the answer.

Also what an answer costs: image tokens, and milliseconds an image for a growing number of phrases.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from comparison._cells import ROOT
from lumen.data.pipelines import fill_pipelines
from lumen.engine.check_config import load_config
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.options import ReadoutOptions
from lumen.lmm.packing.passes import pack_pass
from lumen.lmm.packing.rows import Suffix
from lumen.lmm.readout import Pairs, Readout
from lumen.model import Lumen
from lumen.ops.geometry import box_iou
from lumen.registry import DATASETS, MODELS
from lumen.serialization.checkpoint import load_checkpoint, load_trained_state
from lumen.structures import PerceptionSample

BATCH = 16
RIDGE = 1e-3
"""Weight of the ridge on standardised inputs, as a share of the number of rows."""
NUM_PHRASES = (1, 8, 80)
_TIMED_IMAGES = 4


@dataclass(frozen=True, slots=True)
class States:
    """What is read for each sentence with one target.

    Args:
        at_cell: Image token of the cell that holds the centre of the target; None where tokens have no places.
        mean: Mean of the image tokens.
        slot: State of ``[LOC]``, or the state that the first word of a written box is predicted from.
        centres: Centre of the target (x, y), in input pixels.
        proposed: Largest IoU of a proposal with the target; None where nothing is proposed.
    """

    at_cell: Float[Tensor, "n dim"] | None
    mean: Float[Tensor, "n dim"]
    slot: Float[Tensor, "n dim"]
    centres: Float[Tensor, "n 2"]
    proposed: Float[Tensor, " n"] | None


def probe_run(config_path: Path, checkpoint_path: Path) -> dict[str, Any]:
    """Return the figures of a trained model: pixel errors, image tokens, milliseconds.

    The linear maps are fitted on the val images, which nothing was trained on, and judged on the test images.
    """
    config = load_config(config_path, tool_root=ROOT)
    model: Lumen = MODELS.build(config.model)
    load_trained_state(model, load_checkpoint(checkpoint_path))
    model.eval()
    settings = fill_pipelines(config.test_dataloader.dataset, model.inputs)
    test = DATASETS.build(settings)
    with torch.no_grad():
        known, asked = read_states(model, DATASETS.build(on_val(settings))), read_states(model, test)
        errors = {
            name: None
            if getattr(known, name) is None
            else ridge_error((getattr(known, name), known.centres), (getattr(asked, name), asked.centres))
            for name in ("at_cell", "mean", "slot")
        }
        milliseconds = {str(number): ms_per_image(model, test, number) for number in NUM_PHRASES}
    image_tokens = model.lmm.prefix(model.inputs.input_hw).count(model.lmm.config.image_token_id)
    ceiling = (
        None
        if asked.proposed is None
        else {str(least): float((asked.proposed >= least).float().mean()) for least in (0.5, 0.75)}
    )
    figures = {"pixels": errors, "ms_per_image": milliseconds, "image_tokens": image_tokens}
    return {**figures, "proposed": ceiling}


def on_val(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the data set with the val images in place of the test images."""
    names = {key: settings[key].replace("test", "val") for key in ("ann_file", "instances_file")}
    return {**settings, **names, "data_prefix": {"img": "val"}}


def read_states(model: Lumen, dataset: Dataset) -> States:
    """Return the states of all sentences of a data set."""
    tables: list[States] = []
    for start in range(0, len(dataset), BATCH):
        batch = [dataset[index] for index in range(start, min(start + BATCH, len(dataset)))]
        samples = [sample["data_samples"] for sample in batch]
        encoded = model.lmm.encode_images(torch.stack([sample["inputs"] for sample in batch]))
        tables.append(states_of(model.lmm, encoded, samples))
    names = [field.name for field in fields(States)]
    joined = {name: [getattr(table, name) for table in tables] for name in names}
    return States(**{name: None if found[0] is None else torch.cat(found) for name, found in joined.items()})


def states_of(lmm: HFAdapter, encoded: EncodedImages, samples: Sequence[PerceptionSample]) -> States:
    """Return the states of the sentences of some images, image by image in the order of the prompts."""
    # One target for each prompt; the rows stand in the order of the prompts.
    targets = [sample.gt_instances.bboxes[sample.gt_instances.prompt_index.argsort()] for sample in samples]
    index = torch.arange(len(samples)).repeat_interleave(torch.tensor(list(map(len, targets))))
    boxes = torch.cat(targets)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    # Without object tokens, which stand behind the others.
    tokens = torch.stack(list(encoded.states.pooler_output)).float()[:, : math.prod(encoded.token_hw)]
    at_cell = None
    if lmm.family.has_token_grid:
        cells = cells_at(centre, encoded.token_hw, encoded.input_hw)
        at_cell = tokens[index, cells]
    proposals, proposed = getattr(encoded.states, "proposals", None), None
    if proposals is not None:
        size = boxes.new_tensor([*encoded.input_hw[::-1]] * 2)
        found = [box_iou(one * size, target).amax(0) for one, target in zip(proposals.boxes, targets, strict=True)]
        proposed = torch.cat(found)
    states = answer_states(lmm, encoded, samples).float()
    return States(at_cell, tokens.mean(1)[index], states, centre, proposed)


def cells_at(points: Float[Tensor, "n 2"], token_hw: tuple[int, int], input_hw: tuple[int, int]) -> Int[Tensor, " n"]:
    """Return the number of the image token, counted row by row, in whose cell each point (x, y) lies."""
    scale = points.new_tensor([token_hw[1] / input_hw[1], token_hw[0] / input_hw[0]])
    most = torch.tensor([token_hw[1] - 1, token_hw[0] - 1])
    column, row = (points * scale).long().clamp(min=0).minimum(most).unbind(1)
    return row * token_hw[1] + column


def answer_states(
    lmm: HFAdapter, encoded: EncodedImages, samples: Sequence[PerceptionSample]
) -> Float[Tensor, "pairs dim"]:
    """Return the state that each answer is read from: that of ``[LOC]``, or the last one before written words."""
    prompts = [sample.prompts for sample in samples]
    if not any(lmm.is_text(prompt.task) for of_image in prompts for prompt in of_image):
        return lmm.ask(encoded, prompts, predicting=True).query
    questions = [[lmm.text.question(prompt) for prompt in of_image] for of_image in prompts]
    suffixes = [[Suffix(tuple(ids), (0, 0), (len(ids) - 1,), len(ids)) for ids in of_image] for of_image in questions]
    pairs = Pairs([list(range(len(of_image))) for of_image in suffixes], suffixes)
    prefix = lmm.text.prefix(encoded.image_text)
    pad_id = lmm.encoder.tokenizer.pad_token_id
    rows, options = pack_pass(prefix, suffixes, packing=lmm.packing, config=lmm.config, pad_id=pad_id)
    runner, head = lmm.runner_with(lmm.packing), lmm.base_model.get_output_embeddings()
    readout = Readout(runner, ReadoutOptions(), head, num_slots=1, has_answer=False)
    return readout.read_pairs(rows, options, encoded, pairs, fallback_states=None, predicting=True).slots[:, 0]


def ridge_error(known: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor]) -> float:
    """Return the median distance between points and what a linear map makes of their inputs.

    Args:
        known: Inputs (n, dim) and points (n, 2) that the map is fitted on, by least squares with a small ridge.
        asked: Inputs and points that it is judged on.
    """
    inputs, points = known[0].double(), known[1].double()
    shift, scale, middle = inputs.mean(0), inputs.std(0).clamp(min=1e-9), points.mean(0)
    rows = (inputs - shift) / scale
    square = rows.T @ rows + RIDGE * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(square, rows.T @ (points - middle))
    found = (asked[0].double() - shift) / scale @ weights + middle
    return float((found - asked[1].double()).norm(dim=1).median())


def ms_per_image(model: Lumen, dataset: Dataset, num_phrases: int) -> float:
    """Return the median wall-clock time in milliseconds in which an image is answered for so many phrases."""
    taken = []
    for index in range(-1, min(_TIMED_IMAGES, len(dataset))):  # the first one, twice: it allocates what stays
        record = dataset[max(index, 0)]
        sample = record["data_samples"]
        prompts = (sample.prompts * num_phrases)[:num_phrases]
        sample.set_field(prompts, "prompts", field_type="metainfo")
        with torch.autocast("cpu", torch.bfloat16):
            start = time.perf_counter()
            model(record["inputs"][None], [sample], mode="predict")
            taken.append((time.perf_counter() - start) * 1e3)
    return median(taken[1:])
