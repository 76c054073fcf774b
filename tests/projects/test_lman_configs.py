import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from lman_humanins import Source, build_instructions
from lman_readers import read_coco_persons
from mmengine.registry import DefaultScope

from lumen.data.pipelines import ModelInputs, fill_pipelines
from lumen.engine.check_config import load_config
from lumen.engine.hooks.freeze import freeze_parameters
from lumen.engine.runner import LumenRunner
from lumen.registry import DATASETS, MODELS
from lumen.serialization.atomic import write_text

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "projects/lman"
EVALUATIONS = sorted(path.stem for path in FOLDER.glob("lman_eval_*.py"))


@pytest.fixture(scope="session")
def data(tiny_persons):
    """Return the folder that holds ``persons``, with instructions beside the other annotations."""
    for kind, split in (("scenes", "train"), ("portraits", "train"), ("portraits", "test")):
        source = Source(tiny_persons / f"annotations/{kind}_{split}.json", tiny_persons / kind / split)
        forms = {"forms": ["attributes"]} if split == "test" else {}
        content = build_instructions(read_coco_persons(source, defaultdict(list)), **forms)
        write_text(tiny_persons / f"humanins/{kind}_{split}.json", json.dumps(content))
    return tiny_persons.parent


def test_every_config_reads_the_person_world(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LUMEN_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    asked = defaultdict(set)
    for name in ("lman_s1_nano", "lman_s2_nano", *EVALUATIONS):
        config = load_config(FOLDER / f"{name}.py", {}, tool_root=ROOT)
        for loader in filter(None, (config.get("train_dataloader"), config.get("test_dataloader"))):
            with DefaultScope.overwrite_default_scope("lumen"):
                settings = fill_pipelines(loader.dataset, ModelInputs((160, 160)))
                parts = [DATASETS.build(part) for part in settings.get("datasets", [settings])]
            for part in parts:
                sample = part[0]["data_samples"]
                asked[name] |= {prompt.task for prompt in sample.prompts}
                assert sample.prompts and "fault" not in sample, name
    tasks = {"detection", "pose", "semantic_segmentation", "counting", "attributes", "reid"}
    assert asked["lman_s2_nano"] == tasks | {"vqa"} and asked["lman_s1_nano"] == {"caption"}
    assert set.union(*(asked[name] for name in EVALUATIONS)) == tasks | {"vqa"}


def test_what_each_stage_trains(tiny_nano):
    def trained(name):
        config = load_config(FOLDER / f"{name}.py", {}, tool_root=ROOT)
        config.model.lmm.name_or_path = str(tiny_nano)
        with DefaultScope.overwrite_default_scope("lumen"):
            model = MODELS.build(config.model)
        for hook in config.custom_hooks:
            if "freeze" in hook:
                freeze_parameters(model, hook["freeze"], hook["trainable"])
        names = {n for n, p in model.named_parameters() if p.requires_grad}
        return names, {n for n, _ in model.named_parameters() if n.startswith("lmm.")}

    first, first_names = trained("lman_s1_nano")
    second, second_names = trained("lman_s2_nano")
    # The same names in both stages: no mapping is needed.
    assert first_names == second_names
    inside, tower = "lmm.base_model.model.multi_modal_projector.", "lmm.base_model.model.vision_tower."
    assert {name for name in first if not name.startswith(("heads.", tower, inside))} == set()
    assert {name for name in first_names if name.startswith(inside)} - first == {
        f"{inside}to_tokens.weight",
        f"{inside}to_tokens.bias",
    }
    assert second_names <= second


@pytest.mark.slow
def test_the_stages_follow_each_other_and_every_task_is_judged(data, tiny_nano, tmp_path, monkeypatch):
    monkeypatch.setenv("LUMEN_DATA", str(data))
    monkeypatch.chdir(tmp_path)

    def runner_of(name, **options):
        config = load_config(FOLDER / f"{name}.py", {}, tool_root=ROOT)
        config.model.lmm.name_or_path = str(tiny_nano)
        config.work_dir = str(tmp_path / name)
        config.merge_from_dict(options)
        return LumenRunner.from_cfg(config)

    short = {"train_cfg.max_iters": 2, "train_dataloader.batch_size": 8, "default_hooks.checkpoint.interval": 2}
    first = runner_of("lman_s1_nano", **short)
    first.train()
    learned = {name: value.detach().clone() for name, value in first.model.lmm.state_dict().items()}
    assert "retrieval/R@1" in first.test()
    second = runner_of("lman_s2_nano", **short | {"load_from.checkpoint": str(tmp_path / "lman_s1_nano/iter_2.pth")})
    second.load_or_resume()
    for name, value in second.model.lmm.state_dict().items():
        torch.testing.assert_close(value, learned[name], msg=name)
    second.train()
    headlines = {"attributes": "attributes/mA", "counting": "counting/MAE", "detection": "miss_rate/MR-2"}
    headlines |= {"parsing": "semantic/mIoU", "pose": "pose/PCK@0.1", "questions": "yes_no/accuracy"}
    headlines |= {"reid": "reid/rank_1"}
    assert sorted(f"lman_eval_{name}" for name in headlines) == EVALUATIONS
    for name, headline in headlines.items():
        figures = runner_of(f"lman_eval_{name}", load_from=str(tmp_path / "lman_s2_nano/iter_2.pth")).test()
        assert headline in figures, name
