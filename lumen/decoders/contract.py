"""What every decoder must keep to, checked on small inputs made by hand; for plug-ins too.

The inputs hold two images of 64 x 96 pixels at stride 16, the first of which is asked about. They go from no pairs at
all to objects on the border of the image. A decoder that passes can be trained with others, in bfloat16, and saved.
"""

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import InstanceData

from lumen.config import add_import_path, plugin_folder
from lumen.decoders.base import Decoder
from lumen.errors import ConfigError
from lumen.ops.geometry import InputTransform
from lumen.prompts import Wordings
from lumen.proposals import Proposals
from lumen.structures import PerceptionSample, Prompt, SharedRepresentation

CHANNELS = 32
_STRIDE = 16
_GRID_HW = (4, 6)
_INPUT_HW = (_GRID_HW[0] * _STRIDE, _GRID_HW[1] * _STRIDE)
# What the code of a decoder raises when it meets an input that its author did not think of.
_FAILURES = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Case:
    """An input: which prompts have pairs, and which objects answer them.

    Args:
        name: What the case covers.
        num_pairs: Prompts of the first image, each of which is a pair.
        boxes: Objects, xyxy in input pixels.
        prompt_index: The prompt that each object answers.
    """

    name: str
    num_pairs: int
    boxes: tuple[tuple[int, ...], ...] = ()
    prompt_index: tuple[int, ...] = ()


CASES = (
    Case("no pairs", 0),
    Case("no objects", 2),
    Case("one object", 2, ((8, 8, 40, 30),), (1,)),
    Case("two objects in one cell", 1, ((8, 8, 40, 40), (9, 9, 39, 39)), (0, 0)),
    Case("objects on the border", 1, ((95, 0, 96, 64), (0, 63, 96, 64), (0, 0, 1, 1)), (0, 0, 0)),
)
_BUSY = CASES[2]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Args:
        check: What was looked at.
        problem: What is wrong; empty where nothing is.
    """

    check: str
    problem: str = ""


def find_decoders(path: Path) -> list[type[Decoder]]:
    """Import the decoders that a file, or the files of a folder, define.

    A folder is searched without its subfolders, and only files with a class that names ``Decoder`` as its base are
    imported, so that configs and scripts beside them are not run.

    Raises:
        ConfigError: There is no such file or folder, it defines no decoder, or a file cannot be imported.
    """
    if not path.exists():
        raise ConfigError(f"there is no file or folder {str(path)!r}; name the file of a decoder, or its folder")
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    files = [file for file in files if _names_decoder(file)]
    if not files:
        raise ConfigError(f"{path} defines no decoder: no class there is derived from Decoder of lumen.decoders.base")
    kinds = []
    for file in files:
        module = _import(file.resolve())
        kinds += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Decoder) and value.__module__ == module.__name__
        ]
    return kinds


def check_decoder(kind: type[Decoder], options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Check one decoder; nothing is trained or written.

    Args:
        kind: The class.
        options: What its constructor needs besides ``channels``.

    Returns:
        A finding per check, also for those that passed. A single one if the decoder cannot be built.
    """

    def build() -> Decoder:
        torch.manual_seed(0)
        return kind(channels=CHANNELS, **(options or {}))

    with torch.random.fork_rng():
        built = _run("it can be built", lambda: _problem_of_spec(build()))
        if built.problem:
            return [built]
        checks: list[tuple[str, Callable[[], str]]] = [
            (f"losses with {case.name}", lambda case=case: _problem_of_losses(build(), case)) for case in CASES
        ]
        checks += [
            (f"predictions with {case.name}", lambda case=case: _problem_of_predictions(build().eval(), case))
            for case in CASES[:3]
        ]
        checks += [
            ("losses and predictions in bfloat16", lambda: _problem_of_bfloat16(build())),
            ("weights are given back", lambda: _problem_of_weights(build(), build())),
        ]
        return [built, *(_run(name, check) for name, check in checks)]


