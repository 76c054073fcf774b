"""Clips: which frames are taken, what cannot be read, and that geometry treats them as one."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.data.check import UNREADABLE
from lumen.data.check_other import check_data
from lumen.data.clips import LoadClip, choose_frames, clip_problem, read_clip
from lumen.data.image import render_image
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import BlackenImage, PackSample, Photometric, ResizeToInput
from lumen.engine.hooks.check_images import CheckImagesHook
from lumen.errors import ConfigError, DataError
from lumen.ops.geometry import InputTransform

LEVELS = (10, 50, 90, 130, 170, 210)


def frame(level, size_hw=(20, 30)):
    """Return a grey frame with a white square at its top left."""
    image = np.full((*size_hw, 3), level, dtype=np.uint8)
    image[:8, :8] = 255
    return image


def save(path, levels, *, durations=100, **options):
    first, *others = (Image.fromarray(frame(level)) for level in levels)
    first.save(path, save_all=True, append_images=others, duration=durations, **options)
    return path


def save_folder(folder, levels):
    folder.mkdir()
    for number, level in enumerate(levels):
        Image.fromarray(frame(level)).save(folder / f"frame_{number + 8}.png")  # 8, 9, 10, ...
    return folder


def levels_of(clip):
    return clip[:, -1, -1, 0].tolist()


def record(path, **further):
    return {"img_path": str(path), "img_root": str(path.parent), "ori_hw": (20, 30), **further}


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "folder"])
def test_a_clip_has_its_frames_in_order(tmp_path, kind):
    if kind == "folder":
        path = save_folder(tmp_path / "clip", LEVELS)
    else:
        path = save(tmp_path / f"clip.{kind}", LEVELS, **({"lossless": True} if kind == "webp" else {}))
    clip = read_clip(path, 6)
    assert (clip.shape, clip.dtype) == ((6, 20, 30, 3), np.uint8)
    assert levels_of(clip) == list(LEVELS)
    assert levels_of(read_clip(path, 3)) == [50, 130, 210]
    assert levels_of(read_clip(path, 1)) == [130]


def test_a_picture_that_stays_counts_for_its_time_though_a_file_stores_it_once(tmp_path):
    path = save(tmp_path / "clip.webp", [10] * 3 + [50] * 5, durations=125, lossless=True)
    with Image.open(path) as stored:
        assert stored.n_frames == 2
    assert levels_of(read_clip(path, 8)) == [10] * 3 + [50] * 5


def test_a_short_clip_is_filled_with_its_own_frames(tmp_path):
    path = save_folder(tmp_path / "clip", LEVELS[:3])
    assert levels_of(read_clip(path, 6)) == [10, 10, 50, 50, 90, 90]
    Image.fromarray(frame(10)).save(tmp_path / "still.png")
    assert levels_of(read_clip(tmp_path / "still.png", 4)) == [10] * 4


def test_frames_are_drawn_from_head_and_tail():
    np.random.seed(0)
    for _ in range(50):
        chosen = choose_frames([1.0] * 20, 5, "head_tail")
        assert (chosen[:2] < 10).all() and (chosen[2:] >= 10).all() and (np.diff(chosen) >= 0).all()
        assert chosen.max() < 20
    assert choose_frames([3, 1, 4], 8).tolist() == [0, 0, 0, 1, 2, 2, 2, 2]


def test_a_clip_that_cannot_be_used_is_told(tmp_path):
    sound = save(tmp_path / "sound.gif", LEVELS)
    (tmp_path / "broken.gif").write_bytes(sound.read_bytes()[:60])
    (tmp_path / "empty").mkdir()
    mixed = save_folder(tmp_path / "mixed", LEVELS[:2])
    Image.fromarray(frame(10, (20, 31))).save(mixed / "frame_99.png")
    for path, message in (
        (tmp_path / "gone.gif", "cannot be read"),
        (tmp_path / "broken.gif", "cannot be read"),
        (tmp_path / "empty", "1 to 10000 frames, got 0"),
        (mixed, "the frames of a clip have one size"),
    ):
        with pytest.raises(DataError, match=message):
            read_clip(path, 3)
    assert clip_problem(sound, tmp_path, (20, 30), decode=True) is None
    assert clip_problem(sound, tmp_path, (20, 31)) == "clip has another size than its entry"
    assert clip_problem(mixed, tmp_path, (20, 30)) is None
    assert clip_problem(mixed, tmp_path, (20, 30), decode=True) == UNREADABLE
    assert clip_problem(tmp_path / "gone.gif", tmp_path, None) == "clip is missing"
    assert clip_problem(sound, tmp_path / "empty", None) == "clip leaves the image folder"
    with pytest.raises(DataError, match="leaves the folder"):
        read_clip(sound, 3, root=tmp_path / "empty")


def test_a_video_needs_av(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="needs the package av"):
        read_clip(tmp_path / "clip.mp4", 8)


def test_an_unusable_clip_is_an_error_in_training_and_grey_in_a_test(tmp_path):
    load = LoadClip(frames=3)
    assert levels_of(load(record(save(tmp_path / "a.gif", LEVELS)))["image"]) == [50, 130, 210]
    folder = save_folder(tmp_path / "clip", LEVELS[:3])
    (folder / "frame_9.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"frame_9\.png"):
        load(record(folder))
    results = load(record(folder, test_mode=True))
    assert "frame_9.png" in results["fault"]
    assert results["image"].shape == (3, 20, 30, 3) and results["ori_hw"] == (20, 30)
    with pytest.raises(DataError, match=r"its annotation \(20, 31\)"):
        load({**record(tmp_path / "a.gif"), "ori_hw": (20, 31)})
    assert load({**record(tmp_path / "a.gif"), "ori_hw": None})["ori_hw"] == (20, 30)


@pytest.mark.parametrize("options", [{"frames": 0}, {"sampling": "middle"}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(ConfigError, match="LoadClip"):
        LoadClip(**options)


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_frames_are_drawn_where_a_single_image_would_be():
    clip = np.stack([frame(level) for level in LEVELS])
    for transform in (
        InputTransform.letterbox((20, 30), (32, 32)),
        InputTransform.letterbox((20, 30), (32, 32)).flip_horizontal(),
    ):
        drawn = render_image(clip, transform)
        assert drawn.shape == (6, 32, 32, 3)
        for number, each in enumerate(clip):
            assert np.array_equal(drawn[number], render_image(each, transform))


def test_a_clip_is_flipped_and_coloured_as_one(tmp_path):
    np.random.seed(1)
    path = save(tmp_path / "clip.gif", [90] * 4 + [130] * 4)
    rows = {key: np.zeros(0) for key in ("labels", "is_ignored", "ann_ids")}
    instances = {"bboxes": np.zeros((0, 4), dtype=np.float32), **rows}
    resize, photometric = ResizeToInput(input_hw=(32, 48), flip_probability=0.5, scale_range=(0.8, 1.2)), Photometric()
    corners = set()
    for _ in range(12):
        results = LoadClip(frames=8)({**record(path), "instances": {**instances, "is_ignored": rows["labels"] > 0}})
        clip = photometric(resize(results))["image"]
        assert clip.shape == (8, 32, 48, 3)
        assert all(np.array_equal(each, clip[0]) for each in clip[1:4])
        assert all(np.array_equal(each, clip[4]) for each in clip[5:])
        corners.add(results["frame"].scale_xy[0] > 0)
    assert corners == {True, False}
    assert not BlackenImage()({"image": clip})["image"].any()


def test_a_clip_is_packed_with_its_frames_first():
    clip = np.random.default_rng(0).integers(0, 256, (4, 16, 32, 3), dtype=np.uint8)
    tables = {name: {"bboxes": torch.zeros(0, 4)} for name in ("gt_instances", "ignored_instances")}
    known = {
        "prompts": (),
        "classes": (),
        "img_id": 0,
        "img_path": "",
        "frame": InputTransform.letterbox((16, 32), (16, 32)),
    }
    packed = PackSample()({"image": clip, **tables, **known})["inputs"]
    assert packed.is_contiguous() and packed.shape == (4, 3, 16, 32)
    assert torch.equal(packed[2, 1], torch.from_numpy(clip[2, :, :, 1]))


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs av, of the extra 'video'")
def test_a_video_is_read(tmp_path):
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height = 64, 48
        for level in LEVELS:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(level, (48, 64)), format="rgb24")))
        container.mux(stream.encode())
    clip = read_clip(path, 6)
    assert clip.shape == (6, 48, 64, 3)
    assert np.abs(np.array(levels_of(clip)) - LEVELS).max() <= 6
    assert np.abs(np.array(levels_of(read_clip(path, 3))) - [50, 130, 210]).max() <= 6
    assert len(read_clip(path, 12)) == 12
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as a video"):
        read_clip(path, 3)


# --- data sets of clips -----------------------------------------------------------------------------------------------


def clips_of(tmp_path, names, **options):
    """Return a data set of one caption per clip."""
    images = [{"id": number, "file_name": name, "width": 30, "height": 20} for number, name in enumerate(names)]
    captions = [{"image_id": number, "caption": "a star appears"} for number in range(len(names))]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    pipeline = [LoadClip(frames=3), ResizeToInput(input_hw=(32, 32)), AskQuestions(task="caption"), PackSample()]
    shared = {"ann_file": str(tmp_path / "captions.json"), "data_prefix": {"img": str(tmp_path)}}
    return QuestionsDataset(**shared, layout="captions", pipeline=pipeline, **options)


def test_unusable_clips_are_found_before_a_run_and_counted_in_it(tmp_path):
    save(tmp_path / "a.gif", LEVELS)
    (save_folder(tmp_path / "b", LEVELS[:3]) / "frame_8.png").write_bytes(b"no picture")
    save_folder(tmp_path / "c", LEVELS[:3])
    (tmp_path / "c" / "frame_9.png").write_bytes(b"no picture")
    names = ["a.gif", "b", "c"]
    strict, lenient = clips_of(tmp_path, names), clips_of(tmp_path, names, skip_budget=0.9)
    with pytest.raises(DataError, match="1 of 3 images cannot be used") as found:
        CheckImagesHook()._check({"train": strict})
    assert str(tmp_path / "b") in str(found.value)
    with pytest.raises(DataError, match="2 of 3 images cannot be used"):
        CheckImagesHook(decode=True)._check({"train": strict})
    assert lenient[1]["data_samples"].img_id == 0  # the next one that can be used
    assert lenient.report == {"image cannot be used": [1, 2]}
    assert check_data(tmp_path / "captions.json", tmp_path) == {UNREADABLE: ["b"]}
    tested = [clips_of(tmp_path, names, test_mode=True)[number]["data_samples"] for number in range(3)]
    assert ["fault" in sample for sample in tested] == [False, True, True]
