"""Every leaf config loads, survives a dump, builds on a tiny nano and takes a training step."""

import copy
import re
import shutil
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from helpers import make_images, make_instances, make_sample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from real_layouts import make_all

from lumen.config import read_config
from lumen.data.pipelines import fill_pipelines
from lumen.engine.check_config import load_config
from lumen.engine.hooks.freeze import FreezeHook, freeze_parameters, norms_with_fixed_statistics
from lumen.engine.model_inputs import inputs_of_config
from lumen.lmm.cached import CachedAdapter
from lumen.model import Lumen
from lumen.pretraining import LmmPretrainer
from lumen.registry import DATASETS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[1]
LEAVES = sorted(
    [
        *ROOT.glob("configs/[!_]*/*.py"),
        *(path for path in ROOT.glob("projects/*/[!_]*.py") if "read_base" in path.read_text()),
    ]
)
PAPER = [path for path in LEAVES if path.parent.name == "lumen_paper"]
FULL_SIZE = [*PAPER, *(path for path in LEAVES if path.parents[1].name == "projects" and path.stem.endswith("7b"))]
REAL = [
    path
    for path in LEAVES
    if (path.parent.name == "segmentation" and "shapes" not in path.stem)
    or path.parent.name in ("pose", "grounding", "referring_segmentation", "semantic_segmentation")
    or path.parent.name in ("text", "lumen_paper")
    or path.stem in ("detection_nano_coco", "detection_nano_lvis", "multitask_nano_coco")
]
TEXT_TASKS = ("vqa", "caption", "chat")


@pytest.fixture(scope="session")
def real_root(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("real"))


@cache
def read_once(path):
    return load_config(path, {}, tool_root=ROOT)


def load(path):
    """Return a config of its own; the file is read once."""
    return copy.deepcopy(read_once(path))


def sample_for(task, size_hw):
    """Return a sample of any task: two prompts, one object where it is located."""
    prompts = [Prompt(name, task=task, label=at, answer="a cat") for at, name in enumerate(("cat", "dog"))]
    if task in TEXT_TASKS:
        return make_sample(prompts)
    sample = make_sample(prompts)
    masks = torch.zeros(1, *size_hw, dtype=torch.bool)
    masks[:, 4:12, 4:12] = True
    sample.gt_instances = make_instances([[4, 4, 12, 12]], [0], labels=[0], masks=masks)
    sample.ignored_instances = make_instances(masks=masks[:0])
    sample.objects = InstanceData(bboxes=sample.gt_instances.bboxes.clone(), labels=torch.zeros(1, dtype=torch.long))
    return sample


def pretraining_sample(size_hw):
    """Return a sample that names its objects and cells and asks in words, for an LMM that is trained itself."""
    sample = make_sample([Prompt("is there a cat?", task="vqa", answer="yes")])
    zero = torch.zeros(1, dtype=torch.long)
    fields = {"labels": zero, "colour": zero, "texture": zero, "size": zero}
    sample.objects = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 12.0, 12.0]]), **fields)
    sample.cells = InstanceData(numbers=torch.full((1, size_hw[0] // 8, size_hw[1] // 8), -1))
    sample.cells.numbers[0, 0, 0] = 0
    return sample


def samples_for(model, size_hw):
    """Return the samples that a model learns from, of each of its tasks one."""
    if isinstance(model, LmmPretrainer):
        return [pretraining_sample(size_hw)] * 2
    if not isinstance(model, Lumen):  # a model of captions
        return [make_sample([Prompt("", task="caption", answer="a cat")])] * 2
    samples = [sample_for(task, size_hw) for task in model.decoders]
    for sample, decoder in zip(samples, model.decoders.values(), strict=True):
        for field in decoder.spec.targets - set(sample.gt_instances.keys()):  # a plug-in's own
            sample.gt_instances[field] = torch.zeros(len(sample.gt_instances), dtype=torch.long)
    return samples


def one_step(config, model, size_hw):
    wrapper = dict(config.optim_wrapper)
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        {
            "type": wrapper.pop("constructor"),
            "paramwise_cfg": wrapper.pop("paramwise_cfg", None),
            "optim_wrapper_cfg": wrapper,
        }
    )
    samples = samples_for(model, size_hw)
    batch = {"inputs": list(make_images(len(samples), size_hw)), "data_samples": samples}
    return model.train_step(batch, constructor(model))


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_a_leaf_survives_copying_and_dumping(path, tmp_path):
    config = load(path)
    assert copy.deepcopy(config).pretty_text == config.pretty_text
    config.dump(tmp_path / "dumped.py")
    read = read_config if path in PAPER else partial(load_config, overrides={}, tool_root=ROOT)
    assert read(tmp_path / "dumped.py").pretty_text == config.pretty_text


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in FULL_SIZE], ids=lambda path: path.stem)
def test_a_leaf_builds_and_takes_a_step(path, tiny_nano, tiny_photo, tiny_seeing):
    config = load(path)
    if config.model.lmm.type is CachedAdapter:  # the full model in its place, since there is no cache
        config.model.lmm = config.model.lmm.lmm
    bases = {"photo": tiny_photo, **dict.fromkeys(("nano", "compare", "infmllm"), tiny_seeing)}
    config.model.lmm.name_or_path = str(bases.get("photo" if "photo" in path.stem else path.parent.name, tiny_nano))
    connector = config.model.lmm.get("base", {}).get("connector") or {}
    connector = connector.get("inner", connector)
    if "PoolConnector" in str(connector):
        connector.mode = "adaptive"  # the images of one step are small
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(config.model)
        if config.optim_wrapper is None:  # a config that evaluates only
            assert config.test_dataloader and config.test_evaluator and config.test_cfg
            return
        logged = one_step(config, model, (64, 96))
    assert all(value.isfinite() for value in logged.values())
    assert logged["loss"] > 0


