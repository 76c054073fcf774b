"""From a checkpoint to a cache, from the cache to a trained decoder, and back to the full model."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import make_images, make_sample
from mmengine import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from PIL import Image
from torch import nn

from lumen.aligners.dense import DenseAligner
from lumen.data.cached import CachedFeatures
from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, Photometric, ResizeToInput
from lumen.decoders.base import Decoder
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.caching import CacheOptions, refuse_augmentation, refuse_chance, require_room, write_cache
from lumen.engine.hooks import EmaHook, FreezeHook, eval_frozen_modules, freeze_parameters
from lumen.engine.optim import LumenOptimWrapper
from lumen.engine.runner import LumenRunner
from lumen.errors import CheckpointError, ConfigError, DataError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.cached import CachedAdapter
from lumen.metrics.coco.metric import CocoMetric
from lumen.model import Lumen
from lumen.registry import DATASETS, MODELS
from lumen.serialization.checkpoint import (
    absent_names,
    load_checkpoint,
    load_trained_state,
    plain,
    save_checkpoint,
    trained_state,
)
from lumen.serialization.feature_cache import FeatureCache
from lumen.structures import TaskSpec

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
CLASSES = ("star", "cat", "ring")


def write_coco(folder):
    """Five images of 90 x 120 with up to two boxes of three classes, one of them a crowd."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(5):
        pixels = generator.integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number + 10, "file_name": f"{number}.png", "height": 90, "width": 120})
        for place in range(number % 3):
            box = [10 + 40 * place, 12, 30, 40]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 10,
                    "category_id": place + 1,
                    "bbox": box,
                    "area": 1200,
                    "iscrowd": int(number == 4 and place == 1),
                    "segmentation": {"size": [90, 120], "counts": [0, 90 * 120]} if number == 4 and place == 1 else [],
                }
            )
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def make_config(data, nano, **pipeline):
    dataset = {
        "type": CocoDataset,
        "data_root": str(data),
        "ann_file": "a.json",
        "data_prefix": {"img": "images"},
        "test_mode": True,
        "pipeline": [
            {"type": LoadImage},
            {"type": ResizeToInput, "input_hw": (64, 64), **pipeline},
            {"type": AskClasses, "num_prompts": 2, "shuffle": True},
            {"type": PackSample},
        ],
    }
    loader = {"batch_size": 2, "num_workers": 0, "collate_fn": {"type": pseudo_collate}}
    every = copy.deepcopy(dataset)
    every["pipeline"][2] = {"type": AskClasses, "num_prompts": None, "shuffle": False, "task": "detection"}
    return Config(
        {
            "model": {
                "type": Lumen,
                "lmm": {
                    "type": HFAdapter,
                    "name_or_path": str(nano),
                    "base": {"attention": "eager"},
                    "readout": {"add_phrase_state": True, "phrase_reconstruction": True},
                },
                "aligner": {
                    "type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1
                },
                "decoders": [{"type": DetectionDecoder}],
            },
            "train_dataloader": {**loader, "sampler": {"type": InfiniteSampler, "shuffle": False}, "dataset": dataset},
            "val_dataloader": {**loader, "sampler": {"type": DefaultSampler, "shuffle": False}, "dataset": every},
        }
    )  # fmt: skip


def cached(config, cache):
    """The lines of the docstring of tools/cache_features.py."""
    config = copy.deepcopy(config)
    config.model.lmm = {"type": CachedAdapter, "cache": str(cache / "train"), "lmm": config.model.lmm}
    for split in ("train", "val"):
        loader = config[f"{split}_dataloader"]
        loader.dataset = {"type": CachedFeatures, "cache": str(cache / split), "dataset": loader.dataset}
    return config


def build(config):
    torch.manual_seed(0)
    return MODELS.build(config.model).eval()


def write_checkpoint(path, model, also=()):
    state = trained_state(model, also)
    meta = {"iter": 3, "seed": 0, "model": model.describe(), "absent": absent_names(model, state)}
    save_checkpoint(path, plain({"state_dict": state, "meta": meta}))
    return path


