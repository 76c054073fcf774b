"""Groups of options: frozen dataclasses that a config gives as dicts of their fields."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin

from lumen.errors import ConfigError

Group = TypeVar("Group")


def read_options(kind: type[Group], given: Group | Mapping[str, Any] | None, name: str) -> Group:
    """Return a group of options.

    Args:
        kind: The dataclass of the group.
        given: A group, which is returned as it is, or a dict of some of its fields; the defaults stand for the others.
        name: What the group is called in errors.

    Raises:
        ConfigError: A field is unknown, or a value is not accepted.
    """
    if isinstance(given, kind):
        return given
    given = dict(given or {})
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(f"{name} takes {known}, got {unknown}")
    return kind(**given)


def check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raise ConfigError unless a value is one of the accepted ones."""
    if value not in accepted:
        raise ConfigError(f"{name} must be one of {accepted}, got {value!r}")


def group_of(annotation: Any) -> type | None:
    """Return the group that a parameter takes as a dict, by its annotation, such as ``Group | Mapping[str, Any]``."""
    accepted = get_args(annotation)
    takes_dict = any(get_origin(kind) is Mapping for kind in accepted)
    return next((kind for kind in accepted if takes_dict and is_dataclass(kind)), None)
