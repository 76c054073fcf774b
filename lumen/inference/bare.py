"""An LMM as it is, asked for boxes in its own words: nothing is trained."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch

from lumen.aligners.none import NoAligner
from lumen.decoders.text_box import TextBoxDecoder
from lumen.inference.compute import choose_device
from lumen.inference.predictor import LumenPredictor
from lumen.inference.sources import MAX_NEW_TOKENS, MAX_PIXELS
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.dialects import SCORES, require_dialect
from lumen.lmm.nano.vision import trained_pixels
from lumen.lmm.options import GenerationOptions
from lumen.lmm.repository import read_config
from lumen.model import Lumen
from lumen.paths import find_path


def bare_predictor(
    name_or_path: str | PathLike[str],
    *,
    dialect: str | Mapping[str, Any] | None = None,
    max_pixels: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    base: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> LumenPredictor:
    """Return a predictor over a pretrained LMM that writes boxes, for the task ``written_boxes``.

    Args:
        name_or_path: Folder or model id.
        dialect: How it is asked and how it writes: a name of ``lumen.lmm.dialects.DIALECTS``, or a dict of the fields
            of ``Dialect``; that of its config or model type when left out.
        max_pixels: Bound on the pixels of an image, for an LMM that takes several sizes; when left out ``MAX_PIXELS``,
            and for a nano the size that its config names.
        max_new_tokens: Bound on the tokens of an answer; a box takes 10 to 40.
        base: Fields of ``lumen.lmm.options.BaseOptions``, such as ``quantization``.
        device: The first GPU where there is one, else the CPU, when left out.
        dtype: bfloat16 on a GPU, float32 elsewhere, when left out.

    Raises:
        ConfigError: The LMM has no dialect, or an option is not accepted; see also ``HFAdapter``.
        CheckpointError: There is no model of that name.
    """
    # What can be refused is refused before weights are downloaded.
    config = read_config(find_path(name_or_path), None)
    generation = GenerationOptions(dialect=dialect, max_new_tokens=max_new_tokens)
    chosen = require_dialect(generation.dialect_of(config), config.model_type)
    device, dtype = choose_device(device, dtype)
    precision = {"dtype": "bfloat16"} if device.type == "cuda" else {}
    options = {"new_tokens": "learn", **precision, **(base or {})}
    adapter = HFAdapter(str(name_or_path), base=options, generation=generation)
    bound = max_pixels or trained_pixels(config) or MAX_PIXELS
    model = Lumen(adapter, {"type": NoAligner}, [{"type": TextBoxDecoder}], max_pixels=bound)
    return LumenPredictor(
        model,
        mode=chosen.framing,
        device=device,
        dtype=dtype,
        description={
            "lmm": str(name_or_path),
            "base_model": model.describe()["base_model"],
            "dialect": chosen.name,
            "scores": SCORES[chosen.score],
        },
    )