@pytest.fixture(scope="session")
def made(tiny_nano, tmp_path_factory):
    """Return a folder with data, the checkpoint of a model with some frozen LMM weights, and caches of both splits."""
    folder = tmp_path_factory.mktemp("cached")
    write_coco(folder / "data")
    config = make_config(folder / "data", tiny_nano)
    model = build(config)
    with torch.no_grad():
        for parameter in model.lmm.parameters():
            parameter.mul_(1.1)
    freeze_parameters(model, ["lmm.base_model.model.language_model.layers.*"])
    base = MODELS.build(config.model.lmm).base_model.model.language_model.layers
    model.lmm.base_model.model.language_model.layers.load_state_dict(base.state_dict())
    write_checkpoint(folder / "full.pth", model)
    for split in ("train", "val"):
        options = CacheOptions(batch_size=2, extras=("images",) if split == "val" else ())
        write_cache(config, folder / "full.pth", split, folder / "cache" / split, options)
    return folder


@pytest.fixture
def config(made, tiny_nano):
    return make_config(made / "data", tiny_nano)


@pytest.fixture
def full(config, made):
    model = build(config)
    load_trained_state(model, load_checkpoint(made / "full.pth"))
    return model


@pytest.fixture
def light(config, made):
    model = build(cached(config, made / "cache"))
    load_trained_state(model, load_checkpoint(made / "full.pth"))
    return model


def batch_of(config, split="val", indices=range(5)):
    dataset = DATASETS.build(config[f"{split}_dataloader"].dataset)
    batch = pseudo_collate([dataset[index] for index in indices])
    return batch["inputs"], batch["data_samples"]


# --- equality ---------------------------------------------------------------------------------------------------------


def test_predictions_from_the_cache_are_those_of_the_full_model(config, made, full, light):
    with torch.no_grad():
        expected = full(*batch_of(config), mode="predict")
        found = light(*batch_of(cached(config, made / "cache")), mode="predict")
    assert sum(len(sample.pred_instances) for sample in expected) > 0
    for one, other in zip(expected, found, strict=True):
        assert one.pred_instances.keys() == other.pred_instances.keys()
        for key, value in one.pred_instances.items():
            torch.testing.assert_close(other.pred_instances[key], value, **TOLERANCE)


def test_samples_come_back_whole(config, made):
    expected, found = batch_of(config)[1], batch_of(cached(config, made / "cache"))[1]
    for one, other in zip(expected, found, strict=True):
        for key in ("prompts", "frame", "classes", "img_id", "img_path", "ori_shape", "img_shape"):
            assert one.get(key) == other.get(key)
        for table in ("gt_instances", "ignored_instances"):
            assert one.get(table).keys() == other.get(table).keys()
            for key, value in one.get(table).items():
                assert torch.equal(value, other.get(table)[key])


def test_a_frozen_step_is_the_same_with_and_without_the_lmm(config, made, full, light):
    inputs = {
        "full": batch_of(config, indices=[1, 2]),
        "light": batch_of(cached(config, made / "cache"), indices=[1, 2]),
    }
    losses, gradients, buffers = {}, {}, {}
    for name, model in (("full", full), ("light", light)):
        freeze_parameters(model, ["lmm.*", "aligner.*"] if name == "full" else ["aligner.*"])
        eval_frozen_modules(model.train())
        assert not any(m.training for m in model.aligner.modules() if isinstance(m, nn.BatchNorm2d))
        before = {key: value.clone() for key, value in model.aligner.named_buffers()}
        losses[name] = model(*inputs[name], mode="loss")
        sum(value for key, value in losses[name].items() if not key.startswith("lmm/")).backward()
        gradients[name] = {key: value.grad for key, value in model.decoders.named_parameters() if value.numel()}
        assert all(torch.equal(value, before[key]) for key, value in model.aligner.named_buffers())
        buffers[name] = dict(model.decoders.named_buffers())
    assert {key for key in losses["full"] if not key.startswith("lmm/")} == set(losses["light"])
    for key, value in losses["light"].items():
        torch.testing.assert_close(value, losses["full"][key], **TOLERANCE)
    for found, expected in ((gradients["light"], gradients["full"]), (buffers["light"], buffers["full"])):
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, **TOLERANCE)


def test_half_the_bytes_are_nearly_the_same(config, made, tmp_path):
    write_cache(config, made / "full.pth", "val", tmp_path / "half", CacheOptions(dtype="bfloat16"))
    whole, half = FeatureCache(made / "cache" / "val"), FeatureCache(tmp_path / "half")
    one, other = whole.read(1)[0], half.read(1)[0]
    assert other.grid.dtype == other.query.dtype == torch.bfloat16
    assert other.prompt_index.dtype == torch.long
    torch.testing.assert_close(other.grid.float(), one.grid, atol=0.02, rtol=0.01)


