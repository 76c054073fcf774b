"""What a training run will cost, before anything is downloaded: parameters, tokens, FLOPs, memory, hours.

The adapter is built with its LMM on the meta device, and tower and LLM are run there, forward and backward; aligner
and decoders, which look at their targets, are run on zeros on the CPU, one sample at a time. Both go through the code
that trains. Left out: the optimizer's own arithmetic, reading images, and waiting for other ranks.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lumen.data.pipelines import fill_pipelines
from lumen.engine.hooks import EmaHook, FreezeHook, freeze_parameters
from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.meta import MetaWins, Outline, outline, outline_config
from lumen.lmm.sam import SamMasks
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.registry import OPTIM_WRAPPER_CONSTRUCTORS
from lumen.structures import LocFeatures, PerceptionSample, Prompt

GPUS = {
    "h200": (989, 141),
    "h100": (989, 80),
    "a100": (312, 80),
    "l40s": (362, 48),
    "a6000": (155, 48),
    "rtx4090": (165, 24),
}
"""TFLOP/s of dense bfloat16 products, and GB of memory, from the manufacturers' data sheets."""

_SAM_PARAMETERS = {"sam-vit-huge": 641_090_608, "sam-vit-large": 312_342_832, "sam-vit-base": 93_735_472}
_MASTER_BYTES = 4  # trained weights, gradients and the optimizer's states are float32


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs and bytes kept for the backward pass."""

    forward: float | int = 0
    backward: float | int = 0
    activations: float | int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward, self.activations + other.activations)

    def __mul__(self, factor: float | int) -> "Cost":
        return Cost(self.forward * factor, self.backward * factor, self.activations * factor)


@dataclass(frozen=True, slots=True)
class Workload:
    """The prompts of one kind of training sample.

    Args:
        share: Of all samples.
        task: Task of its prompts.
        prompts: Number of prompts.
        input_hw: Height and width of the image.
    """

    share: float | int
    task: str
    prompts: int
    input_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run costs. FLOPs are of one step over all processes, bytes of one process.

    Args:
        parameters: (trained, frozen) by part.
        tokens: Of the LLM, for a mean sample.
        costs: By part: vision, llm, aligner and decoders.
        memory: Bytes by kind.
        num_iters: Steps of the run.
    """

    parameters: dict[str, tuple[int, int]]
    tokens: float | int
    costs: dict[str, Cost]
    memory: dict[str, float | int]
    num_iters: int

    @property
    def step_flops(self) -> float | int:
        """FLOPs of a step, forward and backward."""
        return sum(cost.forward + cost.backward for cost in self.costs.values())

    @property
    def peak_bytes(self) -> float | int:
        """Memory of a process. Gradients appear while activations go; the sum of both is an upper bound."""
        return sum(self.memory.values())

    def hours(self, *, tflops: float | int, mfu: float | int, num_gpus: int = 1) -> float:
        """Return the hours of the run at a share ``mfu`` of what ``num_gpus`` accelerators can do."""
        return self.step_flops * self.num_iters / (tflops * 1e12 * mfu * num_gpus) / 3600


def make_plan(
    config: Config | Mapping[str, Any],
    *,
    model_config: Path | None = None,
    num_gpus: int = 1,
    all_prompts: int = 80,
    text_tokens: int = 300,
) -> Plan:
    """Plan the training that a config describes.

    Args:
        config: As ``lumen.config.read_config`` returns it.
        model_config: Folder or json with the LMM's config; found by its name when left out.
        num_gpus: Processes; each has the batch size of the config.
        all_prompts: Prompts of a sample whose pipeline asks for everything.
        text_tokens: Tokens of a question with its history and answer; half of them are learned.

    Raises:
        ConfigError: The config trains nothing, or the LMM is not known.
    """
    model, laid_out, sam_parameters = outline_model(config, model_config)
    loader = config.get("train_dataloader")
    if loader is None or config.get("train_cfg") is None:
        raise ConfigError("the config has no train_dataloader and train_cfg: there is no training to plan")
    pieces = config["optim_wrapper"].get("accumulative_counts", 1)
    costs: dict[str, Cost] = {}
    known: dict[tuple[str | int, ...], Cost] = {}
    tokens = 0.0
    # A mean sample: each kind of sample by its share of the mixture.
    for load in find_workloads(fill_pipelines(loader["dataset"], model.inputs), all_prompts=all_prompts):
        of_sample, length = _sample_costs(model, laid_out, load, text_tokens, known)
        costs = {part: costs.get(part, Cost()) + cost * load.share for part, cost in of_sample.items()}
        tokens += length * load.share
    batch = loader["batch_size"] * pieces
    memory = _memory(model, laid_out, config) | {"frozen SAM": sam_parameters * _MASTER_BYTES}
    # One piece of the accumulated batch is in memory at a time.
    memory["activations"] = sum(cost.activations for cost in costs.values()) * batch / pieces
    parameters = {part: _count(found) for part, found in laid_out.parts().items()}
    parameters["aligner"] = _count(model.aligner.parameters())
    parameters |= {f"decoder {task}": _count(decoder.parameters()) for task, decoder in model.decoders.items()}
    if sam_parameters:
        parameters["SAM"] = (0, sam_parameters)
    return Plan(
        parameters=parameters,
        tokens=tokens,
        costs={part: cost * (batch * num_gpus) for part, cost in costs.items()},
        memory=memory,
        num_iters=config["train_cfg"]["max_iters"],
    )


