"""Configs: pure Python files, read once, with every unknown name refused before anything is built.

MMEngine accepts a misspelt override, a misspelt top-level name and a misspelt import in silence. Here all three are
errors, as is a keyword that the class of a ``dict(type=...)`` does not take.
"""

import ast
import csv
import difflib
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.config.utils import ConfigParsingError
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import Registry
from mmengine.runner import LogProcessor, Runner
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from lumen import registry as lumen_registry
from lumen.config import is_held, is_helper, read_names, settings_of
from lumen.engine.loops import LumenTestLoop, LumenTrainLoop, LumenValLoop
from lumen.errors import ConfigError
from lumen.options import group_of

RUNNER_SETTINGS = (frozenset(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | {
    # MMEngine's runner reads these from the config itself.
    "activation_checkpointing",
    "compile",
    "custom_imports",  # modules to import, so that their registered names are known
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
}
"""Top-level names that a config may set, besides helpers that start with an underscore."""

_UNTYPED: dict[str, Callable] = {
    "train_cfg": LumenTrainLoop,
    "val_cfg": LumenValLoop,
    "test_cfg": LumenTestLoop,
    "train_dataloader": DataLoader,
    "val_dataloader": DataLoader,
    "test_dataloader": DataLoader,
    "log_processor": LogProcessor,
    "randomness": Runner.set_randomness,
}
_ALWAYS = frozenset({"type", "_scope_", "_delete_"})
_WORDS = {"true": True, "false": False, "none": None}


def load_config(
    path: Path | str, overrides: Mapping[str, Any] | None = None, *, tool_root: Path, plugin_dir: Path | None = None
) -> Config:
    """Read a config, apply ``overrides``, and check every name in it.

    Args:
        path: A pure-Python config.
        overrides: New values by key path, such as ``{"optim_wrapper.dtype": "bfloat16", "custom_hooks.0.decay": 0.9}``;
            a dict is merged into one that is there.
            A path may start at a helper of the config (``{"_ask.num_prompts": 4}``): all settings that hold it change.
        tool_root: Root of the repository that the calling tool belongs to; put on ``sys.path``.
        plugin_dir: Folder that imports of the config start from; None for its nearest ancestor without ``__init__.py``.

    Raises:
        ConfigError: The file is missing, not pure Python, or holds an unknown name; or an override changes nothing.
    """
    path, overrides = Path(path), overrides or {}
    # Helpers are still there: settings that share one of them change together.
    names = read_names(path, import_roots=[tool_root, *([plugin_dir] if plugin_dir else [])])
    try:
        for key in filter(is_helper, overrides):
            _override(names, key, overrides[key])
        # From here on each setting has values of its own.
        config = settings_of(names, path)
        for key in overrides:
            if not is_helper(key):
                _override(config._cfg_dict, key, overrides[key])
        check_config(config)
    except (SyntaxError, NameError, ImportError, ConfigParsingError, AttributeError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    return config


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Turn ``key.path=value`` texts into values by key path, as MMEngine's ``--cfg-options`` does.

    A value is a Python literal (``1e-3``, ``[1,2]``, ``{'a':1}``, ``'text'``), ``true``, ``false`` or ``none``, a list
    of these or of bare words (``[a,b]``, ``a,b``), else the text itself. Quotes keep a text with commas as it is.

    Raises:
        ConfigError: There is no ``=``, or a list of bare words holds brackets.
    """
    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"an override looks like key.path=value, got {text!r}")
        overrides[key] = _literal(value)
    return overrides


def check_config(config: Config) -> None:
    """Refuse unknown top-level names, unknown keywords of classes, and values that are not data.

    Raises:
        ConfigError: Names the place, the nearest known name, and what is known.
    """
    settings = {key: value for key, value in config.items() if not is_helper(key)}
    for key in settings:
        _require(key, RUNNER_SETTINGS, f"the config has no setting {key!r}", "; names of helpers start with '_'")
    if "model" not in settings:
        raise ConfigError("the config defines no model")
    for key, value in settings.items():
        _check(value, key)


def accepted_names(node: Mapping[str, Any], place: str, group: type | None = None) -> frozenset[str] | None:
    """Return the keywords that ``node`` may hold: what its class takes. None where any keyword is accepted.

    Args:
        node: A dict of the config.
        place: Its key path; some top-level dicts have a known class without naming it.
        group: The dataclass whose fields ``node`` holds, where it is a group of options.

    Raises:
        ConfigError: ``type`` names nothing that can be built.
    """
    target = _target_of(node, place, group)
    if target is None:
        return None
    names = _parameters(target)
    return None if names is None else names | _ALWAYS | _popped(target)


def _target_of(node: Mapping[str, Any], place: str, group: type | None) -> Callable | None:
    if "type" in node:
        return _resolve(node["type"], place)
    return group or _UNTYPED.get(place)


def _group_at(node: Mapping[str, Any], key: str, place: str, group: type | None) -> type | None:
    """Return the dataclass whose fields ``node[key]`` holds, where the class of ``node`` takes one by that name."""
    target = _target_of(node, place, group)
    parameters = None if target is None else _signature(target)
    return group_of(parameters[key].annotation) if parameters and key in parameters else None


def _check(value: Any, place: str, group: type | None = None) -> None:
    if isinstance(value, Mapping):
        accepted = accepted_names(value, place, group)
        for key, entry in value.items():
            if accepted is not None:
                owner = _name(value.get("type") or group or _UNTYPED[place])
                _require(key, accepted, f"{place}: {owner} takes no {key!r}")
            # A group of options is a dict without a type, known by the annotation of the class around it.
            if key != "type":
                _check(entry, f"{place}.{key}", _group_at(value, key, place, group))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            _check(entry, f"{place}.{index}")
    elif isinstance(value, types.FunctionType | types.ModuleType):
        raise ConfigError(f"{place} is a {type(value).__name__}; a config holds plain values and classes only")


def _override(names: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node, place, group = names, "", None
    for key in parents:
        inner = _group_at(node, key, place, group) if isinstance(node, Mapping) else None
        if inner is not None:
            node.setdefault(key, {})  # a group of options may be left out of a config
        node = node[_existing_key(node, key, place)]
        place, group = f"{place}.{key}".lstrip("."), inner
    key = _existing_key(node, last, place, group, settable=True)
    # A helper that was copied when the file ran: changing it now would have no effect.
    if is_helper(path) and not is_held(node, names):
        raise ConfigError(
            f"{path} is a helper that no setting holds: the config reads it while it is executed. Override the setting "
            "that comes of it; tools/print_config.py shows all"
        )
    # Merged, not replaced, so that one entry of a group may be given alone.
    if isinstance(value, Mapping) and isinstance(node, Mapping) and isinstance(node.get(key), dict):
        node[key].update(value)  # ConfigDict merges recursively
    else:
        node[key] = value


def _existing_key(node: Any, key: str, place: str, group: type | None = None, *, settable: bool = False) -> str | int:
    """Return ``key`` as ``node`` holds it. A parameter of the node's class may be set even where it is not written."""
    shown = place or "the config"
    if isinstance(node, Mapping):
        known = set(node)
        if settable:
            known |= (accepted_names(node, place, group) or set()) if place else RUNNER_SETTINGS
        _require(key, known, f"{shown} has no key {key!r}")
        return key
    if isinstance(node, list):
        # Transforms and hooks are addressed by their place.
        if not key.isdigit() or int(key) >= len(node):
            raise ConfigError(f"{shown} is a list of {len(node)}; {key!r} is none of its indices")
        return int(key)
    raise ConfigError(f"{shown} is {node!r}, which has no key {key!r}; override the whole of it")


def _require(key: str, known: Collection[str], complaint: str, hint: str = "") -> None:
    if key in known:
        return
    # One guess: most errors are a letter or an ending.
    nearest = difflib.get_close_matches(key, known, n=1)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else "."
    raise ConfigError(f"{complaint}{guess} Known: {', '.join(sorted(set(known) - _ALWAYS))}{hint}")


def _resolve(kind: Any, place: str) -> Callable | None:
    """Return what ``type`` stands for; None where several registries hold the name: only building decides."""
    if callable(kind):
        return kind
    if "." in kind and (found := get_object_from_string(kind)) is not None:
        return found
    registries = [registry for registry in vars(lumen_registry).values() if isinstance(registry, Registry)]
    known = {found for registry in registries if (found := _registered(registry, kind))}
    # Nothing is imported for a name that is registered already; otherwise each registry imports what it stands for.
    known = known or {found for registry in registries if (found := registry.get(kind))}
    if not known:
        raise ConfigError(f"{place}.type={kind!r} is neither a registered name nor the dotted path of a class")
    return known.pop() if len(known) == 1 else None


def _registered(registry: Registry | None, kind: str) -> Callable | None:
    while registry is not None:
        if kind in registry.module_dict:
            return registry.module_dict[kind]
        registry = registry.parent
    return None


def _parameters(target: Callable) -> frozenset[str] | None:
    """Return the keywords that ``target`` takes, None where it takes any.

    MMEngine's schedulers take any keyword and hand it up; what the whole chain takes is known.
    """
    if inspect.isclass(target) and issubclass(target, _ParamScheduler):
        # The last of the MRO is `object`.
        chain = [set(inspect.signature(kind.__init__).parameters) for kind in target.__mro__[:-1]]
        return frozenset().union(*chain) - {"self", "args", "kwargs"}
    parameters = _signature(target)
    if parameters is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)


def _signature(target: Callable) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of ``target`` by name; None where they cannot be known."""
    try:
        return inspect.signature(target).parameters
    except ValueError:
        return None


@cache
def _popped(target: Callable) -> frozenset[str]:
    """Return the keys that MMEngine takes out of a dict before it builds ``target``."""
    # MMEngine's runner reads these itself and takes them out.
    if target is DataLoader:
        return frozenset({"num_batch_per_epoch", "disable_subprocess_warning"})
    if target is LumenTrainLoop:
        return frozenset({"by_epoch"})
    if not inspect.isclass(target):
        return frozenset()
    if issubclass(target, Hook):
        return frozenset({"priority"})
    if issubclass(target, OptimWrapper):
        return frozenset({"constructor", "paramwise_cfg"})
    return frozenset({"convert_to_iter_based"}) if issubclass(target, _ParamScheduler) else frozenset()


def _literal(text: str) -> Any:
    # Also as YAML writes them.
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    # A list of bare words, [a,b], as MMDetection's users write it; words with quotes are literals.
    bracketed = text[:1] + text[-1:] in ("[]", "()")
    if not bracketed and ("," not in text or set(text) & set("{}()[]'\"")):
        return text
    # Commas within quotes do not part words.
    try:
        words = next(csv.reader([text[1:-1] if bracketed else text], quotechar="'", skipinitialspace=True))
    except csv.Error as error:  # a line that ends within
        raise ConfigError(f"{text!r} is no list of words ({error}): write it in one line") from error
    if any(set(word) & set("{}()[]") for word in words):
        raise ConfigError(f"brackets within a list hold Python literals, with texts in quotes, got {text!r}")
    return [_literal(word) for word in words]


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__qualname__", str(target))
