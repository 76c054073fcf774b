"""Two convolutions in place of two-way attention: what the paper compares its aligner with."""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class ConvolutionMixing(nn.Module):
    """Concatenate each pair's query to every cell of its image, then convolve twice.

    Tokens stay as they are: only the cells learn of the phrase.

    Args:
        channels: Width of query and cells.

    Source:
        Jiao et al., "Lumen" (2024), table 3a: concatenation and two convolutions. The paper names neither kernel sizes
        nor what stands between the two; 3 x 3 with normalization and SiLU, and a residual connection, are ours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The convolution of [image, query] is one of the image, once per image, plus a constant for each query.
        self.of_image = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.of_query = nn.Linear(channels, channels)
        self.norm = nn.GroupNorm(1, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self,
        query: Float[Tensor, "pairs channels"],
        image: Float[Tensor, "images channels height width"],
        image_index: Int[Tensor, " pairs"],
    ) -> Float[Tensor, "pairs cells channels"]:
        """Return the cells of the image as each pair sees it, row by row."""
        mixed = self.of_image(image)[image_index] + self.of_query(query)[:, :, None, None]
        mixed = image[image_index] + self.second(functional.silu(self.norm(mixed)))
        return mixed.flatten(2).transpose(1, 2)