def test_prompts_drawn_at_random_are_drawn_once(config, made):
    dataset = CachedFeatures(made / "cache" / "train")
    asked = [dataset[index]["data_samples"].prompts for index in range(5)]
    assert asked == [dataset[index]["data_samples"].prompts for index in range(5)]
    assert len({tuple(prompt.text for prompt in own) for own in asked}) > 1


def test_extras_that_were_named_come_with_the_features(config, made, full, light):
    images = torch.stack(batch_of(config)[0])
    features = light.lmm(batch_of(cached(config, made / "cache"))[0], [s.prompts for s in batch_of(config)[1]])
    assert torch.equal(features.extras["images"], images)


# --- the way back -----------------------------------------------------------------------------------------------------


class PlusDecoder(Decoder):
    """A new task with a map query, for which gradients pass through the frozen aligner."""

    spec = TaskSpec("counting", frozenset(), frozenset(), "count/error", {"loss_map": "pairs"}, map_queries=1)

    def loss(self, shared, samples):
        return {"loss_map": shared.maps.square().sum()}

    def predict(self, shared, samples):
        raise NotImplementedError


def train_cached(config, made, work_dir, *, hooks=(), iters=3):
    config = cached(config, made / "cache")
    runner = LumenRunner(
        model=config.model,
        work_dir=str(work_dir),
        train_dataloader=config.train_dataloader,
        val_dataloader=config.val_dataloader,
        train_cfg={"max_iters": iters, "val_interval": iters},
        val_cfg={},
        val_evaluator=[{"type": CocoMetric}],
        optim_wrapper={"type": LumenOptimWrapper, "optimizer": {"type": torch.optim.AdamW, "lr": 0.01}},
        custom_hooks=[{"type": FreezeHook, "freeze": ["aligner.*"]}, *hooks],
        load_from={"checkpoint": str(made / "full.pth"), "fresh": ["decoders.*"]},
        default_scope="lumen",
        log_processor={"by_epoch": False},
        randomness={"seed": 0},
        experiment_name=work_dir.name,
    )
    runner.train()
    return runner


@pytest.mark.parametrize("hooks", [(), ({"type": EmaHook, "decay": 0.9},)], ids=["plain", "averaged"])
def test_a_checkpoint_of_the_cached_stage_is_one_of_the_full_model(config, made, full, tmp_path, hooks):
    runner = train_cached(config, made, tmp_path / f"run{len(hooks)}", hooks=hooks)
    saved = load_checkpoint(tmp_path / f"run{len(hooks)}" / "iter_3.pth")
    assert saved["meta"]["model"] == full.describe()
    model = build(config)
    load_trained_state(model, saved)
    for (name, own), before in zip(model.named_parameters(), full.parameters(), strict=True):
        if not name.startswith("decoders."):
            assert torch.equal(own, before), name
    trained = dict(model.decoders.named_parameters())
    assert not torch.equal(trained["detection.head.layers.0.weight"], full.decoders.detection.head.layers[0].weight)
    with torch.no_grad():
        expected = runner.model.eval() if not hooks else None
        answers = model(*batch_of(config), mode="predict")
        if expected is not None:
            for one, other in zip(
                answers, expected(*batch_of(cached(config, made / "cache")), mode="predict"), strict=True
            ):
                torch.testing.assert_close(one.pred_instances.bboxes, other.pred_instances.bboxes, **TOLERANCE)


def test_map_queries_learn_through_the_frozen_aligner(config, made):
    config = cached(config, made / "cache")
    config.model.decoders = [{"type": DetectionDecoder}]
    model = build(config)
    plus = PlusDecoder(32)
    model = Lumen(model.lmm, model.aligner, [model.decoders["detection"], plus])
    freeze_parameters(model, ["aligner.*"])
    inputs, samples = batch_of(config)
    shared = model(inputs, samples)
    plus.loss(shared, samples)["loss_map"].backward()
    assert plus.map_queries.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.aligner.parameters())


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_another_checkpoint_is_refused_by_the_names_that_differ(config, made, light):
    other = load_checkpoint(made / "full.pth")
    name = next(name for name in other["state_dict"] if name.startswith("lmm."))
    other["state_dict"][name] = other["state_dict"][name] + 1
    with pytest.raises(CheckpointError, match=f"not those that .* was made with: {name.removeprefix('lmm.')}"):
        load_trained_state(light, other)