def format_findings(kind: type[Decoder], findings: Sequence[Finding]) -> str:
    """Return a line per check."""
    lines = [f"{kind.__name__} ({kind.spec.name})"]
    lines += [f"  {'FAILED' if finding.problem else 'ok':<8}{finding.check}" + _why(finding) for finding in findings]
    return "\n".join(lines)


def make_case(decoder: Decoder, case: Case) -> tuple[SharedRepresentation, list[PerceptionSample]]:
    """Return a representation filled with noise, and two samples, the second of which has no prompts.

    The objects have the targets that the spec of the decoder names: masks that fill the boxes, and ``Field.example``
    for declared fields.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    pairs, (height, width) = case.num_pairs, _GRID_HW
    shared = SharedRepresentation(
        heat_logits=noise(pairs, 1, height, width),
        presence_logits=noise(pairs),
        query=noise(pairs, CHANNELS),
        dense=noise(2, CHANNELS, height, width),
        image_index=torch.zeros(pairs, dtype=torch.long),
        prompt_index=torch.arange(pairs),
        maps=noise(pairs, decoder.spec.map_queries, height, width),
        stride=_STRIDE,
        extras={
            "images": torch.zeros(2, 3, *_INPUT_HW, dtype=torch.uint8),
            "texts": [["a text"] * pairs, []],
            "places": [_places(pairs), _places(0)],
            "words": [["some words"] * pairs, []],
            "proposals": Proposals(
                boxes=torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.0, 0.0, 1.0, 1.0]]).expand(2, -1, -1),
                tokens=noise(2, 2, CHANNELS),
                centre_logits=noise(2, height, width),
                cell_boxes=torch.zeros(2, height, width, 4),
            ),
        },
        slots={token: noise(pairs, CHANNELS) for token in Wordings().special_tokens},
    )
    return shared, [_sample(decoder, case), _sample(decoder, Case("nothing asked", 0))]


def _places(count: int) -> InstanceData:
    """Return a written box for each prompt."""
    index = torch.arange(count)
    return InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 30.0]]).expand(count, -1), scores=torch.ones(count), prompt_index=index
    )


def _sample(decoder: Decoder, case: Case) -> PerceptionSample:
    prompts = [Prompt(f"thing {label}", task=decoder.spec.name, label=label) for label in range(case.num_pairs)]
    frame = InputTransform.stretch(_INPUT_HW, _INPUT_HW)
    sample = PerceptionSample(
        metainfo={"prompts": tuple(prompts), "frame": frame, "img_id": 0, "fields": decoder.spec.kinds}
    )
    sample.gt_instances = _targets(decoder, case.boxes, case.prompt_index)
    sample.ignored_instances = _targets(decoder, (), ())
    return sample


def _targets(decoder: Decoder, boxes: Sequence[Sequence[int]], prompt_index: Sequence[int]) -> InstanceData:
    bboxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    index = torch.tensor(prompt_index, dtype=torch.long)
    x1, y1, x2, y2 = (side[:, None] for side in bboxes.unbind(1))
    rows, cols = torch.arange(_INPUT_HW[0]) + 0.5, torch.arange(_INPUT_HW[1]) + 0.5
    masks = ((rows > y1) & (rows < y2))[:, :, None] & ((cols > x1) & (cols < x2))[:, None]
    table = InstanceData(bboxes=bboxes, labels=index, prompt_index=index.clone(), masks=masks)
    for name in sorted(decoder.spec.targets & decoder.spec.fields.keys()):
        table[name] = decoder.spec.fields[name].example(len(bboxes))
    return table


def _problem_of_spec(decoder: Decoder) -> str:
    spec = decoder.spec
    if "/" not in spec.headline:
        return f"spec.headline must be the key of a figure, such as 'coco/bbox_mAP', got {spec.headline!r}"
    wanted = (spec.map_queries, CHANNELS)
    if decoder.map_queries.shape != wanted:
        return f"map_queries has shape {tuple(decoder.map_queries.shape)}, spec.map_queries makes it {wanted}"
    return ""


def _problem_of_losses(decoder: Decoder, case: Case) -> str:
    shared, samples = make_case(decoder, case)
    losses = decoder.loss(shared, samples)
    if set(losses) != set(decoder.spec.losses):
        return f"loss returns {sorted(losses)}, spec.losses names {sorted(decoder.spec.losses)}"
    for name, loss in losses.items():
        if loss.shape != () or not bool(loss.isfinite()):
            return f"{name} must be one finite number, a sum, got shape {tuple(loss.shape)} and values {loss.tolist()}"
        if not loss.requires_grad:
            return f"{name} must depend on what is trained also here; add a term of value 0, such as x.sum() * 0"
        counted = {"pairs": case.num_pairs, "objects": len(case.boxes)}[decoder.spec.losses[name]]
        if counted == 0 and loss.item() != 0:
            return f"{name} is divided by {decoder.spec.losses[name]}, of which there are none, so it must be 0"
    if not losses:
        return ""  # answered as text: the LMM's own loss is all there is
    sum(losses.values()).backward()
    # Map queries are used in the aligner, which gives the maps.
    unused = [name for name, value in decoder.named_parameters() if value.grad is None and value.requires_grad]
    unused = [name for name in unused if name != "map_queries"]
    return f"the losses do not depend on {unused}, which training on several GPUs needs" if unused else ""


def _problem_of_predictions(decoder: Decoder, case: Case) -> str:
    shared, samples = make_case(decoder, case)
    with torch.no_grad():
        answers = decoder.predict(shared, samples)
    if len(answers) != len(samples):
        return f"predict must return one table per sample, got {len(answers)} for {len(samples)} samples"
    if len(answers[1]):
        return f"a sample without prompts must get a table without rows, got {len(answers[1])}"
    for answer in answers:
        if set(answer.keys()) != decoder.spec.predictions:
            return f"predict writes {sorted(answer.keys())}, spec.predictions names {sorted(decoder.spec.predictions)}"
        for name in sorted(decoder.spec.predictions & decoder.spec.fields.keys()):
            declared, value = decoder.spec.fields[name], answer[name]
            if (value.shape[1:], value.dtype) != (declared.shape, declared.dtype):
                return (
                    f"{name} has shape {tuple(value.shape)} (objects first) and type {value.dtype}, spec.fields "
                    f"declares {declared.shape} per object and {declared.dtype}"
                )
    return ""


def _problem_of_bfloat16(decoder: Decoder) -> str:
    shared, samples = make_case(decoder, _BUSY)
    with torch.autocast("cpu", torch.bfloat16):
        losses = decoder.loss(shared, samples)
        decoder.eval().predict(shared, samples)
    coarse = sorted(name for name, loss in losses.items() if loss.dtype != torch.float32 or not bool(loss.isfinite()))
    return f"{coarse} must be finite and in float32 under autocast; call .float() before the loss" if coarse else ""


def _problem_of_weights(decoder: Decoder, other: Decoder) -> str:
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(decoder.state_dict())
    changed = [
        name
        for (name, saved), loaded in zip(decoder.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(saved, loaded)
    ]
    return f"loading a saved state changes {changed}" if changed else ""


def _run(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, check())
    except _FAILURES as error:
        place = _place(error)
        return Finding(name, f"{type(error).__name__}{place}: {error}")


def _place(error: BaseException) -> str:
    """Return where the code that is checked raised, as far as it is known."""
    found = ""
    for file, line in _frames(error):
        if Path(file).parent != Path(__file__).parent and "site-packages" not in file:
            found = f" in {Path(file).name}, line {line}"
    return found


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


def _why(finding: Finding) -> str:
    return f"\n          {finding.problem}" if finding.problem else ""


def _names_decoder(file: Path) -> bool:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    return any(ast.unparse(base).rpartition(".")[2] == "Decoder" for base in bases)


def _import(file: Path) -> Any:
    root = plugin_folder(file)
    add_import_path(root)
    try:
        module = importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))
    except (ImportError, SyntaxError, NameError, *_FAILURES) as error:
        raise ConfigError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    if Path(module.__file__ or "").resolve() != file:
        raise ConfigError(f"{file} has the name of another module, {module.__file__}; rename it")
    return module
