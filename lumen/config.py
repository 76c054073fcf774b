"""Reading a pure-Python config, without running or building anything that it names.

What a config may hold is checked where a runner is made of it; a predictor needs its model and its test pipeline only.
"""

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine import Config
from mmengine.config.utils import ConfigParsingError
from mmengine.utils import import_modules_from_strings

from lumen.errors import ConfigError


def read_config(path: Path | str, *, import_roots: Sequence[Path | str] = ()) -> Config:
    """Read a config file: a leaf that was written by hand, or what a runner dumped into its work folder.

    Classes that it names are imported when they are looked at, not before; modules in ``custom_imports``, whose classes
    are named by text, at once.

    Args:
        path: A pure-Python config.
        import_roots: Folders that imports of the config start from, besides its nearest ancestor without
            ``__init__.py``; put at the end of ``sys.path``.

    Raises:
        ConfigError: The file is missing, not pure Python, or an import in it fails.
    """
    path = Path(path).resolve()
    refuse_other_kinds(path)
    for folder in (*import_roots, plugin_folder(path)):
        add_import_path(Path(folder).resolve())
    try:
        config = Config.fromfile(path, lazy_import=True)
        if "custom_imports" in config:  # MMEngine reads it in text configs only
            import_modules_from_strings(**config.custom_imports)
    except (SyntaxError, NameError, ImportError, ConfigParsingError, AttributeError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    return config


def refuse_other_kinds(path: Path) -> None:
    """Raise ConfigError unless ``path`` is a pure-Python config with imported bases."""
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


def plugin_folder(path: Path) -> Path:
    """Return the folder that imports of a config start from: its nearest ancestor without ``__init__.py``."""
    return next(folder for folder in path.parents if not (folder / "__init__.py").exists())


def add_import_path(folder: Path) -> None:
    """Put a folder at the end of ``sys.path``, so that no file in it hides a module of the standard library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
