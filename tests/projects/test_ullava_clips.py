"""u-LLaVA's clips: the connector, the generator, what hides the order of frames, and the configs."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import adapter_options, make_images, make_sample, relative_difference

from lumen.aligners.dense import DenseAligner
from lumen.aligners.slots import SlotAligner
from lumen.data.clips import LoadClip, read_clip
from lumen.data.shapes import draw_scene
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.transforms import PackSample, ResizeToInput
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.text import VqaDecoder
from lumen.engine.check_config import load_config
from lumen.errors import ConfigError, DataError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.connectors import LinearConnector
from lumen.model import Lumen
from lumen.structures import Prompt

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "projects" / "ullava"
sys.path.append(str(FOLDER))  # as the tools do for the folder of a config

from ullava_clips import KINDS, NUM_FRAMES, ORDERS, TIMES, OrderFrames, draw_clip, make_clips  # noqa: E402
from ullava_connector import ClipConnector  # noqa: E402

QUESTION = Prompt("does the red star appear or disappear?", "vqa", answer="appear")


# --- the connector ----------------------------------------------------------------------------------------------------


def test_a_clip_gives_the_mean_of_each_frame_and_then_the_mean_of_each_cell():
    connector = ClipConnector(1, 1)
    with torch.no_grad():
        connector.linear.weight.fill_(2.0)
        connector.linear.bias.fill_(1.0)
    cells = torch.arange(6.0).view(1, 2, 3, 1)  # two frames of three cells: 0 1 2 and 3 4 5
    assert connector([cells], (1, 3)).flatten().tolist() == [2 * mean + 1 for mean in (1, 4, 1.5, 2.5, 3.5)]
    assert connector([cells[:, 0]], (1, 3)).flatten().tolist() == [1, 3, 5]


def test_8_frames_of_256_cells_are_264_tokens():
    connector = ClipConnector(4, 6)
    assert connector.num_clip_tokens((16, 16), 8) == 264 and connector.num_tokens((16, 16)) == 256
    assert connector([torch.randn(2, 8, 256, 4)], (16, 16)).shape == (2, 264, 6)
    assert ClipConnector(4, 6, parts=["space"]).num_clip_tokens((16, 16), 8) == 256
    time = ClipConnector(4, 6, parts=["time"])
    assert time.num_clip_tokens((16, 16), 8) == 8 and "time" in time.extra_repr()
    for parts in ((), ("place",)):
        with pytest.raises(ConfigError, match="must be some of"):
            ClipConnector(4, 6, parts=parts)


def test_tokens_of_space_forget_the_order_of_frames_and_tokens_of_time_do_not():
    torch.manual_seed(0)
    connector, clip = ClipConnector(3, 5), torch.randn(1, 4, 6, 3)
    order = torch.tensor([2, 0, 3, 1])
    kept, moved = connector([clip], (2, 3)), connector([clip[:, order]], (2, 3))
    torch.testing.assert_close(moved[:, 4:], kept[:, 4:])
    torch.testing.assert_close(moved[:, :4], kept[:, order])
    assert not torch.allclose(moved[:, :4], kept[:, :4])


# --- in the LMM -------------------------------------------------------------------------------------------------------


def make_clip_batch(num_clips=2, frames=3):
    return make_images(num_clips * frames, (64, 64)).unflatten(0, (num_clips, frames))


@pytest.fixture
def make_clip_adapter(tiny_nano):
    def make(**options):
        torch.manual_seed(0)
        options = {"attention": "eager", "connector": {"type": ClipConnector}, **options}
        return HFAdapter(str(tiny_nano), **adapter_options(**options)).eval()

    return make


def test_the_llm_sees_the_tokens_of_the_connector_and_dense_features_are_means(make_clip_adapter):
    adapter, clips = make_clip_adapter(), make_clip_batch()
    with torch.no_grad():
        encoded = adapter.encode_images(clips)
        features = adapter(clips, [[Prompt("star")], []])
        frames = adapter(clips.flatten(0, 1), [[]] * 6)
    assert encoded.image_text.count("<image>") == 3 + 16 == len(encoded.states.pooler_output[0])
    torch.testing.assert_close(features.grid, frames.grid.unflatten(0, (2, 3)).mean(1))
    for lateral, of_frames in zip(features.laterals, frames.laterals, strict=True):
        torch.testing.assert_close(lateral, of_frames.unflatten(0, (2, 3)).mean(1))


def test_a_batch_of_clips_equals_single_ones_and_packed_equals_separate(make_clip_adapter):
    clips, phrases = make_clip_batch(), [Prompt("star"), Prompt("a red ring")]
    with torch.no_grad():
        both = make_clip_adapter()(clips, [phrases, phrases]).query
        for number in range(2):
            alone = make_clip_adapter(mode="separate")(clips[number : number + 1], [phrases]).query
            assert relative_difference(both[2 * number : 2 * number + 2], alone) <= 1e-5


def test_the_order_of_frames_counts_unless_only_tokens_of_space_are_given(make_clip_adapter):
    clips = make_clip_batch(1)
    for parts, is_equal in ((("time", "space"), False), (("space",), True)):
        adapter = make_clip_adapter(connector={"type": ClipConnector, "parts": parts})
        with torch.no_grad():
            kept, back = (adapter(given, [[Prompt("star")]]).query for given in (clips, clips.flip(1)))
        assert (relative_difference(back, kept) <= 1e-5) is is_equal


def test_answers_about_clips_are_written_and_learned(make_clip_adapter):
    adapter, clips = make_clip_adapter(max_new_tokens=4), make_clip_batch()
    loss = adapter(clips, [[QUESTION], [QUESTION]]).text_losses["loss_text"]
    loss.backward()
    assert adapter.base_model.model.multi_modal_projector.linear.weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert len(adapter.generate(adapter.encode_images(clips), [[QUESTION], []])[0]) == 1


@pytest.mark.parametrize(
    "options", [{"connector": None}, {"connector": {"type": LinearConnector}}, {"features": "llm"}, {"name_tokens": 2}]
)
def test_clips_need_a_connector_for_them_and_no_grid_of_tokens(make_clip_adapter, options):
    with pytest.raises(ConfigError, match=r"the samples are clips, \(2, 3, 3, 64, 64\)"):
        make_clip_adapter(**options).encode_images(make_clip_batch())


def test_a_batch_is_of_one_kind(make_clip_adapter):
    model = Lumen(make_clip_adapter(), {"type": SlotAligner}, [{"type": VqaDecoder}])
    samples = [make_sample([QUESTION]), make_sample([QUESTION])]
    assert bool(model(list(make_clip_batch()), samples, mode="loss")["lmm/loss_text"].isfinite())
    with pytest.raises(DataError, match="set run of MixtureSampler"):
        model([make_images(1, (64, 64))[0], make_clip_batch(1)[0]], samples, mode="loss")


def test_decoders_that_read_single_images_refuse_clips(make_clip_adapter, monkeypatch):
    monkeypatch.setattr(DetectionDecoder, "spec", replace(DetectionDecoder.spec, extras=frozenset({"images"})))
    model = Lumen(make_clip_adapter(), {"type": DenseAligner, "channels": 32}, [{"type": DetectionDecoder}])
    with pytest.raises(ConfigError, match="read single images, got clips of 3 frames"):
        model(list(make_clip_batch(1)), [make_sample(["star"])])


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with clips of few events."""
    out = tmp_path_factory.mktemp("data") / "clips"
    make_clips(out, {"train": 8, "val": 0, "test": 4}, seed=0)
    return out


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_generator_gives_the_same_files_again(data, tmp_path):
    make_clips(tmp_path / "again", {"train": 8, "val": 0, "test": 4}, seed=0)
    assert files_of(data) == files_of(tmp_path / "again")
    with pytest.raises(DataError, match="exists: remove it"):
        make_clips(tmp_path / "again", {"train": 1})
    assert not np.array_equal(draw_clip(1, "train", 0)[0], draw_clip(0, "train", 0)[0])