def outline_model(config: Config | Mapping[str, Any], model_config: Path | None = None) -> tuple[Lumen, Outline, int]:
    """Return the model of a config with its LMM on the meta device, frozen as it will be, and SAM's parameters."""
    settings = {key: value for key, value in config["model"].items() if key not in ("type", "data_preprocessor")}
    dtype = torch.bfloat16 if config["optim_wrapper"].get("dtype") == "bfloat16" else torch.float32
    lmm_config = outline_config(settings["lmm"]["name_or_path"], model_config)
    laid_out = outline(settings["lmm"], lmm_config, dtype=dtype)
    decoders, sam_parameters = _without_sam(settings["decoders"])
    parts = {"lmm": laid_out.adapter, "aligner": dict(settings["aligner"]), "decoders": decoders}
    # The code that trains, with an LMM that has shapes and no numbers.
    model = Lumen(**{**settings, **parts})
    for hook in config.get("custom_hooks") or ():
        if is_a(hook, FreezeHook):
            freeze_parameters(model, hook["freeze"], hook.get("trainable", ()))
    return model.train(), laid_out, sam_parameters


def find_workloads(dataset: Mapping[str, Any], *, all_prompts: int = 80, share: float | int = 1.0) -> list[Workload]:
    """Return what the samples of a data set ask, by the share that they have of it.

    A mixture is taken apart by its weights; of sets one after the other the first one stands for all.
    """
    if dataset.get("datasets"):
        parts = dataset["datasets"]
        # Joined sets without weights: the first one stands for all.
        weights = dataset.get("weights") or [1.0] + [0.0] * (len(parts) - 1)
        found = [
            load
            for part, weight in zip(parts, weights, strict=True)
            if weight
            for load in find_workloads(part, all_prompts=all_prompts, share=share * weight / sum(weights))
        ]
        return _merged(found)
    if not dataset.get("pipeline"):
        if dataset.get("dataset"):
            return find_workloads(dataset["dataset"], all_prompts=all_prompts, share=share)
        raise ConfigError(f"a data set without pipeline cannot be planned: {sorted(dataset)}")
    steps = dataset["pipeline"]
    sizes = [tuple(step["input_hw"]) for step in steps if step.get("input_hw")]
    asks = [step for step in steps if _class_name(step).startswith("Ask")]
    if not sizes or not asks:
        raise ConfigError("the training pipeline has no step with input_hw, or none that asks (Ask...)")
    prompts = [_default(step, "num_prompts") or all_prompts for step in asks]
    return [Workload(share, str(_default(asks[0], "task") or "pose"), sum(prompts), sizes[0])]


