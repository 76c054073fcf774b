"""Rows of tokens that a base model does not have: ``[LOC]`` and the routing tokens. They start alike at every build."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lumen.lmm.tokens.phrases import PromptEncoder

_SEED = 0


def new_rows(known: Float[Tensor, "rows dim"], count: int) -> Float[Tensor, "count dim"]:
    """Return ``count`` rows like the known ones: their mean, and noise of their spread from a seed of its own.

    A row that is frozen is not in a checkpoint, so it must come out the same at every build; and rows that are trained
    must differ from each other at the start. The global random state is left as it was.
    """
    var, mean = torch.var_mean(known.detach().float(), 0, correction=0)
    noise = torch.randn(count, known.shape[1], generator=torch.Generator().manual_seed(_SEED))
    return (mean + noise.to(mean.device) * var.sqrt()).to(known.dtype)


def add_tokens(base_model: PreTrainedModel, encoder: PromptEncoder, mode: str) -> "NewTokens | None":
    """Give an LMM rows for the special tokens. Those that its tokenizer had before stay as they are.

    Args:
        base_model: The LMM; its tables are changed for ``resize`` only.
        encoder: Knows the tokens, and whether the LMM learns to write them.
        mode: ``resize`` or ``learn``.

    Returns:
        The rows beside the LMM, for ``learn``.
    """
    _bound_further_tables(base_model)
    if mode == "resize":
        resize_tokens(base_model, len(encoder.tokenizer), encoder.added_ids, encoder.num_known)
        return None
    ids = encoder.tokenizer.convert_tokens_to_ids(encoder.special_tokens)
    return NewTokens(base_model, ids, encoder.added_ids, encoder.num_known, with_head=encoder.template.has_answer)


@torch.no_grad()
def resize_tokens(base_model: PreTrainedModel, num_tokens: int, added: Sequence[int], num_known: int) -> None:
    """Make the tables of an LMM, input and output, at least ``num_tokens`` rows long, and start the new rows.

    Many tables are longer than the vocabulary; the spare rows are all alike, so the rows of new tokens are started
    even where the table has them already.

    Args:
        base_model: The LMM; its tables are changed.
        num_tokens: Tokens of the vocabulary.
        added: The new tokens among them.
        num_known: Tokens of the LMM's own.
    """
    num_rows = base_model.get_input_embeddings().num_embeddings
    if num_tokens > num_rows:
        base_model.resize_token_embeddings(num_tokens, mean_resizing=False)
    fresh = sorted({*added, *range(num_rows, num_tokens)})
    for table in (base_model.get_input_embeddings(), base_model.get_output_embeddings()):
        table.weight[fresh] = new_rows(table.weight[: min(num_known, num_rows)], len(fresh))


def _bound_further_tables(base_model: PreTrainedModel) -> None:
    """Let the tables that some LLMs have for each layer read the padding's row where a token is new to them."""
    pad = base_model.config.text_config.pad_token_id or 0

    def bound(table: nn.Embedding, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0].masked_fill(args[0] >= table.num_embeddings, pad),)

    for table in base_model.get_decoder().modules():
        if isinstance(table, nn.Embedding) and table is not base_model.get_input_embeddings():
            table.register_forward_pre_hook(bound)


class NewTokens(nn.Module):
    """Learnable rows of some tokens beside an LMM whose own tables stay as they are.

    Hooks on the two tables put the rows in: ``rows`` in place of the input table's rows of these tokens, ``head``,
    where there is one, in place of their logits.

    Args:
        base_model: The LMM.
        ids: The tokens; the tables need not have them.
        added: Those among them that are new; the others start as they are.
        num_known: Tokens of the LMM's own.
        with_head: Whether the LMM learns to write the tokens, too.
    """

    def __init__(
        self, base_model: PreTrainedModel, ids: Sequence[int], added: Sequence[int], num_known: int, *, with_head: bool
    ) -> None:
        super().__init__()
        inputs, outputs = base_model.get_input_embeddings(), base_model.get_output_embeddings()
        num_known = min(num_known, inputs.num_embeddings)
        with torch.no_grad():  # what the LLM sees: some tables scale their rows
            table = inputs(torch.arange(num_known, device=inputs.weight.device))
        self.register_buffer("ids", torch.tensor(ids, device=table.device), persistent=False)
        self.rows = nn.Parameter(_start(table, ids, added))
        self.head = nn.Parameter(_start(outputs.weight[:num_known], ids, added)) if with_head else None
        self._asked = self.ids[:0]
        self._num_tokens = max(ids) + 1
        inputs.register_forward_pre_hook(self._ask)
        inputs.register_forward_hook(self._answer)
        if with_head:
            outputs.register_forward_hook(self._say)

    def _ask(self, table: nn.Module, args: tuple[Int[Tensor, "..."]]) -> tuple[Tensor]:
        self._asked = args[0]
        return (args[0].masked_fill(torch.isin(args[0], self.ids), 0),)

    def _answer(self, table: nn.Module, args: tuple[Tensor], rows: Float[Tensor, "... dim"]) -> Tensor:
        which = self._asked[..., None] == self.ids
        learned = self.rows.to(rows.dtype)[which.int().argmax(-1)]
        return torch.where(which.any(-1, keepdim=True), learned, rows)

    def _say(self, table: nn.Module, args: tuple[Tensor], logits: Float[Tensor, "... tokens"]) -> Tensor:
        learned = args[0] @ self.head.to(args[0].dtype).T
        missing = self._num_tokens - logits.shape[-1]
        if missing > 0:
            lowest = logits.new_full((*logits.shape[:-1], missing), torch.finfo(logits.dtype).min)
            logits = torch.cat([logits, lowest], -1)
        return logits.index_copy(-1, self.ids, learned.to(logits.dtype))


def _start(known: Float[Tensor, "rows dim"], ids: Sequence[int], added: Sequence[int]) -> Float[Tensor, "count dim"]:
    """Return float32 rows to train: those of known tokens as they are, the others like them."""
    rows = new_rows(known, len(ids)).float()
    for row, token in enumerate(ids):
        if token not in added and token < len(known):
            rows[row] = known[token].detach()
    return rows
