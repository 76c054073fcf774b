"""What a connector is: the part of an LMM that turns the states of its vision tower into image tokens."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from lumen.errors import ConfigError
from lumen.lmm.families.family import Size
from lumen.options import check_choice
from lumen.proposals import Proposals

STARTS = ("scratch", "projector")


class Connector(nn.Module, ABC):
    """Turns the states of a vision tower into image tokens.

    A connector is final: subclass ``Connector`` itself, never another connector. ``extra_repr`` names its options;
    checkpoints are compared by it.

    Args:
        vision_dim: Width of the tower. The adapter fills it in.
        dim: Width of the LLM. The adapter fills it in.
        levels: Which hidden states of the tower it reads, as indices into ``hidden_states``; that of the LMM's own
            config when left out.
        begin: Token that is written before the image tokens, such as ``<im_start>``; the tokenizer gets it where it
            lacks it. None when empty.
        end: The same behind them.
        interpolate: Spread the positions of the tower over images of another size than those it was trained on, for a
            tower that takes any size and counts cells otherwise.
        start: ``scratch``, or ``projector``: the linear layers start as those of the projector that it replaces.

    Raises:
        ConfigError: There is no such start.
    """

    has_grid: bool = True
    """Whether an image token stands for a place in the image, so that ``token_hw`` gives a grid."""
    num_behind: int = 0
    """Image tokens behind those that ``num_tokens`` counts."""

    takes_clips: bool = False
    """Whether it takes clips too; such a connector has a ``num_clip_tokens`` of its own."""

    def __init__(
        self,
        vision_dim: int,
        dim: int,
        *,
        levels: Sequence[int] = (),
        begin: str = "",
        end: str = "",
        interpolate: bool = False,
        start: str = "scratch",
    ) -> None:
        super().__init__()
        check_choice("Connector.start", start, STARTS)
        self.vision_dim = vision_dim
        self.dim = dim
        self.levels = tuple(int(level) for level in levels)
        self.begin = begin
        self.end = end
        self.interpolate = interpolate
        self.start = start

    @property
    def num_levels(self) -> int:
        """How many hidden states it reads."""
        return len(self.levels) or 1

    def token_hw(self, grid_hw: Size) -> Size | None:
        """Return the grid of the image tokens, that of the cells where a connector says nothing else.

        None where they stand for no places; such a connector has a ``num_tokens`` of its own.

        Raises:
            ConfigError: It does not take such a grid.
        """
        return grid_hw

    def num_tokens(self, grid_hw: Size) -> int:
        """Return the number of image tokens.

        Raises:
            ConfigError: It does not take such a grid.
        """
        return math.prod(self.token_hw(grid_hw))

    def num_clip_tokens(self, grid_hw: Size, frames: int) -> int:
        """Return the number of image tokens of a clip.

        Raises:
            ConfigError: It takes no clips.
        """
        raise ConfigError(f"{type(self).__name__} takes images, not clips of {frames} frames: choose another connector")

    @abstractmethod
    def forward(
        self, states: Sequence[Float[Tensor, "images *frames cells vision_dim"]], grid_hw: Size
    ) -> Float[Tensor, "images tokens dim"]:
        """Return the image tokens, row by row where they lie on a grid.

        Args:
            states: One tensor per level, cells row by row, without a class token. Of clips they have an axis of
                frames, if ``takes_clips``.
            grid_hw: Height and width of the grid of cells.
        """

    def read(
        self, states: Sequence[Float[Tensor, "images *frames cells vision_dim"]], grid_hw: Size
    ) -> tuple[Float[Tensor, "images tokens dim"], Proposals | None]:
        """Return the image tokens, and the proposals that the last of them stand for; none in most connectors."""
        return self(states, grid_hw), None

    def start_from(self, projector: nn.Module) -> None:
        """Take the weights of the projector that it replaces: linear layer by linear layer, in their order.

        Raises:
            ConfigError: The linear layers of both differ in number or size, or it has other weights.
        """
        layers, former = (
            [module for module in each.modules() if isinstance(module, nn.Linear)] for each in (self, projector)
        )
        sizes = [[tuple(value.shape) for value in each.parameters()] for each in (self, projector)]
        linear = [tuple(value.shape) for layer in layers for value in layer.parameters()]
        if not sizes[0] == sizes[1] == linear:
            raise ConfigError(
                f"start='projector' needs the linear layers of the LMM's own projector, {sizes[1]}; "
                f"{type(self).__name__} has {sizes[0]}: leave start out"
            )
        for layer, given in zip(layers, former, strict=True):
            layer.load_state_dict(given.state_dict())

    def extra_repr(self) -> str:
        """Return its options in words."""
        named = {
            "levels": self.levels,
            "begin": self.begin,
            "end": self.end,
            "interpolate": self.interpolate,
        }
        return ", ".join(f"{name}={value}" for name, value in named.items() if value)
