"""A connector in place of the one that an LMM has: under the same name, so that freeze patterns go on working."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError
from lumen.lmm.connectors.base import Connector
from lumen.lmm.families import Family
from lumen.lmm.families.family import Size
from lumen.lmm.families.llava import chosen_layer
from lumen.lmm.untrained import UNTRAINED, note_untrained
from lumen.registry import MODELS

_PLACE = "multi_modal_projector"
_SEED = 0


def fit_connector(
    family: Family, config: PretrainedConfig, settings: Mapping[str, Any] | None, device: torch.device
) -> tuple[Family, Connector | None]:
    """Return what a family becomes with another connector, and the connector; the family as it is without settings.

    Args:
        family: Family of the LMM.
        config: Config of the LMM.
        settings: ``type`` and options of the connector; widths are filled in.
        device: Where it is built.

    Raises:
        ConfigError: See ``build_connector``.
    """
    if settings is None:
        return family, None
    connector = build_connector(family, config, settings, device)
    return with_connector(family, connector), connector


def build_connector(
    family: Family, config: PretrainedConfig, settings: Mapping[str, Any], device: torch.device
) -> Connector:
    """Build a connector in float32, with the same weights each time; see ``fit_connector`` for the arguments.

    A connector that is frozen is not in a checkpoint, so it must come out the same at every build. The global random
    state is left as it was.

    Raises:
        ConfigError: The family cannot be given another connector, or an option is not accepted.
    """
    if family.encode_tower is None:
        raise ConfigError(
            f"base.connector replaces the projector of a LLaVA with one tile per image; {config.model_type!r} keeps "
            "its own: leave connector out, or assemble a LLaVA of its parts by tools/make_lmm.py"
        )
    widths = {"vision_dim": family.vision_dim(config), "dim": config.text_config.hidden_size}
    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(_SEED)
        connector = MODELS.build({**settings, **widths})
    if not isinstance(connector, Connector):
        raise ConfigError(f"base.connector must be a Connector, got {type(connector).__name__}")
    return connector


def with_connector(family: Family, connector: Connector) -> Family:
    """Return what a family becomes with another connector in place of its own.

    Raises:
        ConfigError: Positions are to be interpolated, and the tower cannot do so.
    """
    encode_tower = family.encode_dense if connector.interpolate else family.encode_tower
    if encode_tower is None:
        raise ConfigError("the positions of this tower cannot be interpolated: leave out interpolate of the connector")

    def token_hw(grid_hw: Size) -> Size:
        return connector.token_hw(grid_hw) or (1, connector.num_tokens(grid_hw))

    def encode(model: nn.Module, pixels: Float[Tensor, "images *frames 3 height width"]) -> BaseModelOutputWithPooling:
        # The tower sees frames one by one; of a clip the connector gets all of them together.
        lead, stride = pixels.shape[:-3], family.vision_stride(model.config)
        output = encode_tower(model, pixels.flatten(0, -4))
        grid_hw = (pixels.shape[-2] // stride, pixels.shape[-1] // stride)
        states = [each.unflatten(0, lead) for each in read_levels(model, output, grid_hw)]
        tokens, proposals = getattr(model, _PLACE).read(states, grid_hw)
        output = output if len(lead) == 1 else _mean_over_frames(output, lead)
        output.pooler_output, output.proposals = list(tokens), proposals
        return output

    def image_text(config: PretrainedConfig, token: str, token_hw: Size) -> str:
        cells = family.image_text(config, token, token_hw)
        return connector.begin + cells + token * connector.num_behind + connector.end

    return replace(
        family,
        encode=encode,
        token_hw=token_hw,
        clip_tokens=connector.num_clip_tokens if connector.takes_clips else None,
        image_text=image_text,
        edge_tokens=tuple(filter(None, (connector.begin, connector.end))),
        has_token_grid=connector.has_grid,
    )


def read_levels(
    model: nn.Module, output: BaseModelOutputWithPooling, grid_hw: Size
) -> list[Float[Tensor, "images cells vision_dim"]]:
    """Return the states that the connector of an LMM reads, one tensor per level.

    Args:
        model: The LMM without its head, ``base_model.base_model`` of an adapter.
        output: What its tower gave.
        grid_hw: Height and width of the grid of cells.

    Raises:
        ConfigError: The tower has no such level.
    """
    connector = getattr(model, _PLACE)
    levels, dtype = connector.levels or (chosen_layer(model.config),), next(connector.parameters()).dtype
    # A class token stands before the cells.
    return [_level(output, level)[:, -grid_hw[0] * grid_hw[1] :].to(dtype) for level in levels]


def put_connector(base_model: PreTrainedModel, connector: Connector) -> None:
    """Put a connector in place of the one that an LMM has, under the same name; note it as untrained if it is.

    Raises:
        ConfigError: It is to start from the former one, which does not fit.
    """
    former = getattr(base_model.base_model, _PLACE)
    if connector.start == "projector":
        connector.start_from(former)
    setattr(base_model.base_model, _PLACE, connector.to(next(former.parameters()).device))
    if connector.start == "projector":
        return
    place = next(name for name, module in base_model.named_modules() if module is connector)
    note_untrained(base_model.config, [*getattr(base_model.config, UNTRAINED, ()), place])


def describe_connector(base_model: PreTrainedModel) -> dict[str, str]:
    """Return the connector that replaces the LMM's own, in words, as an entry of what a checkpoint must agree with."""
    connector = getattr(base_model.base_model, _PLACE, None)
    if not isinstance(connector, Connector):
        return {}
    return {"connector": f"{type(connector).__name__}({connector.extra_repr()})"}


def _mean_over_frames(output: BaseModelOutputWithPooling, lead: torch.Size) -> BaseModelOutputWithPooling:
    """Return the output of a tower for clips: the mean of what it gave for their frames."""

    def mean(value: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
        return value.unflatten(0, lead).mean(1) if isinstance(value, Tensor) else value and tuple(map(mean, value))

    return type(output)(**{name: mean(value) for name, value in output.items()})


def _level(output: BaseModelOutputWithPooling, level: int) -> Tensor:
    """Return a hidden state of the tower."""
    count = len(output.hidden_states)
    if not -count <= level < count:
        raise ConfigError(f"the tower gives {count} hidden states; connector.levels names {level}")
    return output.hidden_states[level]
