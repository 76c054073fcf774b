"""Packed prompts against prompts one by one: states, heat logits, losses and gradients must be equal.

One by one is a code path of its own: transformers' plain forward with pixels, a 2-D attention mask and no position
ids, one prompt per pass, transformers' own loss of the answer; gradients add up over one backward pass per prompt.
Contrast, which compares the prompts of an image, is left out of that; with it, the passes of an image are joined
behind the LLM, and gradients add up over one backward pass per image.
A figure is the largest absolute difference of a tensor over its largest absolute value, in float32, without dropout,
batch normalisation frozen. A gradient below a thousandth of the model's largest is measured against that thousandth:
random attention is almost uniform, and of the gradients of its queries and keys only rounding is left. In float64,
where that plays no part, every gradient is compared again, on its own scale. To show that the comparison sees faults,
positions that run on and a mask that lets a prompt see earlier prompts must both differ by more than 1e-2.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path
from unittest import mock

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from _llava import LlavaSizes, hide_progress_bars, make_llava
from _timing import print_table, relative_difference

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.model import make_nano
from lumen.lmm.packing import passes
from lumen.lmm.packing.prefix_attention import Split, split_of
from lumen.lmm.packing.rows import IGNORE, PackedRows, pack_rows
from lumen.model import Lumen
from lumen.structures import FeatureWidths, LocFeatures, PerceptionSample, Prompt

TOLERANCE = 1e-5
FAULT = 1e-2
SMALL_GRADIENT = 1e-3
LLAVA = LlavaSizes(layers=6, width=384, mlp_width=1024, vision_layers=6, vision_width=256, image_side=224)
PHRASES = (
    ("circle", "a large red square", "the small star to the left of the ring", "arrow", "blue heart", "person"),
    ("ring", "the cross", "a dog"),
    ("triangle under the green circle", "heart", "traffic light", "cup", "left wrist"),
)
EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python tools/benchmarks/packing_equality.py
  OMP_NUM_THREADS=1 python tools/benchmarks/packing_equality.py --models nano --attention eager
"""


def main() -> None:
    """Compare every model and template, print the worst tensor of each kind, stop at a difference."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    hide_progress_bars()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            path = arguments.nano or make_nano(f"{folder}/nano")
            if name == "llava":
                path = make_llava(f"{folder}/llava", LLAVA)
            for template in ("compact", "paper"):
                print(f"{name}, template {template}, attention {arguments.attention}")
                model = build_model(path, template, attention=arguments.attention)
                failures += [f"{name}, {template}: {failure}" for failure in report(model)]
    if failures:
        raise SystemExit("\n".join(failures))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", choices=("nano", "llava"), default=["nano", "llava"], help="default: both"
    )
    parser.add_argument("--nano", type=Path, help="folder of a nano model (default: one with random weights)")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="default: %(default)s")
    return parser.parse_args()


def report(model: Lumen) -> list[str]:
    """Compare, print a table, return what failed."""
    images, samples = make_batch(model.lmm.input_spec.fixed_hw or (160, 160))
    found = compare(model, images, samples)
    faults = compare_faults(model.lmm, images, samples)
    noisy = {kind: found.pop(kind) for kind in [*found] if kind.endswith("own scale")}
    exact = compare(model.double(), images, samples)
    found |= {kind.replace("own scale", "float64"): exact[kind] for kind in noisy}
    rows = [[kind, f"{len(values)}", *worst(values)] for kind, values in found.items()]
    rows += [[kind, f"{len(values)}", worst(values)[0], "for information"] for kind, values in noisy.items()]
    rows += [[f"states, {fault}", "1", f"{value:.1e}", "a fault, to be seen"] for fault, value in faults.items()]
    print_table(["", "tensors", "worst", "in"], rows)
    print()
    unequal = [
        f"{kind}: {worst(values)}, expected at most {TOLERANCE:g}"
        for kind, values in found.items()
        if not all(value <= TOLERANCE for value in values.values())
    ]
    return unequal + [f"{fault} was not seen: {value:.1e}" for fault, value in faults.items() if not value > FAULT]


def worst(differences: dict[str, float]) -> tuple[str, str]:
    """Return the largest difference and its tensor's name, as text."""
    name = max(differences, key=differences.get)
    return f"{differences[name]:.1e}", name


def build_model(path: str | Path, template: str, *, attention: str = "sdpa", channels: int = 64) -> Lumen:
    """Return a model that packs, with a random aligner and detection decoder; it has every loss there is."""
    torch.manual_seed(0)
    readout = {"add_phrase_state": True, "phrase_reconstruction": True}
    adapter = HFAdapter(str(path), template=template, base={"attention": attention}, readout=readout)
    if not adapter.packing.is_packed:
        raise ValueError(f"{path} does not pack prompts, so there is nothing to compare")
    aligner = DenseAligner(
        widths=FeatureWidths.of(adapter),
        channels=channels,
        fine_levels=len(adapter.lateral_channels),
        mlp_channels=2 * channels,
    )
    return Lumen(adapter, aligner, [DetectionDecoder(channels)]).eval()