def test_another_lmm_config_is_refused(config, made):
    config.model.lmm.template = "paper"
    with pytest.raises(
        CheckpointError, match=r"another model than the config's lmm. settings: .*template='paper'.* here"
    ):
        build(cached(config, made / "cache"))


def test_another_annotation_file_is_refused_and_a_moved_one_is_not(config, made, tmp_path):
    shutil.copytree(made / "data", tmp_path / "moved")
    config.val_dataloader.dataset.data_root = str(tmp_path / "moved")
    assert len(DATASETS.build(cached(config, made / "cache").val_dataloader.dataset)) == 5
    (tmp_path / "moved" / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"other data than the config's dataset. dataset: "):
        DATASETS.build(cached(config, made / "cache").val_dataloader.dataset)


def test_another_pipeline_is_refused(config, made):
    config.val_dataloader.dataset.pipeline[1].input_hw = (96, 96)
    with pytest.raises(DataError, match=r"\[64, 64\].* there, .*\[96, 96\].* here"):
        DATASETS.build(cached(config, made / "cache").val_dataloader.dataset)


def test_features_of_another_model_are_refused_in_a_batch(config, made, full, light, tmp_path):
    with torch.no_grad():
        next(full.lmm.base_model.model.vision_tower.parameters()).add_(1)
    write_cache(config, write_checkpoint(tmp_path / "other.pth", full), "val", tmp_path / "other", CacheOptions())
    item = CachedFeatures(tmp_path / "other")[0]
    with pytest.raises(CheckpointError, match=r"made by another model than the cache .* weights: "):
        light([item["inputs"]], [item["data_samples"]], mode="tensor")


def test_images_are_no_cached_features(light):
    with pytest.raises(DataError, match="takes cached features, got Tensor"):
        light(make_images(1), [make_sample(["star"])], mode="tensor")
    with pytest.raises(ConfigError, match="cannot look at new images"):
        light.lmm.encode_images(make_images(1))


@pytest.mark.parametrize(
    "step",
    [
        {"type": ResizeToInput, "flip_probability": 0.5},
        {"type": ResizeToInput, "vertical_flip_probability": 0.1},
        {"type": "lumen.data.transforms.ResizeToInput", "scale_range": (0.5, 2)},
        {"type": ResizeToInput, "aspect_range": (0.9, 1.1)},
        {"type": Photometric},
    ],
)
def test_augmentation_is_refused_wherever_it_stands(step):
    with pytest.raises(ConfigError, match="changes images at random; cached features know one view"):
        refuse_augmentation({"type": "ConcatDataset", "datasets": [{"pipeline": [{"type": LoadImage}, step]}]})


def test_chance_is_found_where_no_name_gives_it_away(config):
    config.val_dataloader.dataset.pipeline.insert(2, {"type": Photometric})
    with pytest.raises(ConfigError, match="changes image 0 at random"):
        refuse_chance(DATASETS.build(config.val_dataloader.dataset), 0)


def test_a_small_disk_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(DataError, match="free some"):
        require_room(tmp_path, 10**18)
    assert "the cache will take 1000000000.00 GB" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_says_so(config, made, tmp_path):
    with pytest.raises(ConfigError, match="no test_dataloader"):
        write_cache(config, made / "full.pth", "test", tmp_path / "new", CacheOptions())
    with pytest.raises(ConfigError, match=r"extras \['depth'\] cannot be cached; this model gives \['images'\]"):
        write_cache(config, made / "full.pth", "val", tmp_path / "new", CacheOptions(extras=("depth",)))
    with pytest.raises(DataError, match="exists: remove it"):
        write_cache(config, made / "full.pth", "val", made / "cache" / "val", CacheOptions())
    with pytest.raises(ConfigError, match="dtype must be"):
        CacheOptions(dtype="float16")
    assert not (tmp_path / "new").exists()


def test_a_tool_says_how_a_config_changes(run_tool, tmp_path):
    done = run_tool("cache_features.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "CachedAdapter" in done.stdout
