"""The library itself: imported when it is used, with its names looked up in its scope and in no other."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.registry import DefaultScope, Registry

from lumen.errors import ConfigError, named_faults
from lumen.paths import find_path

_PATHS = ("data_root", "ann_file")
_SHIPPED = "mmdet::"


@contextmanager
def mmdet_scope(user: str) -> Iterator[None]:
    """Look names up in mmdet's registries while inside; the scope of the process stays as it was.

    Args:
        user: What needs mmdet, for the error.

    Raises:
        ConfigError: mmdet or mmcv is not installed.
    """
    try:
        import mmcv  # noqa: F401 - mmdet names neither of its needs
        import mmdet  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{user} needs mmdet and mmcv ({error}): pip install 'lumen-perception[mmdet]'; mmcv is compiled, which "
            "needs a C++ compiler"
        ) from error
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def build(registry: Registry, settings: Mapping[str, Any], what: str) -> Any:
    """Build what mmdet's settings describe; call it within ``mmdet_scope``.

    Args:
        registry: Of mmdet.
        settings: With ``type``, a registered name or the class itself.
        what: Such as ``data set``, for errors.

    Raises:
        ConfigError: There is no such class, or it does not take these settings.
    """
    kind = settings.get("type")
    if kind is None or (isinstance(kind, str) and registry.get(kind) is None):
        near = difflib.get_close_matches(str(kind), registry.module_dict, n=3, cutoff=0.4)
        raise ConfigError(
            f"mmdet has no {what} {kind!r}; the nearest are {near}. A class of your own is registered in mmdet's "
            "registry and imported by custom_imports of the config"
        )
    with named_faults(
        f"{what} {name_of(settings)} of mmdet cannot be made", ConfigError, remedy="correct its settings"
    ):
        return registry.build(dict(settings))


def name_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the class that settings describe."""
    kind = settings.get("type")
    return kind if isinstance(kind, str) else getattr(kind, "__name__", repr(kind))


def read_part(path: str, key: str) -> Any:
    """Return one setting of an mmdet config file, which is run as Python code.

    Args:
        path: Looked for as ``find_path`` does; behind ``mmdet::`` among those that mmdet ships.
        key: Name of the setting.

    Raises:
        ConfigError: The file cannot be read, or has no such setting; or mmdet is not installed.
    """
    config = read_file(path)
    if config.get(key) is None:
        raise ConfigError(f"{path} has no {key!r}; it has {sorted(config)}")
    return config[key]


def read_file(path: str | Path) -> Config:
    """Return the content of an mmdet config file; see ``read_part``.

    Raises:
        ConfigError: The file cannot be read; or mmdet is not installed.
    """
    with mmdet_scope("a config of mmdet"):
        import mmdet

        name = str(path)
        shipped = Path(mmdet.__file__).parent / ".mim/configs"
        found = str(shipped / name.removeprefix(_SHIPPED)) if name.startswith(_SHIPPED) else find_path(name)
        with named_faults(f"{found}: cannot be read as a config of mmdet", ConfigError, remedy="name a whole config"):
            return Config.fromfile(found)


def with_found_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose ``data_root``, or ``ann_file`` where there is no root, is looked for as ``find_path`` does.

    mmdet looks in the current folder only.
    """
    found = dict(settings)
    for key in _PATHS:
        if isinstance(found.get(key), str) and found[key]:
            found[key] = find_path(found[key])
            break  # a file is relative to its root
    return found
