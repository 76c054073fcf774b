"""The ``README.md`` beside an exported model or decoder: what it is, what it fits, how to use it, its figures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lumen.errors import ConfigError
from lumen.inference.exported import BASE, COPIED_BASE
from lumen.paths import PACKAGED, is_hub_id
from lumen.structures import TaskSpec

_HEAD = "---\nlibrary_name: lumen-perception\n{licence}{base}tags:\n- lumen\n{tags}\n---\n\n# {title}\n"
_USE_MODEL = """
```python
{imports}from lumen.inference.predictor import LumenPredictor

predictor = LumenPredictor.from_pretrained("FOLDER"{base_model}{types})
predictor.set_image("photo.jpg")
print(predictor.predict(["star", "red ring"], task="{task}"))
```
"""
_USE_DECODER = """
```python
{imports}from lumen.inference.predictor import LumenPredictor
from lumen.inference.pretrained import load_decoder

predictor = LumenPredictor.from_pretrained("MODEL_FOLDER")  # the model that is described above
load_decoder(predictor.model, "FOLDER"{types})
predictor.set_image("photo.jpg")
print(predictor.predict(["star", "red ring"], task="{task}"))
```
"""
_PROTOCOL = ("dataset", "num_images", "prompts_per_image", "answer_mode", "template", "heatmap_stride", "dtype")


def model_card(
    specs: Sequence[TaskSpec],
    description: Mapping[str, str],
    protocol: Mapping[str, Any] | None = None,
    *,
    base_model: str,
    classes: Sequence[str] | None = None,
    license_id: str | None = None,
    plug_ins: Sequence[str] = (),
) -> str:
    """Return the card of a whole model.

    Args:
        specs: Of its decoders.
        description: The model's description of itself.
        protocol: A protocol card as read from json; without one the card has no figures.
        base_model: How ``model.json`` names the base model.
        classes: Phrases that it is asked where a question names none.
        license_id: As the hub spells it, such as ``apache-2.0``.
        plug_ins: Dotted names of the classes that do not come with Lumen, which a reader must name in ``types=``.

    Raises:
        ConfigError: ``license_id`` is not such a name.
    """
    is_on_hub = base_model not in PACKAGED and is_hub_id(base_model)
    argument = f', base_model="{base_model}"' if is_on_hub else ""
    use = _USE_MODEL.format(task=specs[0].name, base_model=argument, **_named(plug_ins))
    return (
        _head("A Lumen model", specs, license_id, base_model if is_on_hub else None)
        + f"\nA model of Lumen: what was trained. {_where(base_model)}\n"
        + _facts(description)
        + _tasks(specs)
        + ("" if classes is None else f"\nNames that it is asked by default: {', '.join(classes)}.\n")
        + use
        + _figures(protocol)
    )


def decoder_card(
    spec: TaskSpec,
    fits: Mapping[str, str],
    protocol: Mapping[str, Any] | None = None,
    *,
    license_id: str | None = None,
    plug_ins: Sequence[str] = (),
) -> str:
    """Return the card of one decoder; ``fits`` is what a model must agree with, for the rest see ``model_card``."""
    about = "\nA decoder of Lumen, for one model only: the one with this LMM and this aligner.\n"
    use = _USE_DECODER.format(task=spec.name, **_named(plug_ins))
    return (
        _head(f"A Lumen decoder: {spec.name}", [spec], license_id)
        + about
        + _facts(fits)
        + _tasks([spec])
        + use
        + _figures(protocol)
    )


def _named(plug_ins: Sequence[str]) -> dict[str, str]:
    """Return the lines that import plug-ins, and the argument that names them."""
    parts = [name.rpartition(".") for name in plug_ins]
    imports = "".join(f"from {module} import {kind}  # not part of Lumen\n" for module, _, kind in parts)
    types = f", types=[{', '.join(kind for _, _, kind in parts)}]" if parts else ""
    return {"imports": imports, "types": types}


def _where(base_model: str) -> str:
    if base_model == COPIED_BASE:
        return f"A copy of its base model is in `{BASE}`, under that model's own licence."
    if base_model in PACKAGED:
        return f"Its base model, `{base_model}`, comes with Lumen."
    if is_hub_id(base_model):
        return f"Its base model, `{base_model}`, is fetched only where the caller names it."
    return f"Its base model, `{base_model}`, is not in this folder."


def _head(title: str, specs: Sequence[TaskSpec], license_id: str | None, base_model: str | None = None) -> str:
    if license_id is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license_id):
        raise ConfigError(f"a licence is named as the hub spells it, such as apache-2.0, got {license_id!r}")
    return _HEAD.format(
        title=title,
        licence="" if license_id is None else f"license: {license_id}\n",
        base="" if base_model is None else f"base_model: {base_model}\n",
        tags="\n".join(f"- {spec.name}" for spec in specs),
    ) + ("\nNo licence was named: ask the author before you use it.\n" if license_id is None else "")


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n" + "".join(f"- {name}: `{value}`\n" for name, value in facts.items())


def _tasks(specs: Sequence[TaskSpec]) -> str:
    rows = [("task", "answers", "headline"), ("---",) * 3]
    rows += [(spec.name, ", ".join(sorted(spec.predictions)), spec.headline) for spec in specs]
    return "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _figures(protocol: Mapping[str, Any] | None) -> str:
    if protocol is None:
        return "\nNo figures were given with it.\n"
    rows = "".join(f"| {name} | {_shown(value)} |\n" for name, value in protocol.get("figures", {}).items())
    asked = {name: protocol[name] for name in _PROTOCOL if protocol.get(name) is not None}
    return f"\n| figure | value |\n| --- | --- |\n{rows}\nHow they were measured:\n{_facts(asked)}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
