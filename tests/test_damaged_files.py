"""Damaged files and texts that once gave other errors than those of Lumen, each made by hand."""

import json
import os
import resource
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.data.annotations import parse_json
from lumen.data.image import read_image
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.refer_files import load_plain_pickle
from lumen.engine.check_config import parse_overrides
from lumen.errors import CheckpointError, ConfigError, DataError, LumenError, PromptError
from lumen.inference.labelling.job import Job, Survey, open_job, part_path, read_counts, survey, write_part
from lumen.inference.labelling.merge import merge_parts
from lumen.inference.labelling.pictures import Picture, list_pictures
from lumen.lmm.adapter import HFAdapter
from lumen.metrics.coco.ground_truth import add_verified, read_ground_truth
from lumen.metrics.pose_ground_truth import read_pose_truth
from lumen.metrics.refer_answers import Answers
from lumen.ops.masks import mask_area, read_label_map, segmentation_to_rle
from lumen.prompts import read_template
from lumen.serialization.checkpoint import load_checkpoint, load_newest, load_trained_state, save_checkpoint
from lumen.serialization.feature_cache import MANIFEST, CacheWriter, FeatureCache
from lumen.serving.label_studio import read_labels, read_source
from lumen.serving.limits import Limits
from lumen.visualization import save_png


def test_a_checkpoint_whose_table_of_contents_is_no_text_falls_back_to_the_one_before(tmp_path):
    for number in (1, 2):
        save_checkpoint(tmp_path / f"iter_{number}.pth", {"state_dict": {"a": torch.ones(1)}, "meta": {}})
    content = bytearray((tmp_path / "iter_2.pth").read_bytes())
    entry = content.index(b"PK\1\2")  # of the central directory; its name starts at 46, its flags at 8
    content[entry + 46] = 0xFF
    content[entry + 9] |= 0x08  # the name is UTF-8
    (tmp_path / "iter_2.pth").write_bytes(content)
    warnings = []
    assert load_newest(tmp_path, warnings.append)[0].name == "iter_1.pth"
    assert "is not a whole checkpoint" in warnings[0]


def test_a_member_of_a_shard_that_states_eight_gigabytes_is_refused(tmp_path):
    entry = tarfile.TarInfo("a.png")
    entry.size = 8 * 2**30
    (tmp_path / "a.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    picture = next(list_pictures(tmp_path / "a.tar"))  # the end of the shard, which is missing, is never reached
    with pytest.raises(DataError, match="cannot be read"):
        picture.read()


def test_a_pipe_is_not_read_as_json(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(DataError, match="not a file"):
        parse_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "read", [read_ground_truth, read_pose_truth, load_plain_pickle, read_label_map, load_checkpoint, read_image]
)
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(LumenError, match=r"not a file|there is no checkpoint"):
        read(tmp_path / "a")


def test_a_pipe_of_detections_is_not_waited_for(tmp_path):
    content = {"images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}], "annotations": []}
    content["categories"] = [{"id": 1, "name": "star", "keypoints": ["top"]}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    os.mkfifo(tmp_path / "b.json")
    with pytest.raises(DataError, match="not a file"):
        CocoKeypointsDataset(ann_file=str(tmp_path / "a.json"), detections=str(tmp_path / "b.json"), test_mode=True)


def test_a_label_map_that_states_billions_of_pixels_is_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a PNG"):
        read_label_map(tmp_path / "a.png")


def test_outlines_far_longer_than_an_image_are_refused():
    star = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
    assert mask_area(segmentation_to_rle(star, (8, 8))) > 0
    with pytest.raises(DataError, match="outlines are 4000 pixels long, the limit for this image is 3200"):
        segmentation_to_rle([[-500.0, 0.0, 500.0, 0.0] * 2], (8, 8))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("absent", 5, "'meta.absent' is not a list of names"),
        ("absent", [["a"]], "'meta.absent' is not a list of names"),
        ("model", ["a"], "'meta.model' is a list, expected a dict"),
        ("own", torch.eye(2).to_sparse(), "meta.own is not a plain tensor"),
    ],
)
def test_checkpoints_with_other_contents_are_refused(tmp_path, place, value, message):
    torch.save({"state_dict": {}, "meta": {place: value}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.pth")


def test_a_list_that_doubles_or_holds_itself_is_read_once(tmp_path):
    doubled = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    doubled.append(doubled)
    torch.save({"state_dict": {}, "meta": {"a": doubled}}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth")["state_dict"] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight * float("nan"), "not finite: weight"),
        (lambda weight: weight.double() * 1e300, "not finite: weight"),
        (lambda weight: weight.to(torch.complex64), "weight torch.complex64 against torch.float32 here"),
        (lambda weight: weight > 0, "weight torch.bool against torch.float32 here"),
    ],
)
def test_weights_that_would_be_loaded_as_something_else_are_refused(change, message):
    model = torch.nn.Linear(2, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    load_trained_state(model, {"state_dict": {**state, "weight": state["weight"].half()}, "meta": {}})
    with pytest.raises(CheckpointError, match=message):
        load_trained_state(model, {"state_dict": {**state, "weight": change(state["weight"])}, "meta": {}})


def test_a_box_of_two_numbers_is_no_ground_truth(tmp_path):
    content = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2]}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="has not four numbers"):
        read_ground_truth(tmp_path / "a.json")