def test_the_photo_recipe_keeps_early_stages_depthwise_kernels_and_statistics(tiny_photo):
    config = load(ROOT / "configs" / "finetune" / "detection_photo_bccd.py")
    config.model.lmm.name_or_path = str(tiny_photo)
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(config.model)
    network = model.lmm.base_model.model.vision_tower.network
    (hook,) = [hook for hook in config.custom_hooks if hook["type"] is FreezeHook]
    freeze_parameters(model, hook["freeze"])
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"stages"}
    assert {name.split(".")[1] for name in trained} == {"2", "3", "4", "5", "6"}
    assert "stages.2.0.depthwise.conv.weight" not in trained
    assert {"stages.2.0.depthwise.norm.weight", "stages.2.0.expand.conv.weight"} <= trained
    norms = norms_with_fixed_statistics(model, hook["statistics"])
    assert norms == [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_recipe_builds_on_a_tiny_llava_and_takes_a_step(path, repositories):
    config = load(path)
    settings = config.model.to_dict()
    settings["lmm"].pop("base")  # its options are tested with the adapter
    settings["lmm"]["name_or_path"] = repositories("llava")
    settings["lmm"]["readout"]["dense_hw"] = (32, 32)
    for decoder in settings["decoders"]:
        if "sam" in decoder:
            decoder["sam"] = torch.nn.Identity()
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("lumen"):
        model = MODELS.build(settings)
        config.optim_wrapper.dtype = "float32"
        logged = one_step(config, model, (32, 32))
    assert logged["loss"].isfinite()
    assert logged["aligner/loss_presence"] == 0
    assert logged["aligner/loss_heat"] > 0


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_leaf_reads_the_layout_that_it_names(path, real_root, monkeypatch):
    monkeypatch.setenv("LUMEN_DATA", str(real_root))
    config = load(path)
    tasks = {decoder.type.spec.name for decoder in config.model.decoders}
    inputs = inputs_of_config(config)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if config.get(name) is None:
            continue
        with DefaultScope.overwrite_default_scope("lumen"):
            dataset = DATASETS.build(fill_pipelines(config[name].dataset, inputs))
        for index in range(len(dataset)):
            sample = dataset[index]["data_samples"]
            assert sample.prompts, f"{name}, sample {index}"
            assert {prompt.task for prompt in sample.prompts} <= tasks


def test_four_lines_are_enough_for_a_data_set_of_ones_own(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    mine = tmp_path / "configs" / "detection" / "mine.py"
    mine.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from .detection_nano_coco import *\n"
        'train_dataloader["dataset"].update(data_root="d", ann_file="train.json", data_prefix=dict(img="images"))\n'
        'val_dataloader["dataset"].update(data_root="d", ann_file="val.json", data_prefix=dict(img="images"))\n'
    )
    config = load(mine)
    assert config.train_dataloader.dataset.ann_file == "train.json"
    assert config.val_dataloader.dataset.ann_file == config.test_dataloader.dataset.ann_file == "val.json"
    assert config.test_dataloader.dataset.data_prefix.img == "images"


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_a_leaf_names_no_step_by_its_place_and_no_size_in_its_pipelines(path):
    text = path.read_text()
    assert re.search(r"pipeline\"\]\[\d", text) is None
    settings = load(path)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        assert "input_hw" not in str(settings.get(name))