def make_batch(
    input_hw: Sequence[int], phrases: Sequence[Sequence[str]] = PHRASES
) -> tuple[Tensor, list[PerceptionSample]]:
    """Return images of coloured tiles and samples; prompt k of a sample asks for k % 3 objects."""
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (len(phrases), 3, 6, 6), generator=generator).float()
    images = functional.interpolate(tiles, tuple(input_hw)).byte()
    samples = []
    for texts in phrases:
        prompts = tuple(Prompt(text, label=label) for label, text in enumerate(texts))
        owner = torch.arange(len(texts)).repeat_interleave(torch.arange(len(texts)) % 3)
        corner = torch.rand(len(owner), 2, generator=generator) * 0.6
        box = torch.cat([corner, corner + 0.1 + torch.rand(len(owner), 2, generator=generator) * 0.3], 1)
        bboxes = box * torch.tensor([input_hw[1], input_hw[0]]).repeat(2)
        table = InstanceData(bboxes=bboxes, labels=owner, prompt_index=owner.clone())
        samples.append(make_sample(prompts, table))
    return images, samples


def make_sample(prompts: tuple[Prompt, ...], table: InstanceData) -> PerceptionSample:
    """Return a sample with these prompts and targets."""
    sample = PerceptionSample(gt_instances=table, ignored_instances=table[:0])
    sample.set_field(prompts, "prompts", field_type="metainfo")
    return sample


def compare(model: Lumen, images: Tensor, samples: Sequence[PerceptionSample]) -> dict[str, dict[str, float]]:
    """Return the relative difference of every tensor of each kind, packed against one by one."""
    found = compare_states(model, images, samples)
    counts = model.count(samples)
    packed, gradients = add_up(model, model.lmm, [(images, samples)], counts)
    singles = [(image, [sample]) for image, sample in split(images, samples)]
    losses, expected = add_up(model, OneByOne(model.lmm), singles, counts)
    return found | {
        "losses": {name: relative_difference(value, losses[name]) for name, value in packed.items()},
        "gradients": compare_gradients(gradients, expected, smallest=SMALL_GRADIENT),
        "gradients, own scale": compare_gradients(gradients, expected),
    }


@torch.no_grad()
def compare_states(model: Lumen, images: Tensor, samples: Sequence[PerceptionSample]) -> dict[str, dict[str, float]]:
    """Return the relative difference of queries and heat logits, packed against one by one."""
    features = model.lmm(images, [sample.prompts for sample in samples])
    alone = [OneByOne(model.lmm)(image, [single.prompts]) for image, single in split(images, samples)]
    heat = torch.cat([model.align(single).heat_logits for single in alone])
    query = torch.cat([single.query for single in alone])
    return {
        "states": {"queries": relative_difference(features.query, query)},
        "heat logits": {"heat logits": relative_difference(model.align(features).heat_logits, heat)},
    }


