"""Heatmaps, boxes and masks made by hand, for the tests of several decoders."""

import dataclasses
import math

import torch


def heat(shared, peaks):
    """Set the probability of cells, given as (pair, row, col, probability)."""
    logits = shared.heat_logits.detach().clone()
    for pair, row, col, probability in peaks:
        logits[pair, 0, row, col] = math.log(probability / (1 - probability))
    return dataclasses.replace(shared, heat_logits=logits)


def fixed_distances(decoder, left, top, right, bottom):
    """Make the head say the same four distances in every cell, in units of the stride."""
    with torch.no_grad():
        decoder.head.layers[-1].weight.zero_()
        decoder.head.layers[-1].bias.copy_(torch.tensor([left, top, right, bottom]).log())
    return decoder.eval()


def random_shared(shared, seed=0):
    """Fill a representation with noise."""
    generator = torch.Generator().manual_seed(seed)
    names = ("heat_logits", "presence_logits", "query", "dense", "maps")
    noise = {name: torch.randn(getattr(shared, name).shape, generator=generator) for name in names}
    return dataclasses.replace(shared, **{name: value.requires_grad_() for name, value in noise.items()})


def with_masks(sample):
    """Give every object of a sample the mask that fills its box."""
    height, width = sample.frame.input_hw
    x1, y1, x2, y2 = (side[:, None] for side in sample.gt_instances.bboxes.unbind(1))
    cols, rows = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    sample.gt_instances.masks = ((rows > y1) & (rows < y2))[:, :, None] & ((cols > x1) & (cols < x2))[:, None]
    return sample


def iou(mask, other):
    """Return the intersection over union of two boolean masks."""
    return float((mask & other).sum() / (mask | other).sum())
