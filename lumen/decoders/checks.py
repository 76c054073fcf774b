"""What a model checks of its decoders: the aligner that they need, the targets that they read, what they write."""

from collections.abc import Sequence

from mmengine.structures import InstanceData
from torch import nn

from lumen.decoders.base import Decoder
from lumen.errors import ConfigError, DataError
from lumen.ops.fields import check_fields
from lumen.structures import PerceptionSample


def check_heat(aligner: nn.Module, decoders: Sequence[Decoder]) -> None:
    """Raise ConfigError where a decoder reads a heatmap that the aligner does not give."""
    needing = [decoder.spec.name for decoder in decoders if decoder.spec.needs_heat]
    if needing and not aligner.has_heat:
        raise ConfigError(f"decoders of {needing} read a heatmap, {type(aligner).__name__} has none: use DenseAligner")


def check_targets(decoder: Decoder, samples: Sequence[PerceptionSample]) -> None:
    """Raise DataError where a sample lacks a target of the decoder, ConfigError where it is declared otherwise."""
    for sample in samples:
        if not any(prompt.task == decoder.spec.name for prompt in sample.prompts):
            continue
        lacking = decoder.spec.targets - set(sample.gt_instances.keys())
        if lacking:
            raise DataError(
                f"{type(decoder).__name__} needs gt_instances.{sorted(lacking)}; pack them in the data pipeline, which "
                f"gave {sorted(sample.gt_instances.keys())}"
            )
        check_fields(decoder.spec, sample)


def check_predictions(decoder: Decoder, answer: InstanceData) -> None:
    """Raise ConfigError unless an answer has exactly the fields that the spec names."""
    if set(answer.keys()) != decoder.spec.predictions:
        raise ConfigError(
            f"{type(decoder).__name__}.predict wrote {sorted(answer.keys())}, its spec names "
            f"{sorted(decoder.spec.predictions)}"
        )
