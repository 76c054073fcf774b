"""Reading a pure-Python config, without running or building anything that it names.

A config is Python, and so are its bases: a name that is imported from a base stands for the base's own object, and a
change of it is seen wherever the base uses it. A base that ends in ``train_dataloader = dict(..., pipeline=[_load,
_resize, _ask, _pack])`` lets a leaf write ``_ask["task"] = "pointing"``. (MMEngine copies the value of each name of a
base, so there such a change is lost.) A change that has no effect is refused.

Names that start with an underscore are helpers: they are gone when the file has been read. What the settings may hold
is checked where a runner is made of them; a predictor needs its model and its test pipeline only.
"""

import ast
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine import Config, ConfigDict
from mmengine.config import lazy
from mmengine.config.utils import ConfigParsingError
from mmengine.utils import import_modules_from_strings

from lumen.errors import ConfigError
from lumen.paths import find_path, real_path


class SharedDict(ConfigDict):
    """A dict of a config that is being read: it holds what it was given, where ConfigDict holds a copy of it.

    So ``d["x"] = y`` and ``d.setdefault("x", y)`` leave ``d["x"] is y``, as for any dict of Python.
    """

    @classmethod
    def _hook(cls, item: Any) -> Any:
        return item


def read_config(path: Path | str, *, import_roots: Sequence[Path | str] = ()) -> Config:
    """Read a config file: a leaf that was written by hand, or what a runner dumped into its work folder.

    Classes that it names are imported when they are accessed; modules in ``custom_imports``, whose classes
    are named by text, at once.

    Args:
        path: A pure-Python config, looked for in the current folder and then in the checkout.
        import_roots: Folders that imports of the config start from, besides its nearest ancestor without
            ``__init__.py``; put at the end of ``sys.path``.

    Raises:
        ConfigError: The file is missing, not pure Python, an import in it fails, it runs what it imports, or it changes
            a helper without effect.
    """
    return settings_of(read_names(path, import_roots=import_roots), path)


