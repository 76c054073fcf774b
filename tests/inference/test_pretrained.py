import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lumen.aligners.dense import DenseAligner
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views
from lumen.decoders.base import Decoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.segmentation import SegmentationDecoder
from lumen.errors import CheckpointError, ConfigError, PromptError
from lumen.inference.exported import files_of
from lumen.inference.predictor import LumenPredictor
from lumen.inference.pretrained import (
    decoder_config,
    fingerprint,
    from_pretrained,
    load_decoder,
    save_decoder,
    save_pretrained,
)
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.model import make_nano
from lumen.prompts import KNOWN_TASKS, TaskWording, Wordings
from lumen.registry import MODELS
from lumen.serialization.fingerprint import digest_tensors
from lumen.structures import TaskSpec

VIEWS = Views(
    ResizeToInput(input_hw=(64, 64), mode="stretch", pad_value=7),
    CropInstance(input_hw=(32, 64), padding=1.5),
    AskKeypoints(wording="{keypoint} here"),
)
PHRASES = ["star", "red ring"]
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
MASKS = {"type": SegmentationDecoder, "num_maps": 4}


class StrangerDecoder(Decoder):
    """A class that no registry knows."""

    spec = TaskSpec(
        name="stranger",
        targets=frozenset(),
        predictions=frozenset({"scores"}),
        headline="stranger/score",
        losses={"loss_nothing": "pairs"},
    )

    def loss(self, shared, samples):
        return {"loss_nothing": shared.query.sum() * 0}

    def predict(self, shared, samples):
        raise NotImplementedError


def config_of(nano, *decoders, **lmm):
    return {
        "type": "Lumen",
        "lmm": {
            "type": HFAdapter,
            "name_or_path": str(nano),
            "base": {"attention": "eager"},
            "readout": {"add_phrase_state": True},
            **lmm,
        },
        "aligner": {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        "decoders": [{"type": DetectionDecoder}, *decoders],
    }


def build(config, seed=0):
    torch.manual_seed(seed)
    return MODELS.build(config).eval()


def ask(model, task="detection"):
    predictor = LumenPredictor(model, input_hw=(64, 64), mode="stretch")
    predictor.set_image(IMAGE)
    return predictor.predict(PHRASES, task=task, score_threshold=0.0)


def check_equal(first, second):
    assert set(first.keys()) == set(second.keys())
    assert len(first) > 0
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, name


@pytest.fixture
def saved(tiny_nano, tmp_path):
    """Return a model with boxes and masks, and the folder of its mask decoder."""
    config = config_of(tiny_nano, MASKS)
    model = build(config)
    own = decoder_config(config, "segmentation")
    return model, save_decoder(model, "segmentation", tmp_path / "masks", config=own)


@pytest.fixture
def without_masks(tiny_nano, saved):
    """Return the same model without the mask decoder."""
    model = build(config_of(tiny_nano), seed=1)
    model.load_state_dict(saved[0].state_dict(), strict=False)
    return model


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_a_whole_model_answers_alike_after_the_round_trip(tiny_nano, tmp_path):
    config = config_of(tiny_nano, MASKS)
    model = build(config)
    save_pretrained(model, tmp_path / "out", config=config, views=VIEWS, classes=["star"], description={"iter": "5"})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "model.json", "model.safetensors"]
    predictor = LumenPredictor.from_pretrained(tmp_path / "out", device="cpu")
    assert predictor.input_hw == (64, 64) and predictor.classes == ("star",)
    assert predictor.description["iter"] == "5"
    loaded = from_pretrained(tmp_path / "out")
    assert (loaded.views.whole.mode, loaded.views.whole.pad_value) == ("stretch", 7)
    assert (loaded.views.crop.input_hw, loaded.views.crop.padding) == ((32, 64), 1.5)
    assert loaded.views.ask.wording == "{keypoint} here"
    for task in ("detection", "segmentation"):
        check_equal(ask(model, task), ask(loaded.model, task))