def add_up(
    model: Lumen,
    adapter: nn.Module,
    parts: Sequence[tuple[Tensor, Sequence[PerceptionSample]]],
    counts: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Return losses and gradients, summed over parts of a batch, with this adapter in the place of the model's."""
    whole = Lumen(adapter, model.aligner, list(model.decoders.values()), loss_weights=model.loss_weights).eval()
    model.zero_grad()
    losses: dict[str, Tensor] = {}
    for images, samples in parts:
        part_losses = whole(images, samples, mode="loss", counts=counts)
        sum(part_losses.values()).backward()
        losses = {name: losses.get(name, 0) + value.detach() for name, value in part_losses.items()}
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


def compare_gradients(
    found: dict[str, Tensor | None], expected: dict[str, Tensor | None], *, smallest: float = 0.0
) -> dict[str, float]:
    """Return the relative difference of each parameter's gradient; a parameter without one must have none twice.

    A bias of attention keys moves all logits of a softmax alike: its gradient is zero but for rounding, so that it is
    measured against the gradient of the weights beside it.

    Args:
        found: Gradients by name of the parameter.
        expected: The same, one by one.
        smallest: Least scale, as a share of the largest gradient of all.
    """
    largest = {name: gradient.abs().max().item() for name, gradient in expected.items() if _is_used(gradient)}
    if set(largest) != {name for name, gradient in found.items() if _is_used(gradient)}:
        raise ValueError("the same parameters must have gradients both ways")
    least = max(smallest * max(largest.values()), 1e-30)
    differences = {}
    for name in largest:
        scale = name.removesuffix("bias") + "weight" if name.endswith(("k_proj.bias", ".key.bias")) else name
        difference = (found[name] - expected[name]).abs().max().item()
        differences[name] = difference / max(largest[scale], least)
    return differences


def _is_used(gradient: Tensor | None) -> bool:
    return gradient is not None and gradient.numel() > 0


def compare_faults(adapter: HFAdapter, images: Tensor, samples: Sequence[PerceptionSample]) -> dict[str, float]:
    """Return how far the states are off with running positions, and with a plain causal mask."""
    with torch.no_grad():
        states = [OneByOne(adapter)(image, [single.prompts]).query for image, single in split(images, samples)]
        expected = torch.cat(states)
        found = {}
        for fault, module, name, wrong in (
            ("positions run on", passes, "pack_rows", rows_without_restart),
            ("blocks leak", passes, "split_of", one_block)
            if adapter.splits
            else ("mask leaks", passes, "block_mask", causal_mask),
        ):
            with mock.patch.object(module, name, wrong):
                query = adapter(images, [sample.prompts for sample in samples]).query
            found[fault] = relative_difference(query, expected)
    return found


def rows_without_restart(*args: object, **options: object) -> PackedRows:
    """Pack as ever, but number the positions of a row from its start to its end."""
    rows = pack_rows(*args, **options)
    running = torch.arange(rows.input_ids.shape[1]).expand_as(rows.position_ids)
    return dataclasses.replace(rows, position_ids=running)


def causal_mask(segments: Tensor) -> Tensor:
    """Return a mask in which every prompt sees the prompts before it."""
    length = segments.shape[1]
    return torch.ones(length, length, dtype=torch.bool).tril().expand(len(segments), 1, -1, -1)


def one_block(start: int, behind: Tensor, device: torch.device, **options: object) -> Split:
    """Return how rows are attended to, with every prompt seeing the prompts before it."""
    return split_of(start, (behind > 0).long(), device, **options)


def split(images: Tensor, samples: Sequence[PerceptionSample]) -> list[tuple[Tensor, PerceptionSample]]:
    """Return one image and sample per prompt."""
    singles = []
    for number, sample in enumerate(samples):
        for index, prompt in enumerate(sample.prompts):
            table = sample.gt_instances[sample.gt_instances.prompt_index == index]
            table.prompt_index = torch.zeros_like(table.prompt_index)
            singles.append((images[number : number + 1], make_sample((prompt,), table)))
    return singles


class OneByOne(nn.Module):
    """One pass of transformers' plain forward per prompt, in the place of an adapter, whose weights it shares."""

    losses = HFAdapter.losses

    def __init__(self, adapter: HFAdapter) -> None:
        super().__init__()
        self.adapter, self.input_spec = adapter, adapter.input_spec
        self.dim, self.vision_dim, self.lateral_channels = adapter.dim, adapter.vision_dim, adapter.lateral_channels
        self.slots = adapter.slots

    def forward(
        self,
        images: Tensor,
        prompts: Sequence[Sequence[Prompt]],
        *,
        extras: Set[str] = frozenset(),
        predicting: bool = False,
    ) -> LocFeatures:
        """Return the features of the prompts of one image; extras and ``predicting`` change nothing here."""
        adapter, stride = self.adapter, self.adapter.input_spec.multiple
        grid_hw = (images.shape[2] // stride, images.shape[3] // stride)
        pixels = adapter.statistics.normalise(images).to(adapter.base_model.dtype)
        prefix = adapter.prefix(images.shape[-2:])
        answers = [self._ask(pixels, prefix, prompt) for prompt in prompts[0]]
        encoded = adapter.base_model.model.get_image_features(pixels)
        losses = [prompt_losses for _, prompt_losses in answers]
        return LocFeatures(
            query=torch.cat([query for query, _ in answers]),
            grid=adapter.family.vision_grid(adapter.config, encoded, grid_hw),
            laterals=adapter.family.laterals(encoded),
            stride=stride,
            image_index=torch.zeros(len(answers), dtype=torch.long),
            prompt_index=torch.arange(len(answers)),
            text_losses={name: sum(prompt_losses[name] for prompt_losses in losses) for name in losses[0]},
        )

    def loss(self, features: LocFeatures, samples: Sequence[PerceptionSample]) -> dict[str, Tensor]:
        """Return the sums of its losses."""
        return dict(features.text_losses)

    def _ask(self, pixels: Tensor, prefix: list[int], prompt: Prompt) -> tuple[Tensor, dict[str, Tensor]]:
        """Return query and text losses of one prompt, from a whole pass of its own."""
        adapter, lmm = self.adapter, self.adapter.base_model
        suffix = adapter.encoder.suffix(prompt.text, prompt.task)
        ids = torch.tensor([[*prefix, *suffix.ids]])
        states = lmm.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).last_hidden_state
        query = states[:, len(prefix) + suffix.slots[0]]
        phrase = slice(len(prefix) + suffix.phrase[0], len(prefix) + suffix.phrase[1])
        losses = {}
        if adapter.encoder.template.has_answer:
            labels = ids.clone()
            labels[:, : len(prefix) + suffix.answer] = IGNORE
            mean = lmm.loss_function(lmm.lm_head(states), labels, vocab_size=lmm.lm_head.out_features)
            losses["loss_answer"] = mean * suffix.num_answer_tokens
        if adapter.readout.phrase_reconstruction and torch.is_grad_enabled():
            target = ids[0, phrase]
            losses["loss_phrase_reconstruction"] = functional.cross_entropy(
                lmm.lm_head(query).expand(len(target), -1), target
            )
        return query + states[:, phrase].mean(1) if adapter.readout.add_phrase_state else query, losses


if __name__ == "__main__":
    main()
