"""What the tests of adapters share: phrases, and the states that transformers itself computes for one of them."""

import torch
from helpers import make_images

from lumen.structures import Prompt

PHRASES = ("red circle", "cat", "a large striped star left of the blue cross", "zebra")


def ask(adapter, phrases=PHRASES, images=None, task="detection"):
    """Ask every image the same phrases."""
    images = make_images(2) if images is None else images
    return adapter(images, [[Prompt(phrase, task=task) for phrase in phrases]] * len(images))


def plain_forward(adapter, image, phrase, task="detection"):
    """Return one prompt's states as transformers itself computes them: its mask, its positions, its pixels."""
    prefix = adapter.prefix(image.shape[-2:])
    suffix = adapter.encoder.suffix(phrase, task)
    ids = torch.tensor([[*prefix, *suffix.ids]])
    pixels = adapter.statistics.normalise(image[None])
    output = adapter.base_model(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, output_hidden_states=True
    )
    return output.hidden_states[-1][0, len(prefix) :], output.logits[0], suffix, ids[0]