def test_a_whole_model_holds_only_what_differs_from_the_base(tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    model = build(config)
    model.lmm.requires_grad_(False)
    save_pretrained(model, tmp_path / "out", config=config, views=VIEWS)
    content = json.loads((tmp_path / "out" / "model.json").read_text())
    assert any(name.startswith("lmm.") for name in content["absent"])
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 10**6
    loaded = from_pretrained(tmp_path / "out").model
    assert torch.equal(
        loaded.lmm.base_model.get_input_embeddings().weight[:300],
        model.lmm.base_model.get_input_embeddings().weight[:300],
    )


def test_a_moved_base_model_is_named_by_the_caller(tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    save_pretrained(build(config), tmp_path / "out", config=config, views=VIEWS)
    edit(tmp_path / "out" / "model.json", lambda c: c["model"]["lmm"].update(name_or_path=str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match=r"base model .*gone.* cannot be read"):
        from_pretrained(tmp_path / "out")
    assert list(from_pretrained(tmp_path / "out", base_model=tiny_nano).model.decoders) == ["detection"]


def test_a_folder_alone_downloads_nothing(tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    save_pretrained(build(config), tmp_path / "out", config=config, views=VIEWS)
    edit(tmp_path / "out" / "model.json", lambda c: c["model"]["lmm"].update(name_or_path="somebody/model"))
    with pytest.raises(CheckpointError, match=r"which model.lmm.name_or_path names.*base_model='somebody/model'"):
        from_pretrained(tmp_path / "out")
    edit(tmp_path / "out" / "model.json", lambda c: c["model"].update(aligner={"sam": [{"name_or_path": "some/sam"}]}))
    with pytest.raises(CheckpointError, match=r"model.aligner.sam.0.name_or_path names.*model_ids=\['some/sam'\]"):
        from_pretrained(tmp_path / "out", base_model=tiny_nano)


def test_a_decoder_brings_its_task_and_leaves_the_others_alone(saved, without_masks):
    model, folder = saved
    boxes = ask(without_masks)
    assert load_decoder(without_masks, folder) == "segmentation"
    check_equal(ask(model, "segmentation"), ask(without_masks, "segmentation"))
    check_equal(boxes, ask(without_masks))
    assert without_masks.loss_counts == model.loss_counts
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10**6


def test_a_decoder_is_not_added_twice(saved):
    with pytest.raises(ConfigError, match="has a decoder for 'segmentation'"):
        load_decoder(saved[0], saved[1])


def test_another_aligner_is_refused(saved, without_masks):
    with torch.no_grad():
        without_masks.aligner.heat_bias += 1
    with pytest.raises(CheckpointError, match=r"another model\. aligner_digest: \w+ there, \w+ here\. Load"):
        load_decoder(without_masks, saved[1])
    assert list(without_masks.decoders) == ["detection"]


def test_another_lmm_is_refused(saved, without_masks):
    with torch.no_grad():
        without_masks.lmm.base_model.get_input_embeddings().weight += 1e-3
    with pytest.raises(CheckpointError, match=r"another model\. lmm_digest"):
        load_decoder(without_masks, saved[1])


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (
            {"tasks": [{"name": "pointing", "answer_format": "points", "routing_token": "[PTG]"}]},
            "special_tokens: .*PTG",
        ),
        ({"template": "paper"}, "template: compact there, paper here"),
        ({"readout": {"position": "before_loc"}}, "position: loc there, before_loc here"),
    ],
)
def test_another_way_of_asking_is_refused(tiny_nano, saved, option, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        load_decoder(build(config_of(tiny_nano, **option)), saved[1])


def test_another_base_of_a_whole_model_is_refused(tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    save_pretrained(build(config), tmp_path / "out", config=config, views=VIEWS)
    edit(tmp_path / "out" / "model.json", lambda c: c["description"].update(base_model="llava/clip"))
    with pytest.raises(CheckpointError, match="base_model: llava/clip there, llava/lumen_nano_vision here"):
        from_pretrained(tmp_path / "out")


def test_a_base_of_another_size_is_refused(tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    save_pretrained(build(config), tmp_path / "out", config=config, views=VIEWS)
    with pytest.raises(CheckpointError, match="other shape"):
        from_pretrained(tmp_path / "out", base_model=make_nano(tmp_path / "larger"))


def test_truncated_files_are_refused(saved, without_masks):
    truncate(saved[1] / "decoder.safetensors")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_decoder(without_masks, saved[1])
    truncate(saved[1] / "decoder.json")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_decoder(without_masks, saved[1])
    (saved[1] / "decoder.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no decoder: \['decoder.json'\] are missing"):
        load_decoder(without_masks, saved[1])


def test_a_flipped_byte_is_seen(saved, without_masks):
    path = saved[1] / "decoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        load_decoder(without_masks, saved[1])


def test_an_unknown_type_is_refused_and_nothing_is_imported(saved, without_masks):
    edit(saved[1] / "decoder.json", lambda content: content["decoder"].update(type="antigravity.Decoder"))
    with pytest.raises(CheckpointError, match=r"decoder.type is 'antigravity.Decoder', which is not registered"):
        load_decoder(without_masks, saved[1])


def test_the_decoders_of_a_folder_are_bounded(tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    save_pretrained(build(config), tmp_path / "out", config=config, views=VIEWS)
    edit(tmp_path / "out" / "model.json", lambda content: content["model"].update(decoders=[{}] * 1001))
    with pytest.raises(CheckpointError, match="names 1001 decoders, the limit is 1000"):
        from_pretrained(tmp_path / "out")


def test_a_decoder_that_fits_nothing_is_refused(saved, without_masks):
    edit(saved[1] / "decoder.json", lambda content: content.update(fits=None))
    with pytest.raises(CheckpointError, match="does not tell which model"):
        load_decoder(without_masks, saved[1])


@pytest.mark.parametrize("kind", [torch.complex64, torch.int8])
def test_weights_of_another_kind_are_not_cast(saved, without_masks, kind):
    path = saved[1] / "decoder.safetensors"
    state = {name: value.to(kind) for name, value in load_file(path).items()}
    save_file(state, path)
    edit(saved[1] / "decoder.json", lambda content: content.update(digest=digest_tensors(state)))
    with pytest.raises(CheckpointError, match="other numbers"):
        load_decoder(without_masks, saved[1])


def test_a_base_with_a_link_that_leads_out_is_not_copied(tmp_path):
    base, cache = tmp_path / "base", tmp_path / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    base.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (base / "notes.txt").symlink_to("../secret.txt")
    with pytest.raises(ConfigError, match=r"notes\.txt is a link to .*secret\.txt, outside of"):
        files_of(base, ["*.json", "*.txt"])
    (cache / "blobs" / "0123").write_text("{}")
    (cache / "snapshots" / "abc" / "config.json").symlink_to("../../blobs/0123")
    assert [file.name for file in files_of(cache / "snapshots" / "abc", ["*.json"])] == ["config.json"]


def test_a_stranger_is_built_only_when_the_caller_names_it(tiny_nano, tmp_path):
    wording = {"name": "stranger", "answer_format": "points", "routing_token": "[DET]"}
    config = config_of(tiny_nano, {"type": StrangerDecoder}, tasks=[wording])
    save_pretrained(build(config), tmp_path / "out", config=config, views=VIEWS)
    with pytest.raises(CheckpointError, match="StrangerDecoder', which is not registered"):
        from_pretrained(tmp_path / "out")
    assert list(from_pretrained(tmp_path / "out", types=[StrangerDecoder]).model.decoders) == ["detection", "stranger"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"from {StrangerDecoder.__module__} import StrangerDecoder" in card
    assert 'from_pretrained("FOLDER", types=[StrangerDecoder])' in card


def test_a_decoder_brings_the_wording_of_a_new_task(tiny_nano, tmp_path):
    wording = {"name": "stranger", "answer_format": "points", "routing_token": "[DET]"}
    model = build(config_of(tiny_nano, {"type": StrangerDecoder}, tasks=[wording]))
    save_decoder(model, "stranger", tmp_path / "out", config={"type": StrangerDecoder}, stage="joint")
    other = build(config_of(tiny_nano), seed=1)
    other.load_state_dict(model.state_dict(), strict=False)
    assert load_decoder(other, tmp_path / "out", types=[StrangerDecoder]) == "stranger"
    assert other.lmm.wording_of("stranger").answer_format == "points"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "stage: `joint`" in card and 'load_decoder(predictor.model, "FOLDER", types=[StrangerDecoder])' in card


def test_a_new_wording_needs_known_tokens_and_a_free_name():
    wordings = Wordings()
    assert wordings.with_task(KNOWN_TASKS[0]) is wordings
    with pytest.raises(PromptError, match=r"\[NEW\].*never learned"):
        wordings.with_task(TaskWording("new", "points", "[NEW]"))
    with pytest.raises(PromptError, match="'detection' is known as"):
        wordings.with_task(TaskWording("detection", "points", "[DET]"))


def test_a_folder_in_use_is_left_alone(saved):
    model, folder = saved
    with pytest.raises(CheckpointError, match="exists: remove it"):
        save_decoder(model, "segmentation", folder, config=MASKS)


def test_configs_that_do_not_fit_are_refused(saved, tmp_path):
    model, _ = saved
    with pytest.raises(ConfigError, match="no decoder for 'pose'"):
        save_decoder(model, "pose", tmp_path / "a", config=MASKS)
    with pytest.raises(ConfigError, match=r"the config names 'lumen.decoders.detection"):
        save_decoder(model, "segmentation", tmp_path / "a", config={"type": "DetectionDecoder"})
    with pytest.raises(ConfigError, match=r"decoder.num_maps is a function"):
        save_decoder(model, "segmentation", tmp_path / "a", config={**MASKS, "num_maps": truncate})
    with pytest.raises(ConfigError, match="no decoder for 'pose'"):
        decoder_config({"decoders": [MASKS]}, "pose")


def test_the_card_shows_the_figures_of_a_protocol(saved, tmp_path):
    card = {"figures": {"coco/segm_mAP": 0.51234}, "dataset": "val.json", "dtype": "bfloat16", "num_images": 300}
    folder = save_decoder(saved[0], "segmentation", tmp_path / "out", config=MASKS, card=card)
    text = (folder / "README.md").read_text()
    assert "| coco/segm_mAP | 0.5123 |" in text and "- dataset: `val.json`" in text
    assert f"- aligner_digest: `{fingerprint(saved[0])['aligner_digest']}`" in text
    plain = (saved[1] / "README.md").read_text()
    assert "No figures" in plain and "types=" not in plain
