"""A plan agrees with what a training step does: FLOPs within 5 %, memory within 15 %."""

import itertools
from pathlib import Path

import pytest
import torch
import zoo
from helpers import make_images, make_sample
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lumen.aligners.dense import DenseAligner
from lumen.config import read_config
from lumen.data.transforms import AskClasses, ResizeToInput
from lumen.decoders.base import Decoder
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.cost import Workload, find_workloads, format_plan, make_plan, measure
from lumen.engine.hooks import FreezeHook, freeze_parameters
from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.meta import KNOWN, outline, outline_config
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.structures import Field, Prompt, TaskSpec, targets_per_pair

SIZE_HW, BATCH, PROMPTS = (160, 160), 4, 3
PAPER = Path(__file__).resolve().parents[2] / "configs" / "lumen_paper"


class SizeDecoder(Decoder):
    """Reads a number and a direction of each object."""

    spec = TaskSpec(
        name="sized",
        targets=frozenset({"size", "heading"}),
        predictions=frozenset({"scores", "labels", "prompt_index"}),
        headline="sized/error",
        losses={"loss_size": "objects"},
        fields={"size": Field("numbers"), "heading": Field("directions")},
    )

    def __init__(self, channels):
        super().__init__(channels)
        self.head = nn.Linear(channels, 1)

    def loss(self, shared, samples):
        targets = targets_per_pair(samples, shared, fields=self.spec.fields)
        sizes = self.head(shared.query[targets.pair_index])[:, 0]
        return {"loss_size": (sizes - targets.size - targets.heading[:, 0]).abs().sum()}

    def predict(self, shared, samples):
        raise NotImplementedError


def config_on(folder, *, template="compact", freeze=()):
    return {
        "model": {
            "type": Lumen,
            "lmm": {
                "type": HFAdapter,
                "name_or_path": str(folder),
                "base": {"attention": "eager"},
                "template": template,
                "readout": {"phrase_reconstruction": template == "compact"},
            },
            "aligner": {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
            "decoders": [{"type": DetectionDecoder}],
        },
        "optim_wrapper": {"dtype": "float32"},
        "custom_hooks": [{"type": FreezeHook, "freeze": list(freeze)}] if freeze else [],
        "train_dataloader": {
            "batch_size": BATCH,
            "dataset": {
                "pipeline": [
                    {"type": ResizeToInput, "input_hw": SIZE_HW},
                    {"type": AskClasses, "num_prompts": PROMPTS},
                ]
            },
        },
        "train_cfg": {"max_iters": 10},
    }


def real_run(config):
    """Return a model of a config, and a function that runs it forward and backward on a batch."""
    torch.manual_seed(0)
    model = Lumen(**{key: value for key, value in config["model"].items() if key != "type"}).train()
    for hook in config["custom_hooks"]:
        freeze_parameters(model, hook["freeze"])
    prompts = [Prompt("dog", label=at) for at in range(PROMPTS)]
    frame = InputTransform.stretch(SIZE_HW, SIZE_HW)
    samples = [make_sample(prompts, [[40, 40, 120, 120]] * PROMPTS, range(PROMPTS), frame=frame) for _ in range(BATCH)]
    images = make_images(BATCH, SIZE_HW)

    def run():
        sum(model(images, samples, mode="loss").values()).backward()

    return model, run


@pytest.mark.parametrize(
    ("template", "freeze"), [("compact", ()), ("paper", ()), ("paper", ("lmm.base_model.model.vision_tower.*",))]
)
def test_flops_are_those_of_a_real_step(tiny_nano, template, freeze):
    config = config_on(tiny_nano, template=template, freeze=freeze)
    _, run = real_run(config)
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    assert make_plan(config).step_flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_memory_is_that_of_a_real_step(tiny_nano):
    config = config_on(tiny_nano)
    model, run = real_run(config)
    optimizer = torch.optim.AdamW(model.parameters())
    run()
    optimizer.step()
    optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    highest = max(itertools.accumulate(steps))
    held = list(model.parameters())
    held += [state for own in optimizer.state.values() for state in own.values()]
    peak = highest + sum(tensor.untyped_storage().nbytes() for tensor in held)
    assert make_plan(config).peak_bytes == pytest.approx(peak, rel=0.15)


def test_parameters_are_counted_by_part(tiny_nano):
    config = config_on(tiny_nano, freeze=["lmm.*"])
    model, _ = real_run(config)
    plan = make_plan(config)
    trained, frozen = map(sum, zip(*plan.parameters.values(), strict=True))
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    actual = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == pytest.approx(actual, rel=0.005)  # rows of new tokens are not counted
    assert plan.parameters["vision"][0] == plan.parameters["llm"][0] == 0
    assert plan.memory["gradients"] == trained * 4


def test_a_mixture_is_taken_apart_by_its_weights():
    def part(prompts):
        steps = [{"type": ResizeToInput, "input_hw": (32, 32)}, {"type": AskClasses, "num_prompts": prompts}]
        return {"pipeline": steps}

    mixture = {"datasets": [part(8), part(None), part(8)], "weights": [1, 2, 1]}
    assert find_workloads(mixture, all_prompts=20) == [
        Workload(0.5, "detection", 8, (32, 32)),
        Workload(0.5, "detection", 20, (32, 32)),
    ]


def test_hours_are_flops_by_speed(tiny_nano):
    plan = make_plan(config_on(tiny_nano))
    assert plan.hours(tflops=1, mfu=0.5) == pytest.approx(plan.step_flops * 10 / 0.5e12 / 3600)
    text = format_plan(plan, tflops=1, mfu=0.5, num_gpus=2, gpu_gb=1e-6)
    assert "DOES NOT FIT" in text
    assert "10 steps on 2 x 1 TFLOP/s at 50%" in text


def test_a_task_with_fields_of_its_own_is_planned(tiny_nano):
    config = config_on(tiny_nano)
    config["model"]["lmm"]["tasks"] = [{"name": "sized", "answer_format": "boxes", "routing_token": "[DET]"}]
    config["model"]["decoders"] = [{"type": SizeDecoder}]
    config["train_dataloader"]["dataset"]["pipeline"][1]["task"] = "sized"
    plan = make_plan(config)
    assert plan.parameters["decoder sized"] == (33, 0) and plan.costs["aligner, decoders"].backward > 0


def test_llava_7b_has_its_seven_billion_parameters_and_lora_its_four_million():
    pytest.importorskip("peft", reason="peft is not installed")
    lora = {"r": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "v_proj"]}
    settings = {"name_or_path": "llava-hf/llava-1.5-7b-hf", "base": {"lora": lora}}
    laid_out = outline(settings, outline_config(settings["name_or_path"]), dtype=torch.bfloat16)
    parts = {part: sum(p.numel() for p in found) for part, found in laid_out.parts().items()}
    assert 6.4e9 < parts["llm"] < 6.5e9
    assert 0.30e9 < parts["vision"] < 0.31e9
    trained = sum(p.numel() for p in laid_out.parts()["llm"] if p.requires_grad)
    assert trained == 32 * 2 * 8 * (4096 + 4096)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_sizes_are_configs(name):
    assert outline_config(name).text_config.hidden_size >= 2048


