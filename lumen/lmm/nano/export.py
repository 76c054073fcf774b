"""A pretrained nano as a folder of its own, laid out as a downloaded model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from lumen.errors import CheckpointError
from lumen.lmm.untrained import note_untrained

_ADAPTER = "lmm.base_model."
_TABLES = ("embed_tokens.weight", "lm_head.weight")


def export_nano(
    base: str | Path, state: Mapping[str, Tensor], folder: str | Path, *, dialect: str | None = None
) -> Path:
    """Write a nano with the weights of a checkpoint, in bfloat16, with tokenizer, chat template and image processor.

    Rows that an adapter has added to the tables of words, those of ``[LOC]`` and the like, are left out.

    Args:
        base: Folder of the model that training started from.
        state: ``state_dict`` of the checkpoint of a model whose adapter is ``lmm``.
        folder: Where to write; made if missing.
        dialect: In which words it writes boxes, a name of ``lumen.lmm.dialects.DIALECTS``; stands in its config.

    Raises:
        CheckpointError: The weights are not those of such a model.
    """
    model = LlavaForConditionalGeneration.from_pretrained(base, trust_remote_code=False)
    known = model.state_dict()
    trained = {name.removeprefix(_ADAPTER): value for name, value in state.items() if name.startswith(_ADAPTER)}
    for name, value in trained.items():
        if name.endswith(_TABLES) and name in known:
            trained[name] = value[: len(known[name])]
    wrong = sorted(name for name, value in trained.items() if name not in known or value.shape != known[name].shape)
    missing = sorted(known.keys() - trained.keys())
    if wrong or missing:
        raise CheckpointError(
            f"the checkpoint is not one of {base}: {len(wrong)} weights do not fit, such as {wrong[:3]}, and "
            f"{len(missing)} are missing, such as {missing[:3]}"
        )
    model.load_state_dict(trained)
    note_untrained(model.config, ())
    if dialect is not None:
        model.config.dialect = dialect
    model.to(torch.bfloat16).save_pretrained(folder)
    LlavaProcessor.from_pretrained(base, trust_remote_code=False).save_pretrained(folder)
    return Path(folder)
