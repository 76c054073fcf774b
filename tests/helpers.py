"""Samples, images and shared representations made by hand, and what tests of several parts share."""

import os
from contextlib import contextmanager
from dataclasses import fields

import torch
from mmengine.structures import InstanceData

from lumen.lmm.generation import Continuation
from lumen.lmm.nano.model import NanoSizes
from lumen.lmm.options import BaseOptions, GenerationOptions, PackingOptions, ReadoutOptions
from lumen.ops.geometry import InputTransform, clip_boxes
from lumen.structures import PerceptionSample, Prompt, SharedRepresentation

TINY = NanoSizes(width=32, llm_layers=2, vision_layers=1, stem_channels=(16, 16, 32), stem_depths=(0, 0, 1))


_GROUPS = {"base": BaseOptions, "readout": ReadoutOptions, "packing": PackingOptions, "generation": GenerationOptions}
_GROUP_OF = {field.name: group for group, kind in _GROUPS.items() for field in fields(kind)}


def adapter_options(**options):
    """Sort options of an adapter into their groups, by the names of the fields; the others stay as they are."""
    sorted_ones = {}
    for name, value in options.items():
        place = sorted_ones.setdefault(_GROUP_OF[name], {}) if name in _GROUP_OF else sorted_ones
        place[name] = value
    return sorted_ones


def make_instances(boxes=(), prompt_index=(), labels=None, **fields):
    """Return a table of boxes; labels are the prompts' numbers unless given."""
    index = torch.as_tensor(prompt_index, dtype=torch.long).reshape(-1)
    return InstanceData(
        bboxes=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=index.clone() if labels is None else torch.as_tensor(labels, dtype=torch.long).reshape(-1),
        prompt_index=index,
        **fields,
    )


def make_sample(prompts=(), boxes=(), prompt_index=(), *, labels=None, ignored=(), ignored_index=(), frame=None):
    """Return a sample; a text stands for a detection prompt whose label is its place in the list."""
    asked = [Prompt(text, label=at) if isinstance(text, str) else text for at, text in enumerate(prompts)]
    sample = PerceptionSample(
        metainfo={"prompts": tuple(asked), "frame": frame or InputTransform.stretch((64, 96), (64, 96)), "img_id": 0}
    )
    sample.gt_instances = make_instances(boxes, prompt_index, labels)
    sample.ignored_instances = make_instances(ignored, ignored_index)
    return sample


def make_images(num_images=1, size_hw=(64, 96), seed=0):
    """Return uint8 noise of shape (images, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_images, 3, *size_hw), dtype=torch.uint8, generator=generator)


def make_shared(image_index=(), prompt_index=(), *, size_hw=(4, 6), channels=32, num_images=1, num_maps=0, stride=16):
    """Return a representation with flat, cold heatmaps, sure presence and zeros elsewhere."""
    num_pairs = len(image_index)
    return SharedRepresentation(
        heat_logits=torch.full((num_pairs, 1, *size_hw), -20.0, requires_grad=True),
        presence_logits=torch.full((num_pairs,), 20.0, requires_grad=True),
        query=torch.zeros(num_pairs, channels, requires_grad=True),
        dense=torch.zeros(num_images, channels, *size_hw, requires_grad=True),
        image_index=torch.as_tensor(image_index, dtype=torch.long).reshape(-1),
        prompt_index=torch.as_tensor(prompt_index, dtype=torch.long).reshape(-1),
        maps=torch.zeros(num_pairs, num_maps, *size_hw, requires_grad=True),
        stride=stride,
    )


def content_of(frame):
    """Return the box (x1, y1, x2, y2), in input pixels, that the image covers; the remaining input is padding."""
    corners = torch.tensor([[0.0, 0.0, frame.ori_hw[1], frame.ori_hw[0]]], dtype=torch.float64)
    return tuple(clip_boxes(frame.boxes_to_input(corners), frame.input_hw)[0].tolist())


def check_answers_equal(first, second, tolerance=1e-4):
    """Compare all fields of two answers, coordinates to within ``tolerance`` of an image of 120 pixels."""
    assert set(first.keys()) == set(second.keys())
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, second[key], atol=120 * tolerance, rtol=tolerance)
        else:
            assert value == second[key], key


def relative_difference(actual, expected):
    """Return the largest difference as a share of the largest expected number."""
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def write_texts(adapter, texts):
    """Make an adapter write these texts for the prompts of each image, whatever it is asked."""
    written = [Continuation(ids, [1.0] * len(ids)) for ids in map(adapter.encoder.ids, texts)]
    adapter.writer.go_on = lambda runner, encoded, start, asked, bound: [
        [written[number] for number in range(len(of_image))] for of_image in asked
    ]


@contextmanager
def joined(rank, folder):
    """Join two processes on the CPU, which meet in a folder, as rank 0 or 1; both leave together."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    yield
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
