"""Configs as json: a class is its dotted name, and comes back only from classes that are known already."""

from collections.abc import Collection, Mapping
from typing import Any

from lumen.errors import CheckpointError, ConfigError
from lumen.registry import DECODERS, MODELS


def config_to_json(value: Any, place: str) -> Any:
    """Return a config as json holds it: classes as dotted names, tuples as lists.

    Args:
        value: A config of a model or of a decoder, or a part of one.
        place: Its name in errors: ``model``, ``decoder``, or a key path that starts so.

    Raises:
        ConfigError: A value is not plain data, or a name is not registered.
    """
    if isinstance(value, Mapping):
        node = {str(key): config_to_json(entry, f"{place}.{key}") for key, entry in value.items() if key != "type"}
        return {"type": dotted_name(class_of(value["type"], place)), **node} if "type" in value else node
    if isinstance(value, list | tuple):
        return [config_to_json(entry, f"{place}.{index}") for index, entry in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{place} is a {type(value).__name__}; a model is written with plain values and classes only")


def config_from_json(value: Any, known: Mapping[str, type], place: str) -> Any:
    """Return a config with classes in place of their names.

    Args:
        value: What ``config_to_json`` gave.
        known: The classes that may be built, by dotted name; see ``known_types``.
        place: See ``config_to_json``.

    Raises:
        CheckpointError: A name is not among ``known``.
    """
    if isinstance(value, list):
        return [config_from_json(entry, known, f"{place}.{index}") for index, entry in enumerate(value)]
    if not isinstance(value, dict):
        return value
    node = {key: config_from_json(entry, known, f"{place}.{key}") for key, entry in value.items()}
    if "type" in node:
        # The name is looked up and never imported: a file must not choose what code runs.
        if node["type"] not in known:
            raise CheckpointError(
                f"{place}.type is {node['type']!r}, which is not registered. Where you trust it, import its plug-in "
                "and name the class: types=[...]. A file alone never causes an import"
            )
        node["type"] = known[node["type"]]
    return node


def known_types(types: Collection[type] = ()) -> dict[str, type]:
    """Return the models and decoders that are registered here, and those the caller names, by dotted name."""
    registered = []
    for registry in (MODELS, DECODERS):
        # Lumen's own classes register themselves when their modules are imported.
        registry.import_from_location()
        registered += registry.module_dict.values()
    return {dotted_name(kind): kind for kind in (*registered, *types)}


def class_of(kind: type | str, place: str) -> type:
    """Return the class that ``type`` of a config stands for; a text is the name of a registered one."""
    found = kind if isinstance(kind, type) else MODELS.get(kind) or DECODERS.get(kind)
    if found is None:
        raise ConfigError(f"{place}.type={kind!r} is neither a class nor a registered name")
    return found


def dotted_name(kind: type) -> str:
    """Return module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"