def test_a_cache_cannot_have_more_images_than_shards_hold(tmp_path):
    with CacheWriter(tmp_path / "cache", images_per_shard=2) as writer:
        writer.finish(weights={"a": torch.ones(1)}, data={}, model={})
    manifest = tmp_path / "cache" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"num_images": 10**30}))
    with pytest.raises(DataError, match="name more than 1 shards"):
        FeatureCache(tmp_path / "cache")


@pytest.mark.parametrize("damage", [b"", b"\xff\n", b"[]\n{}\n", b'{"pictures": 1}\n{"file": "a.jpg"}\n'])
def test_damaged_parts_of_a_job_are_named(tmp_path, damage):
    pictures = survey(lambda: [Picture("a.jpg", "a.jpg")], "photos")
    open_job(tmp_path, Job("photos", pictures, ("star",), "detection", None, {}, has_masks=False, part_size=1))
    write_part(tmp_path, 0, [{"file": "a.jpg", "height": 4, "width": 4, "labels": [], "scores": [], "bboxes": []}])
    assert merge_parts(tmp_path, ["coco"])["pictures"] == 1
    part_path(tmp_path, 0).write_bytes(damage)
    with pytest.raises(DataError, match=r"000000\.jsonl cannot be read"):
        merge_parts(tmp_path, ["coco"])
    with pytest.raises(DataError, match="remove it, and label again"):
        read_counts(tmp_path, 0)
    assert not (tmp_path / "summary.json").exists()


def test_a_job_that_names_any_number_of_pictures_is_not_counted_through(tmp_path):
    pictures = Survey(num_pictures=2**53, digest="ab", same_stem=None)
    open_job(tmp_path, Job("photos", pictures, ("star",), "detection", None, {}, has_masks=False, part_size=1))
    with pytest.raises(DataError, match=f"{2**53} of {2**53} parts in .* are missing"):
        merge_parts(tmp_path, ["coco"])


@pytest.mark.parametrize(("place", "value"), [(10, 99), (8, 1)], ids=["unknown compression", "encrypted"])
def test_answers_that_cannot_be_unpacked_are_refused(tmp_path, place, value):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros(3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"PK\1\2") + place] = value
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="holds no answers"):
        Answers.load(tmp_path / "a.npz")


def test_a_frequency_that_is_a_list_is_refused():
    content = {"images": [], "categories": [{"id": 1, "frequency": []}]}
    with pytest.raises(DataError, match=r"frequency must be one of .*, got \['\[\]'\]"):
        add_verified({"images": [], "categories": [{"id": 1}]}, content, "a.json")


def test_an_option_of_two_lines_is_refused():
    with pytest.raises(ConfigError, match="write it in one line"):
        parse_overrides(["a.b=[1,\r\n2]2]"])


def test_slots_of_a_template_are_a_list():
    parts = {"name": "own", "before": "Find", "after": "[LOC]", "answer": ""}
    assert read_template(parts).slots == ("[LOC]",)
    with pytest.raises(PromptError, match="must be lists of texts, got"):
        read_template(parts | {"slots": "[LOC]"})


def test_texts_of_label_studio_may_hold_anything(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as XML"):
        read_labels("<View>\ud83d</View>")
    with pytest.raises(DataError, match="is not an address"):
        read_source("http://[/data/local-files/?d=a.png", tmp_path, Limits())


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_config", {"num_hidden_layers": 10**6}, "num_hidden_layers=1000000, of which 10000 are the most"),
        ("text_config", {"intermediate_size": 10**8}, "describes a model of [0-9]+ numbers, its weights have"),
        ("text_config", {"num_attention_heads": 0}, "describes no model"),
        ("text_config", {"num_hidden_layers": "two"}, "describes no model"),
        (
            "vision_config",
            {"stem_depths": [0, 10**30, 1]},
            "stem_depths=1000000000000000000000000000000, of which 10000",
        ),
        ("vision_config", {"patch_size": 1e308}, r"patch_size .*must be a whole number of pixels, got 1e\+308"),
    ],
)
def test_a_base_whose_config_no_model_can_have_is_refused(tiny_nano, tmp_path, part, change, message):
    for file in tiny_nano.iterdir():
        os.link(file, tmp_path / file.name)
    content = json.loads((tmp_path / "config.json").read_text())
    content[part] |= change
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises((CheckpointError, ConfigError), match=message):
        HFAdapter(str(tmp_path), base={"attention": "eager"})


@pytest.mark.parametrize("room", [100, 3000])
def test_pictures_on_a_full_disk_are_whole_or_an_error(tmp_path, room):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    save_png(tmp_path / "old.png", noise)
    before = (tmp_path / "old.png").read_bytes()

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        save_png(tmp_path / "old.png", 255 - noise)

    pid = os.fork()
    if pid == 0:
        try:
            save()
        except OSError:
            os._exit(3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"] and (tmp_path / "old.png").read_bytes() == before