def test_one_shape_changes_at_the_time_of_the_event_and_nothing_else():
    for index in range(4):
        clip, event = draw_clip(0, "train", index)
        assert event.kind == KINDS[index] and clip.shape == (NUM_FRAMES, 160, 160, 3)
        is_change = [not np.array_equal(first, second) for first, second in pairwise(clip)]
        assert np.flatnonzero(is_change).tolist() == [event.time - 1]
        rows, cols = np.nonzero((clip[0] != clip[-1]).any(-1))
        reach = 0.75 * max(event.sides) + 1
        assert abs(cols - event.centre[0]).max() <= reach and abs(rows - event.centre[1]).max() <= reach
        before, after = event.sides
        assert (before < after) is (event.kind in ("appear", "grow")) and (min(before, after) > 0) is (index >= 2)
    scene, objects = draw_scene(0, "train", 0)
    clip, event = draw_clip(0, "train", 0)
    assert np.array_equal(clip[0], scene)
    assert (event.colour, event.category) not in {(item.colour, item.category) for item in objects}


def test_no_frame_in_the_middle_and_no_number_of_frames_tells_the_kind():
    """Of each kind, the later state is the longer one, and the one in the middle, in half of the clips."""
    assert len(TIMES) % 2 == 0 and sorted(NUM_FRAMES - time for time in TIMES) == list(TIMES)
    for middle in (NUM_FRAMES // 2 - 1, NUM_FRAMES // 2):
        assert sum(time <= middle for time in TIMES) == len(TIMES) / 2


def test_kinds_times_and_the_order_of_the_choices_are_balanced(tmp_path, monkeypatch):
    monkeypatch.setattr("ullava_clips.draw_scene", lambda *_: (np.zeros((160, 160, 3), np.uint8), ()))
    make_clips(tmp_path / "clips", {"train": 48}, seed=0)
    content = json.loads((tmp_path / "clips/annotations/questions_train.json").read_text())
    rows = zip(content["images"], content["questions"], strict=True)
    seen = Counter(
        (question["answer"], image["event"]["time"], question["question"].split()[-1][:-1] == question["answer"])
        for image, question in rows
    )
    assert len(seen) == len(KINDS) * len(TIMES) * 2 and set(seen.values()) == {1}


def test_files_hold_clips_questions_and_captions(data):
    content = json.loads((data / "annotations/captions_train.json").read_text())
    image, caption = content["images"][2], content["annotations"][2]["caption"]
    event = image["event"]
    assert caption in (f"{article} {event['colour']} {event['category']} grows" for article in ("a", "an"))
    stored, drawn = read_clip(data / "train" / image["file_name"], 8), draw_clip(0, "train", 2)[0]
    assert np.abs(stored.astype(int) - drawn).mean() < 12  # lossy, and noise is what is lost
    is_after = [np.abs(each.astype(int) - stored[-1]).mean() < 1e-6 for each in stored]
    assert is_after == [number >= event["time"] for number in range(8)]


def samples_of(data, split, steps):
    dataset = QuestionsDataset(
        ann_file=f"annotations/questions_{split}.json",
        data_root=str(data),
        data_prefix={"img": split},
        test_mode=True,
        pipeline=[LoadClip(), *steps, ResizeToInput(input_hw=(64, 64)), AskQuestions(shuffle=False), PackSample()],
    )
    return [dataset[number] for number in range(len(dataset))]


def test_clips_are_read_as_samples(data):
    packed = samples_of(data, "test", [])
    assert [tuple(each["inputs"].shape) for each in packed] == [(8, 3, 64, 64)] * 4
    assert [each["data_samples"].prompts[0].answer for each in packed] == list(KINDS)


def test_the_order_of_frames_is_hidden(data):
    given = {order: samples_of(data, "test", [OrderFrames(order=order)])[0]["inputs"] for order in ORDERS}
    kept = given["kept"]
    assert torch.equal(given["reversed"], kept.flip(0)) and not torch.equal(given["reversed"], kept)
    assert torch.equal(given["middle"], kept[[4] * 8])
    levels = sorted(each.float().mean() for each in given["shuffled"])
    assert levels == sorted(each.float().mean() for each in kept)
    with pytest.raises(DataError, match="needs a clip"):
        OrderFrames()({"image": np.zeros((4, 4, 3), np.uint8)})
    with pytest.raises(ConfigError, match="order"):
        OrderFrames(order="none")


# --- the chain --------------------------------------------------------------------------------------------------------


def test_blind_variants_are_options_of_the_evaluation():
    config = load_config(FOLDER / "ullava_eval_clips_nano.py", {"_order.order": "middle"}, tool_root=ROOT)
    assert config.test_dataloader.dataset.pipeline[1].order == "middle" and config.custom_hooks == []


@pytest.mark.slow
def test_two_steps_train_on_clips_and_images_and_events_are_judged(data, tiny_nano, tmp_path):
    from lumen.data.shapes import make_shapes

    make_shapes(tmp_path / "data/shapes", 12, 4, seed=0, workers=1, num_test=4)
    (tmp_path / "data/clips").symlink_to(data)

    def run(tool, name, *words):
        command = [sys.executable, str(ROOT / "tools" / tool), str(FOLDER / f"{name}.py"), *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    common = ["--cfg-options", f"model.lmm.name_or_path={tiny_nano}"]
    short = ["train_cfg.max_iters=2", "train_dataloader.batch_size=2", "train_dataloader.sampler.run=2"]
    run("train.py", "ullava_clips_nano", "--work-dir", "run", *common, *short, "default_hooks.logger.interval=1")
    figures = run("test.py", "ullava_eval_clips_nano", "run", *common, "_order.order=reversed")
    assert "ullava_events/accuracy_presence" in figures and "ullava_events/accuracy_size" in figures
