"""Rules of the house that a reader could miss: which file may import which, and what no file may do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lumen"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = {
    0: ("registry", "errors", "paths", "structures", "proposals"),
    1: ("prompts", "config", "options", "routing"),
    2: ("ops", "codecs"),
    3: ("serialization", "corner_words"),
    4: ("lmm", "data", "metrics", "visualization"),
    5: ("aligners", "interop"),  # interop reads and judges by data and metrics
    6: ("decoders",),
    7: ("model", "pretraining"),
    8: ("engine", "inference"),
    9: ("serving", "tuning", "recipes"),  # above inference and engine, which they put to use; recipes are configs
    10: ("commands",),
    11: ("cli",),
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}
HEAVY = {"mmdet", "mmcv"}
FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "torch.jit.load"}


def name_of(file):
    return str(file.relative_to(ROOT))


def module_of(module):
    """Return the part of lumen that a module belongs to, '' for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(tree, *, module_level_only=False):
    """Return the names of all imported modules; ``from lumen import x`` counts as ``lumen.x``."""
    nodes = ast.walk(tree)
    if module_level_only:
        inside = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.walk(node)
        }
        nodes = (node for node in ast.walk(tree) if node not in inside)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = node.module == "lumen"
            name = "." * node.level + (node.module or "")
            found += [f"lumen.{alias.name}" for alias in node.names] if whole else [name]
    return found


def faults_of(source, module):
    """Return what a file of lumen does against the layers."""
    tree, own = ast.parse(source), module_of(module)
    faults = []
    for target in imports_of(tree):
        top, imported = target.partition(".")[0], module_of(target)
        if top == "lumen" and imported and imported != own and LAYER.get(imported, -1) >= LAYER[own]:
            faults.append(f"{own} (layer {LAYER[own]}) imports {imported} (layer {LAYER[imported]})")
        if target.startswith("."):
            faults.append(f"imports {target}; imports within lumen are absolute")
        if top in {"transformers", "peft"} and own != "lmm":
            faults.append(f"{own} imports {top}")
        if top in HEAVY and own != "interop":
            faults.append(f"{own} imports {top}")
    faults += [f"imports {t} at module level" for t in imports_of(tree, module_level_only=True)
               if t.partition(".")[0] in HEAVY]  # fmt: skip
    return faults


def misdeeds_of(source):
    """Return asserts, calls that run foreign code, and blind excepts."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            faults.append(f"line {node.lineno}: assert")
        is_blind = isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception")
        # One that ends in `raise` or `raise ... from error` hides nothing.
        last = node.body[-1] if is_blind else None
        if is_blind and not (isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None)):
            faults.append(f"line {node.lineno}: catches everything")
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            faults.append(f"line {node.lineno}: __future__")
        if not isinstance(node, ast.Call):
            continue
        called, keywords = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
        if called in FORBIDDEN_CALLS:
            faults.append(f"line {node.lineno}: {called}")
        if called == "torch.load" and keywords.get("weights_only") != "True":
            faults.append(f"line {node.lineno}: torch.load without weights_only=True")
        if keywords.get("trust_remote_code", "False") != "False":
            faults.append(f"line {node.lineno}: trust_remote_code")
    return faults


def module_name(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def test_every_module_has_a_layer():
    parts = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES} - {"__init__"}
    assert parts <= set(LAYER)


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.parent != PACKAGE or file.stem != "__init__"], ids=name_of
)
def test_imports_go_down_only(file):
    assert faults_of(file.read_text(), module_name(file)) == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_does_what_none_may(file):
    assert misdeeds_of(file.read_text(encoding="ascii")) == []


def test_decoders_do_not_know_each_other():
    shared = {"base", "boxes", "peaks", "masks"}
    for file in (PACKAGE / "decoders").glob("*.py"):
        siblings = {
            target.split(".")[2]
            for target in imports_of(ast.parse(file.read_text()))
            if target.startswith("lumen.decoders.")
        }
        assert siblings <= shared, file


@pytest.mark.parametrize("file", sorted((ROOT / "projects").rglob("*.py")), ids=name_of)
def test_projects_do_not_know_each_other(file):
    own = file.relative_to(ROOT / "projects").parts[0]
    for target in imports_of(ast.parse(file.read_text())):
        assert not target.startswith("projects.") or target.split(".")[1] == own
        assert not target.startswith("..") or target.startswith("...configs."), "bases come from configs/"
        assert target.partition(".")[0] not in {"tests", "tools"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lumen.aligners.dense", "from lumen.decoders.base import Decoder"),
        ("lumen.aligners.dense", "def f():\n    from lumen import model"),
        ("lumen.ops.heatmap", "from lumen.data.coco import CocoDataset"),
        ("lumen.model", "import transformers.models"),
        ("lumen.model", "from .aligner import DenseAligner"),
        ("lumen.interop.supervision", "from mmdet.datasets import CocoDataset"),
        ("lumen.data.coco", "def f():\n    from mmdet.datasets import CocoDataset"),
        ("lumen.model", "def f():\n    import mmcv"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert faults_of(source, module)


def test_a_right_import_is_left_alone():
    assert (
        faults_of("from lumen.ops.geometry import nms\ndef f():\n    import mmdet", "lumen.interop.supervision") == []
    )


@pytest.mark.parametrize(
    "source",
    [
        "assert x",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "import pickle\npickle.load(file)",
        "from __future__ import annotations",
    ],
)
def test_a_misdeed_is_found(source):
    assert misdeeds_of(source)


def test_importing_lumen_loads_neither_torch_nor_transformers():
    code = "import sys, lumen; print(sorted({'torch', 'transformers', 'mmengine', 'mmdet', 'mmcv'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_predictor_and_the_model_are_imported_when_asked_for():
    import lumen
    from lumen.inference.predictor import LumenPredictor
    from lumen.model import Lumen

    assert lumen.LumenPredictor is LumenPredictor and lumen.Lumen is Lumen
    with pytest.raises(AttributeError, match="has no attribute 'Predictor'"):
        lumen.Predictor  # noqa: B018 - asking is what is tested


def test_neither_the_package_nor_the_training_of_the_demo_needs_mmdet_or_mmcv():
    code = (
        "import importlib, pkgutil, sys; sys.modules.update(mmdet=None, mmcv=None)\n"
        "import lumen\n"
        "modules = [module.name for module in pkgutil.walk_packages(lumen.__path__, 'lumen.')]\n"
        "for name in modules: name.startswith('lumen.recipes.') or importlib.import_module(name)  # these are configs\n"
        "from lumen.config import read_config\n"
        "read_config('configs/detection/detection_nano_shapes.py').to_dict()  # imports every class that it names"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