def read_names(path: Path | str, *, import_roots: Sequence[Path | str] = ()) -> SharedDict:
    """Read a config file and return all that it defines, helpers too; shared objects stay shared.

    Args:
        path: See ``read_config``.
        import_roots: See ``read_config``.

    Raises:
        ConfigError: See ``read_config``.
    """
    path = real_path(find_path(path))
    tree = _parsed(path)
    for folder in (*import_roots, plugin_folder(path)):
        add_import_path(Path(folder).resolve())
    try:
        with _shared_names():
            config = Config.fromfile(path, lazy_import=True)
        if "custom_imports" in config:  # MMEngine reads it in text configs only
            import_modules_from_strings(**config.custom_imports)
    except (SyntaxError, NameError, ImportError, ConfigParsingError, AttributeError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    except (TypeError, RuntimeError) as error:
        _refuse_use_of_imports(error)
        raise
    names = config._cfg_dict
    for name in config._imported_names & set(names):
        del names[name]
    _refuse_lost_helpers(path, tree, names)
    return names


def _refuse_use_of_imports(error: TypeError | RuntimeError) -> None:
    """Raise ConfigError where a config calls or indexes a name that it imports, which stands for the name alone."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame for frame in frames if frame.filename != lazy.__file__]
    if len(places) == len(frames) and "Lazy" not in str(error):
        return
    place = places[-1]
    raise ConfigError(
        f"{Path(place.filename).name}, line {place.lineno}: a config names what it imports and does not run it, got "
        f"{place.line!r}. Put the line in a module beside the config, and import that one by "
        "custom_imports = dict(imports=['my_module'])"
    ) from error


def settings_of(names: SharedDict, path: Path | str) -> Config:
    """Return the settings among ``names``, without helpers, each with values of its own.

    Overrides of one setting then leave the others alone, also where two were one object.
    """
    kept = {name: value for name, value in dict.items(names) if not is_helper(name)}
    whole_path = str(real_path(find_path(path)))
    # Formatting by yapf takes a second; the text goes into every checkpoint and is indented without it, too.
    return Config(_converted(kept, ConfigDict), filename=whole_path, format_python_code=False)


def is_helper(name: str) -> bool:
    """Return whether a top-level name of a config is a helper, not a setting."""
    return name.startswith("_")


def is_held(node: Any, names: SharedDict) -> bool:
    """Return whether a setting holds this very dict or list."""
    return any(inner is node for name, value in dict.items(names) if not is_helper(name) for inner in _nodes(value))


@contextmanager
def _shared_names() -> Iterator[None]:
    """Let MMEngine keep shared objects shared where it would copy the value of each name on its own."""
    original = Config._dict_to_config_dict_lazy
    Config._dict_to_config_dict_lazy = staticmethod(lambda names: _converted(names, SharedDict, {}))
    try:
        yield
    finally:
        Config._dict_to_config_dict_lazy = staticmethod(original)


def _converted(node: Any, kind: type[ConfigDict], memo: dict[int, Any] | None = None) -> Any:
    """Return ``node`` with all dicts as ``kind``; one object stays one object where there is a ``memo`` by id."""
    if not isinstance(node, dict | list | tuple):
        return node
    if memo is not None and id(node) in memo:
        return memo[id(node)]
    if isinstance(node, tuple):
        return tuple(_converted(item, kind, memo) for item in node)
    converted = kind() if isinstance(node, dict) else []
    if memo is not None:
        memo[id(node)] = converted
    if isinstance(node, dict):
        for key, value in dict.items(node):  # not ConfigDict.items, which imports lazy values
            dict.__setitem__(converted, key, _converted(value, kind, memo))
    else:
        converted += [_converted(item, kind, memo) for item in node]
    return converted


def _nodes(value: Any) -> Iterator[Any]:
    """Yield all dicts and lists of a value, itself included."""
    if isinstance(value, dict | list):
        yield value
    if isinstance(value, dict | list | tuple):
        for inner in dict.values(value) if isinstance(value, dict) else value:
            yield from _nodes(inner)


def _refuse_lost_helpers(path: Path, tree: ast.Module, names: SharedDict) -> None:
    """Raise ConfigError where the file sets or changes a helper that it does not read later and no setting holds."""
    for name, line in _idle_helpers(tree).items():
        if name in names and not is_held(dict.__getitem__(names, name), names):
            raise ConfigError(
                f"{path.name}, line {line}: nothing reads {name} after this line and no setting holds it, so that the "
                f"line has no effect. To change what the settings of a base hold, write {name}[...] = ..., not {name} "
                "= ...; where they hold a copy, change the setting itself"
            )


def _idle_helpers(tree: ast.Module) -> dict[str, int]:
    """Return the helpers that nothing reads after the statement that sets or changes them last, with its line."""
    changed: dict[str, tuple[int, int]] = {}
    read: dict[str, int] = {}
    for time, statement in enumerate(_statements(tree.body)):
        roots = _changed_roots(statement)
        parts = [part for part in ast.iter_child_nodes(statement) if not isinstance(part, ast.stmt)]
        for node in (node for part in parts for node in ast.walk(part)):
            if isinstance(node, ast.Name) and is_helper(node.id):
                if isinstance(node.ctx, ast.Store) or node in roots:
                    changed[node.id] = (time, node.lineno)
                else:
                    read[node.id] = time
    return {name: line for name, (time, line) in changed.items() if read.get(name, -1) <= time}


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and those inside them, in the order of the file."""
    for statement in body:
        yield statement
        for block in ("body", "orelse"):
            yield from _statements(getattr(statement, block, ()))


def _changed_roots(statement: ast.stmt) -> list[ast.expr]:
    """Return ``x`` for statements such as ``x = 1``, ``x["a"].b = 1``, ``del x[0]``, ``x["a"].update(...)``."""
    changed = [*getattr(statement, "targets", ()), *filter(None, [getattr(statement, "target", None)])]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        changed.append(statement.value.func)
    roots = []
    for node in changed:
        while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
            node = node.func if isinstance(node, ast.Call) else node.value
        roots.append(node)
    return roots


def _parsed(path: Path) -> ast.Module:
    """Parse a config; raise ConfigError unless it is a pure-Python one with imported bases."""
    if not path.is_file():
        raise ConfigError(f"there is no config {path}; check the path")
    if path.suffix != ".py":
        raise ConfigError(f"{path.name}: a config is a Python file; YAML and JSON are not read")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    if any(isinstance(target, ast.Name) and target.id == "_base_" for target in targets):
        raise ConfigError(f"{path.name}: write `with read_base(): from ._base_.x import y` instead of a text _base_")
    blocks = [node for block in tree.body if isinstance(block, ast.With) for node in block.body]
    absolute = [node.module for node in blocks if isinstance(node, ast.ImportFrom) and node.level == 0]
    if any((module or "").partition(".")[0] == "configs" for module in absolute):
        raise ConfigError(
            f"{path.name}: bases are found from the config's own folder: copy configs/_base_ beside it and write `with "
            f"read_base(): from ._base_.x import y`, got {absolute}"
        )
    return tree


def plugin_folder(path: Path) -> Path:
    """Return the folder that imports of a config start from: its nearest ancestor without ``__init__.py``."""
    return next(folder for folder in path.parents if not (folder / "__init__.py").exists())


def add_import_path(folder: Path) -> None:
    """Put a folder at the end of ``sys.path``, so that no file in it hides a module of the standard library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
