"""u-LLaVA: what each stage trains, full size on a tiny model, a conversation."""

import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import make_images, make_sample
from mmengine.registry import DefaultScope
from PIL import Image
from test_sam import tiny_sam

from lumen.engine.check_config import load_config
from lumen.engine.hooks.freeze import freeze_parameters
from lumen.inference.chat import chat_about
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.generation import Continuation
from lumen.registry import MODELS
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "projects" / "ullava"
sys.path.append(str(FOLDER))  # as the tools do for the folder of a config

from ullava_samples import parse_tag  # noqa: E402


def trained_parts(model, config):
    """Return which parts of a model a config trains, without numbers and last names."""
    (hook,) = [hook for hook in config.custom_hooks if "freeze" in hook]
    freeze_parameters(model, hook["freeze"], hook.get("trainable", ()))
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    return {re.sub(r"\.\d+.*|\.(weight|bias)$", "", name) for name in names}


def built(config):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("lumen"):
        return MODELS.build(config.model)


LLM = {"lmm.base_model.model.language_model." + part for part in ("embed_tokens", "layers", "norm")}
CONNECTOR = {f"lmm.base_model.model.multi_modal_projector.linear_{number}" for number in (1, 2)}


def test_each_stage_of_nano_trains_its_parts_and_no_other(tiny_nano):
    first, second = (load_config(FOLDER / f"ullava_s{stage}_nano.py", tool_root=ROOT) for stage in (1, 2))
    for config in (first, second):
        config.model.lmm.name_or_path = str(tiny_nano)
    assert trained_parts(built(first), first) == CONNECTOR
    parts = trained_parts(built(second), second)
    lmm = {part for part in parts if part.startswith("lmm")}
    assert lmm <= LLM | CONNECTOR | {"lmm.base_model.lm_head"} and lmm >= LLM | CONNECTOR
    assert "aligner.projectors" in parts and "decoders.ullava.box.layers" in parts
    assert {"decoders.ullava.sam.mask_decoder.iou_token", "decoders.ullava.sam.to_image"} <= parts
    assert not any("iou_prediction_head" in part or "vision_tower" in part for part in parts)


def test_a_nano_that_sees_may_be_the_base(tiny_seeing):
    config = load_config(FOLDER / "ullava_s2_nano.py", tool_root=ROOT)
    config.model.lmm.name_or_path = str(tiny_seeing)
    shared = built(config)(
        make_images(1, (160, 160)), [make_sample([Prompt("Find the star.", "ullava")])], mode="tensor"
    )
    assert shared.stride == 8 and shared.slots["[SEG]"].shape == (1, 96)


def test_in_a_conversation_an_answer_gives_a_mask_a_box_and_a_tag(tiny_nano, tmp_path, capsys):
    config = load_config(FOLDER / "ullava_s2_nano.py", tool_root=ROOT)
    config.model.lmm.name_or_path = str(tiny_nano)
    predictor = LumenPredictor(built(config))
    writer, said = predictor.model.lmm.writer, " Sure. Mask: [SEG]; Location: [LOC]; [tag]star[/tag]."
    ids = writer.encoder.ids(said)
    writer.go_on = lambda runner, encoded, start, rows, bound: [
        [Continuation(ids, [1.0] * len(ids)) for _ in of_image] for of_image in rows
    ]
    image = predictor.image(make_images(1, (80, 120))[0].permute(1, 2, 0).numpy())
    reply = image.converse("Segment the star.")
    (table,) = (reply.tables[task] for task in reply.tables if task == "ullava")
    assert len(table) == 1 and parse_tag(table.texts[0].replace(" ", "")) == "star"
    assert table.masks[0]["size"] == [80, 120] and table.bboxes.shape == (1, 4)
    forced = image.predict(["Segment the star."], task="ullava")
    torch.testing.assert_close(table.region_corners, forced.region_corners, atol=120e-5, rtol=1e-5)
    Image.fromarray(make_images(1, (80, 120))[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    chat_about(predictor, tmp_path / "photo.png", ["Segment the star."], masks=tmp_path)
    assert "[tag]" in capsys.readouterr().out and (tmp_path / "photo_1_1.png").is_file()


@pytest.fixture(scope="module")
def full_size(repositories, tmp_path_factory):
    """Return a function that builds a config of full size on a tiny LLaVA and a tiny SAM."""
    torch.manual_seed(0)
    sam = tmp_path_factory.mktemp("sam")
    tiny_sam().save_pretrained(sam)

    def build(name):
        config = load_config(FOLDER / f"{name}.py", tool_root=ROOT)
        settings = config.model.to_dict()
        connector = settings["lmm"]["base"]["connector"]
        settings["lmm"] |= {"name_or_path": repositories("llava"), "base": {"connector": connector}}
        settings["lmm"]["readout"].update({"dense_hw": (32, 32)} if "dense_hw" in settings["lmm"]["readout"] else {})
        settings["aligner"]["channels"] = 16
        for decoder in settings["decoders"]:
            if "sam" in decoder:
                decoder["sam"]["name_or_path"] = str(sam)
        config.model = settings
        return config, built(config)

    return build


@pytest.mark.parametrize("name", ["ullava_s1_7b", "ullava_s2_7b", "ullava_heat_7b"])
def test_a_config_of_full_size_builds_and_has_losses(full_size, name):
    config, model = full_size(name)
    parts = trained_parts(model, config)
    assert any("multi_modal_projector" in part for part in parts) and not any("vision_tower" in part for part in parts)
    task = next(iter(model.decoders))
    sample = make_sample(
        [Prompt("a cat", task, answer="yes")], [[4, 4, 20, 20]] * (task != "chat"), [0] * (task != "chat")
    )
    if task == "ullava":
        sample.gt_instances.masks = torch.ones(1, 32, 32, dtype=torch.bool)
        assert {part for part in parts if part.startswith("decoders")} >= {
            "decoders.ullava.sam.mask_decoder.transformer.layers"
        }
    losses = model(make_images(1, model.inputs.input_hw), [sample], mode="loss")
    assert all(bool(loss.isfinite()) for loss in losses.values()) and sum(losses.values()).requires_grad
