import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lumen import registry
from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.registry import DECODERS, MODELS
from lumen.structures import FeatureWidths

ALIGNER = {"widths": FeatureWidths(16, 16), "channels": 16, "num_heads": 2, "mlp_channels": 16}


@pytest.mark.parametrize("kind", [DenseAligner, "DenseAligner", "lumen.DenseAligner"])
def test_a_class_and_its_name_build_the_same(kind):
    assert type(MODELS.build({"type": kind, **ALIGNER})) is DenseAligner


@pytest.mark.parametrize("kind", [DetectionDecoder, "DetectionDecoder"])
def test_a_decoder_is_built_by_class_and_by_name(kind):
    assert type(DECODERS.build({"type": kind, "channels": 16})) is DetectionDecoder


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="NoSuchDecoder"):
        DECODERS.build({"type": "NoSuchDecoder"})


def registered_parts():
    """Yield the registry and the name of each class of the package that stands behind a decorator."""
    for path in (Path(__file__).resolve().parents[1] / "lumen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(".register_module"):
                    yield ast.unparse(decorator.func.value), node.name


def test_every_registry_is_searched_silently_in_a_fresh_process_and_finds_its_parts():
    code = """
import contextlib, json, sys
from lumen import registry as own
from mmengine import registry as base
from mmengine.registry import DefaultScope, Registry
found = [registry for registry in vars(base).values() if isinstance(registry, Registry)]
for scope in ("lumen", "no_such_scope"):
    print(f"[{scope}]", flush=True)
    DefaultScope.get_instance(scope, scope_name=scope)
    for registry in found:
        if registry.name not in ("inferencer", "strategy"):  # no part of a run of Lumen
            with contextlib.suppress(KeyError):
                registry.build({"type": "NoSuchThing"})
    if scope == "lumen":
        lost = [part for part in json.loads(sys.argv[1]) if getattr(own, part[0]).get(part[1]) is None]
        assert not lost, lost
"""
    parts = sorted(registered_parts())
    assert len(parts) > 50
    command = [sys.executable, "-c", code, json.dumps(parts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, stdin=subprocess.DEVNULL)
    in_scope, _, elsewhere = done.stdout.partition("[no_such_scope]")
    assert in_scope.strip() == "[lumen]"
    assert "WARNING" in elsewhere


def test_decoders_stand_alone():
    assert DECODERS.parent is None
    assert MODELS.parent.name == "model"


@pytest.mark.parametrize("name", [name for name in vars(registry) if name.isupper() and not name.startswith("_")])
def test_every_registry_imports_what_it_stands_for(name):
    getattr(registry, name).import_from_location()
