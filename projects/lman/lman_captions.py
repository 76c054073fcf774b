"""The text side of a query connector: captions beside the queries, in the same layers, as in BLIP-2's first stage."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lumen.lmm.connectors import QueryConnector

_STD = 0.02


class CaptionSide(nn.Module):
    """What captions need beside the parts of a query connector: embeddings, feed-forward layers, and heads.

    Self-attention is shared with the queries; feed-forward layers are not. A caption starts with one of two learned
    vectors: one whose last state stands for the whole caption, and one from which it is written.

    Args:
        connector: The connector; not part of this module.
        vocabulary: Number of token ids.
        max_tokens: Tokens of a caption that are read, the end included.
        dim: Width of the space in which images and captions are compared.
    """

    def __init__(self, connector: QueryConnector, *, vocabulary: int, max_tokens: int = 64, dim: int = 64) -> None:
        super().__init__()
        width = connector.queries.shape[1]
        self.max_tokens = max_tokens
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(max_tokens + 1, width) * _STD)
        self.starts = nn.Parameter(torch.randn(2, width) * _STD)
        self.layers = nn.ModuleList([_FeedForward(width) for _ in connector.qformer.encoder.layer])
        self.write = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.image_to_space = nn.Linear(width, dim)
        self.text_to_space = nn.Linear(width, dim)
        self.match = nn.Linear(width, 1)
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # 1 / 0.07, as in CLIP
        nn.init.normal_(self.words.weight, std=_STD)

    def embed(
        self, ids: Int[Tensor, "texts tokens"], *, writes: bool = False
    ) -> Float[Tensor, "texts one_more_token width"]:
        """Return a start vector and the tokens of each caption, with their places."""
        start = self.starts[int(writes)].expand(len(ids), 1, -1)
        return torch.cat([start, self.words(ids)], 1) + self.places[: ids.shape[1] + 1]

    def image_vectors(self, queries: Float[Tensor, "images queries width"]) -> Float[Tensor, "images queries dim"]:
        """Return the unit vectors of the queries of each image."""
        return functional.normalize(self.image_to_space(queries).float(), dim=-1)

    def text_vectors(self, texts: Float[Tensor, "texts tokens width"]) -> Float[Tensor, "texts dim"]:
        """Return the unit vector of each caption, from the state of its start."""
        return functional.normalize(self.text_to_space(texts[:, 0]).float(), dim=-1)

    def word_logits(self, texts: Float[Tensor, "texts tokens width"]) -> Float[Tensor, "texts tokens vocabulary"]:
        """Return the logits of the token that follows each; weights are those of the embeddings."""
        return (self.write(texts) @ self.words.weight.T).float()


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.mlp(x))


def run_jointly(
    connector: QueryConnector,
    side: CaptionSide,
    *,
    cells: Float[Tensor, "batch cells width"] | None,
    texts: Float[Tensor, "batch tokens width"] | None,
    sees: Bool[Tensor, "#batch length length"] | None = None,
) -> tuple[Float[Tensor, "batch queries width"] | None, Float[Tensor, "batch tokens width"] | None]:
    """Run queries, captions, or both through the layers of a connector.

    Args:
        connector: Gives queries, attention layers, and the feed-forward layers of queries.
        side: Gives the feed-forward layers of captions.
        cells: What the queries read, see ``QueryConnector.cells``; None for captions alone.
        texts: Embedded captions; None for queries alone.
        sees: Which positions (rows) see which (columns), queries first; all see all when left out.

    Returns:
        The states of queries and of captions, None where there are none.
    """
    parts = [] if cells is None else [connector.queries.expand(len(cells), -1, -1)]
    parts += [] if texts is None else [texts]
    number = 0 if cells is None else connector.queries.shape[0]
    hidden = connector.qformer.layernorm(torch.cat(parts, 1))
    mask = None if sees is None else _additive(sees, hidden.dtype)
    for layer, feed_forward in zip(connector.qformer.encoder.layer, side.layers, strict=True):
        hidden = layer.attention(hidden, attention_mask=mask)
        queries, captions = hidden[:, :number], hidden[:, number:]
        if number:
            if layer.has_cross_attention:
                queries = layer.crossattention(queries, encoder_hidden_states=cells)
            queries = layer.feed_forward_chunk_query(queries)
        hidden = torch.cat([queries, feed_forward(captions)], 1)
    return (hidden[:, :number] if number else None), (None if texts is None else hidden[:, number:])


def _additive(
    sees: Bool[Tensor, "#batch length length"], dtype: torch.dtype
) -> Float[Tensor, "#batch 1 length length"]:
    """Return a mask that is added to the logits of attention."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[:, None]


def caption_mask(
    is_token: Bool[Tensor, "texts tokens"], *, queries: int = 0, causal: bool = False
) -> Bool[Tensor, "texts length length"]:
    """Return who sees whom: captions see what is no padding, and themselves.

    Args:
        is_token: Tokens, the start included, that are no padding.
        queries: Number of queries in front. Without ``causal``, queries and captions see each other; with it, captions
            see all queries and what stands before them, and queries see queries alone.
        causal: Whether captions are written.
    """
    texts, tokens = is_token.shape
    everything = functional.pad(is_token, (queries, 0), value=True)
    sees = everything[:, None].expand(texts, queries + tokens, queries + tokens).clone()
    if causal:
        sees[:, :queries, queries:] = False
        sees[:, queries:, queries:] &= torch.ones(tokens, tokens, dtype=torch.bool, device=sees.device).tril()
    # A row of padding that saw nothing would have no softmax.
    return sees | torch.eye(queries + tokens, dtype=torch.bool, device=sees.device)


def pad_captions(captions: Sequence[Sequence[int]], *, max_tokens: int) -> tuple[Tensor, Tensor]:
    """Return token ids (texts, tokens), 0 as padding, cut to ``max_tokens``, and which of them are no padding."""
    cut = [list(ids)[:max_tokens] for ids in captions]
    length = max(map(len, cut), default=0)
    ids = torch.tensor([each + [0] * (length - len(each)) for each in cut], dtype=torch.long).view(len(cut), length)
    lengths = torch.tensor([len(each) for each in cut], dtype=torch.long)
    return ids, torch.arange(length) < lengths[:, None]