def measure(run: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> Cost:
    """Run something forward and, where it learns, backward, and count.

    Args:
        run: Returns a number.
        parameters: They are in memory in any case, so they do not count as activations.
    """
    # By storage: views of one tensor are one piece of memory.
    held = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept: dict[int, tuple[Any, int]] = {}  # with the storage itself, so that its address is not reused

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in held:
            kept[storage._cdata] = (storage, storage.nbytes())
        return tensor

    counter = FlopCounterMode(display=False)
    # What autograd saves for the backward pass is what stays in memory after the forward pass.
    with counter, MetaWins(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
        forward = counter.get_total_flops()
        activations = sum(size for _, size in kept.values())
        if result.requires_grad:
            result.backward()
    for parameter in parameters:
        parameter.grad = None
    return Cost(forward, counter.get_total_flops() - forward, activations)


def _sample_costs(
    model: Lumen, laid_out: Outline, load: Workload, text_tokens: int, known: dict[tuple[str | int, ...], Cost]
) -> tuple[dict[str, Cost], int]:
    """Return the costs of one sample by part, and its tokens; ``known`` keeps what was run before."""
    adapter, counts, is_text = model.lmm, laid_out.count_tokens(load.input_hw, load.task), model.lmm.is_text(load.task)
    suffix, answer = (text_tokens, text_tokens // 2) if is_text else (counts.suffix, counts.answer)
    # As the packing would: so many prompts share the prefix of a row.
    per_row = max(1, adapter.packing.max_suffix_tokens // suffix) if adapter.packing.is_packed else 1
    num_rows = -(-load.prompts // per_row)
    length = counts.prefix + suffix * min(per_row, load.prompts)
    held = list(adapter.parameters())
    # Samples of a mixture often share a size and a length: each is run once.
    if ("see", *load.input_hw) not in known:
        known["see", *load.input_hw] = measure(lambda: laid_out.see(1, load.input_hw), held)
    if ("read", num_rows, length) not in known:
        # Gradients pass the whole LLM only where something in front of it learns.
        before = laid_out.learns("vision") or any(p.requires_grad for p in laid_out.parts()["embeddings"])
        known["read", num_rows, length] = measure(lambda: laid_out.read(num_rows, length, from_image=before), held)
    vision, llm = known["see", *load.input_hw], known["read", num_rows, length]
    if laid_out.base.gradient_checkpointing:
        llm = _checkpointed(llm, adapter, num_rows * length)
    # The output layer runs over what is learned: answers, and each [LOC] that predicts its phrase.
    predicted = load.prompts * answer
    predicted += load.prompts if adapter.readout.phrase_reconstruction and not is_text else 0
    if predicted:
        llm = llm + measure(lambda: laid_out.predict(predicted), held)
    on_cpu = [p for p in model.parameters() if p.device.type != "meta"]
    # Aligner and decoders run on the CPU with real zeros: their losses look at the targets.
    features, sample = _zero_batch(model, laid_out, load)
    rest = measure(lambda: _total(model.sum_losses(features, model.align(features), [sample])), on_cpu)
    return {"vision": vision, "llm": llm, "aligner, decoders": rest}, num_rows * length


def _checkpointed(cost: Cost, adapter: HFAdapter, num_tokens: int) -> Cost:
    """Keep the input of each layer, and of one layer everything; run forward once more."""
    if not cost.backward:
        return cost
    layers = adapter.config.text_config.num_hidden_layers
    inputs = layers * num_tokens * adapter.dim * adapter.base_model.dtype.itemsize
    return Cost(cost.forward, cost.backward + cost.forward, inputs + cost.activations / layers)


def _zero_batch(model: Lumen, laid_out: Outline, load: Workload) -> tuple[LocFeatures, PerceptionSample]:
    """Return what aligner and decoders see of a sample: features that are 0, in place of the LMM's, and targets."""
    prompts = tuple(Prompt("dog", task=load.task, label=index, answer="dog") for index in range(load.prompts))
    spec = model.decoders[load.task].spec
    frame = InputTransform.stretch(load.input_hw, load.input_hw)
    sample = PerceptionSample(metainfo={"prompts": prompts, "frame": frame, "fields": spec.kinds})
    index = torch.arange(0 if model.lmm.is_text(load.task) else load.prompts)
    height, width = load.input_hw
    # One object per prompt, so that each loss has something to compute.
    box = torch.tensor([0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height])
    masks = torch.zeros(len(index), height, width, dtype=torch.bool)
    rows = {"bboxes": box.expand(len(index), 4), "labels": index, "prompt_index": index, "masks": masks}
    rows |= {name: spec.fields[name].example(len(index)) for name in spec.targets & spec.fields.keys()}
    sample.gt_instances = InstanceData(**rows)
    sample.ignored_instances = InstanceData(**{key: value[:0] for key, value in rows.items()})
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    return model.add_images(laid_out.features(1, load.input_hw, [prompts]), images, [sample]), sample


def _memory(model: Lumen, laid_out: Outline, config: Config | Mapping[str, Any]) -> dict[str, float | int]:
    """Return bytes of weights, gradients, the optimizer's states and averaged weights."""
    base = 2 if laid_out.base.dtype == "bfloat16" else _MASTER_BYTES
    # Only what is frozen in the LMM stays in the precision of the base.
    in_lmm = {id(parameter) for parameter in model.lmm.parameters()}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(
        p.numel() * (base if id(p) in in_lmm and not p.requires_grad else _MASTER_BYTES) for p in model.parameters()
    )
    averaged = any(is_a(hook, EmaHook) for hook in config.get("custom_hooks") or ())
    return {
        "weights": weights,
        "gradients": trained * _MASTER_BYTES,
        "optimizer": _optimizer_states(model, config) * _MASTER_BYTES,
        "averaged weights": trained * _MASTER_BYTES * averaged,
    }


def _optimizer_states(model: Lumen, config: Config | Mapping[str, Any]) -> int:
    """Return how many numbers the optimizer keeps: two for each trained one, one where Muon steps."""
    wrapper = {key: value for key, value in config["optim_wrapper"].items() if key != "type"}
    constructor = wrapper.pop("constructor", None)
    settings = {"paramwise_cfg": wrapper.pop("paramwise_cfg", None), "optim_wrapper_cfg": wrapper}
    if constructor is None:
        return 2 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    # The groups of the real constructor tell which matrices go to Muon, which keeps one state.
    built = OPTIM_WRAPPER_CONSTRUCTORS.build({"type": constructor, **settings})(model)
    return sum(
        parameter.numel() * (1 if group.get("muon") else 2)
        for group in built.optimizer.param_groups
        for parameter in group["params"]
    )


def _without_sam(decoders: Sequence[Mapping[str, Any]]) -> tuple[list[dict], int]:
    """Return the decoders with nothing in SAM's place, and the parameters of the SAMs; training does not run it."""
    found, parameters = [], 0
    for decoder in decoders:
        settings = dict(decoder)
        for key, value in decoder.items():
            if isinstance(value, Mapping) and is_a(value, SamMasks):
                name = str(value["name_or_path"]).rstrip("/").rpartition("/")[2]
                parameters += _SAM_PARAMETERS.get(name, 0)
                # A stand-in without weights; its parameters are counted from a table.
                settings[key] = nn.Identity()
        found.append(settings)
    return found, parameters


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of losses, 0 where there is none: a model that answers in words has no others than its LMM's."""
    return sum(losses.values(), torch.zeros(()))


def _merged(loads: Sequence[Workload]) -> list[Workload]:
    """Add up the shares of samples that cost the same."""
    shares: dict[tuple[str, int, tuple[int, int]], float] = {}
    for load in loads:
        key = (load.task, load.prompts, load.input_hw)
        shares[key] = shares.get(key, 0.0) + load.share
    return [Workload(share, *key) for key, share in shares.items()]


def is_a(node: Any, kind: type) -> bool:
    """Return whether a part of a config is of a class, which it names itself or as text."""
    return isinstance(node, Mapping) and _class_name(node) == kind.__name__


def _class_name(node: Mapping[str, Any]) -> str:
    kind = node.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def _default(step: Mapping[str, Any], name: str) -> Any:
    """Return a setting of a transform, or what its class takes when it is left out."""
    if name in step or isinstance(step["type"], str):
        return step.get(name)
    parameter = inspect.signature(step["type"]).parameters.get(name)
    return None if parameter is None else parameter.default


def _count(parameters: Sequence[nn.Parameter] | Iterator[nn.Parameter]) -> tuple[int, int]:
    """Return how many numbers are trained, and how many are frozen."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in parameters]
    return sum(n for n, learns in sizes if learns), sum(n for n, learns in sizes if not learns)


def format_plan(plan: Plan, *, tflops: float | int, mfu: float | int, num_gpus: int, gpu_gb: float | int | None) -> str:
    """Return the plan as text."""
    rows = [f"{'parameters':<28}{'trained':>16}{'frozen':>16}"]
    counts = [*plan.parameters.items(), ("total", tuple(map(sum, zip(*plan.parameters.values(), strict=True))))]
    rows += [f"  {part:<26}{trained:>16,}{frozen:>16,}" for part, (trained, frozen) in counts]
    rows += ["", f"{'tokens of the LLM, per sample':<44}{plan.tokens:>16,.0f}", ""]
    rows.append(f"{'TFLOPs per step':<28}{'forward':>16}{'backward':>16}")
    rows += [f"  {part:<26}{c.forward / 1e12:>16,.3f}{c.backward / 1e12:>16,.3f}" for part, c in plan.costs.items()]
    rows += [f"  {'total':<42}{plan.step_flops / 1e12:>16,.3f}", "", "GB per process"]
    rows += [f"  {kind:<42}{size / 1e9:>16,.2f}" for kind, size in plan.memory.items() if size]
    fits = "" if gpu_gb is None else f"  of {gpu_gb:g}" + ("" if plan.peak_bytes < gpu_gb * 1e9 else ": DOES NOT FIT")
    rows.append(f"  {'total (upper bound)':<42}{plan.peak_bytes / 1e9:>16,.2f}{fits}")
    hours = plan.hours(tflops=tflops, mfu=mfu, num_gpus=num_gpus)
    rows += ["", f"{plan.num_iters:,} steps on {num_gpus} x {tflops:g} TFLOP/s at {mfu:.0%}: {hours:,.1f} hours"]
    return "\n".join(rows)