def test_an_unknown_model_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="--model-config"):
        outline_config("nobody/knows-this")
    with pytest.raises(ConfigError, match="not a folder with a config"):
        outline_config("llava-hf/llava-1.5-7b-hf", tmp_path / "none")


@pytest.mark.parametrize(
    ("leaf", "vision", "llm", "tokens"),
    [
        ("qwen3vl4b", 306_242_560, 3_636_461_056, 14 * 14 + 40),
        ("smolvlm", 412_987_248, 1_612_285_952, 9 * 9 + 40),
    ],
)
def test_leaves_with_other_llms_are_planned_without_a_download(leaf, vision, llm, tokens):
    pytest.importorskip("peft", reason="peft is not installed")
    plan = make_plan(read_config(PAPER / f"alignment_{leaf}_paper_50k.py", import_roots=[PAPER.parents[1]]))
    assert sum(plan.parameters["vision"]) == vision
    assert sum(plan.parameters["llm"]) == llm
    assert plan.tokens == pytest.approx(tokens, abs=1)
    towers = 2 * vision * {"qwen3vl4b": 28 * 28, "smolvlm": 27 * 27}[leaf]  # without attention's own products
    assert towers < plan.costs["vision"].forward / 20 < 1.4 * towers


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3"])
def test_towers_that_compute_with_sizes_run_on_the_meta_device(name, tmp_path):
    zoo.save(name, tmp_path)
    laid_out = outline({"name_or_path": str(tmp_path)}, outline_config(str(tmp_path)), dtype=torch.float32)
    vision, connector = (laid_out.parts()[part] for part in ("vision", "connector"))
    cost = measure(lambda: laid_out.see(2, (16, 16)), list(laid_out.adapter.parameters()))
    assert 2 * cost.forward >= cost.backward > cost.forward > 0
    assert all(parameter.grad is None for parameter in (*vision, *connector))
