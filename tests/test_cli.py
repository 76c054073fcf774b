import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lumen import cli
from lumen.cli import list_images, make_request, split_inputs
from lumen.commands.options import check_bare
from lumen.errors import CheckpointError, ConfigError, DataError
from lumen.inference.reports import Request
from lumen.inference.sources import ExportedModel, ModelFiles, find_model
from lumen.prompts import KNOWN_TASKS
from lumen.registry import DECODERS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "star").mkdir()
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "photos/b.JPG", "photos/a.png"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path


def _make_run(folder, *, best=False, pointer="iter_5.pth"):
    folder.mkdir(parents=True)
    (folder / "config.py").write_text("")
    (folder / "last_checkpoint").write_text(pointer + "\n")
    (folder / pointer).touch()
    if best:
        (folder / "best.pth").write_text("")
    return folder


def test_files_come_first_then_phrases(folder):
    paths, phrases = split_inputs(["a.png", "photos/", "star", "red ring"])
    assert [str(path) for path in paths] == ["a.png", "photos/a.png", "photos/b.JPG"]
    assert phrases == ["star", "red ring"], "a folder called star does not hide the phrase"
    assert split_inputs(["photos", "star"])[1] == ["star"]


def test_a_missing_image_is_not_taken_for_a_phrase(folder):
    with pytest.raises(DataError, match=r"no image 'gone\.jpg'"):
        split_inputs(["a.png", "gone.jpg", "star"])
    with pytest.raises(DataError, match="no image 'gone'"):
        split_inputs(["gone", "star"])


def test_a_folder_without_images_is_an_error(folder):
    with pytest.raises(DataError, match="holds no image"):
        list_images([folder / "star"])


def test_the_newest_exported_folder_is_taken_and_no_config_is_run(folder):
    run = _make_run(folder / "work_dirs" / "run")
    (run / "config.py").write_text("raise SystemExit('the config was run')")
    with pytest.raises(CheckpointError, match=r"no exported model \(model.json\) in work_dirs"):
        find_model(None, None, None)
    old, new = folder / "work_dirs" / "z_old", folder / "work_dirs" / "run" / "exported"
    half = folder / "work_dirs" / ".tmp-new"  # of an export that was killed
    for place in (old, new, half):
        place.mkdir(parents=True)
        (place / "model.json").write_text("{}")
    os.utime(old / "model.json", (1, 1))
    assert find_model(None, None, None) == ExportedModel(Path("work_dirs/run/exported"))
    assert find_model(old, None, None, "data/nano") == ExportedModel(old, "data/nano")
    assert find_model(run, None, None) == ModelFiles(run / "config.py", run / "iter_5.pth")
    with pytest.raises(ConfigError, match="--base-model belongs to an exported folder"):
        find_model(run, None, None, "data/nano")


def test_the_best_checkpoint_of_a_run_is_taken(folder):
    run = _make_run(folder / "run", best=True)
    assert find_model(run, None, None).checkpoint == run / "best.pth"


def test_a_config_that_a_killed_process_left_is_not_taken(folder):
    run = _make_run(folder / "run")
    (run / ".tmp-config.py").write_text("half = ")
    assert find_model(run, None, None).config == run / "config.py"


def test_config_and_checkpoint_are_taken_as_given():
    assert find_model(None, Path("c.py"), Path("k.pth")) == ModelFiles(Path("c.py"), Path("k.pth"))


def test_options_that_do_not_fit_are_explained(folder, monkeypatch):
    with pytest.raises(ConfigError, match="together"):
        find_model(None, Path("c.py"), None)
    with pytest.raises(ConfigError, match="together"):
        find_model(folder, Path("c.py"), Path("k.pth"))
    with pytest.raises(CheckpointError, match="holds no config"):
        find_model(folder / "star", None, None)
    (folder / "star" / "c.py").write_text("")
    with pytest.raises(CheckpointError, match="saved anything yet"):
        find_model(folder / "star", None, None)
    monkeypatch.setattr("lumen.paths.CHECKOUT", folder)
    with pytest.raises(CheckpointError, match="make demo"):
        find_model(None, None, None)


def test_a_namesake_is_warned_about(monkeypatch, capsys):
    cli.warn_about_namesake()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(metadata, "distribution", lambda name: _Namesake)
    cli.warn_about_namesake()
    assert "'lumen' 9.9 is installed too" in capsys.readouterr().err


class _Namesake:
    version = "9.9"


def _run(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lumen.cli", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_an_error_is_one_line_and_exit_code_2(tmp_path):
    done = _run("predict", "gone.jpg", "star", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no image") and done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from typer.testing import CliRunner; from lumen.cli import app; "
        "result = CliRunner().invoke(app, ['predict', '--help']); assert result.exit_code == 0, result; "
        "heavy = {'torch', 'transformers', 'mmengine', 'numpy', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_predicting_imports_no_training_library(tmp_path):
    code = (
        "import sys, lumen.inference.predictor, lumen.visualization, lumen.lmm.adapter; "
        "heavy = {'mmdet', 'mmcv', 'matplotlib', 'mmengine.runner', 'lumen.lmm.nano.model'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _request(phrases=(), task="detection", *, category=None, keypoints=None, skeleton_from=None):
    return make_request(phrases, task, None, category, keypoints, skeleton_from)


def test_options_become_a_request(folder):
    assert _request(["star"]) == Request(("star",), "detection")
    assert _request(["is it red?"], "vqa") == Request(("is it red?",), "vqa")
    assert _request(task="caption") == Request(("",), "caption")
    named = Request(("star",), "pose", None, ("top tip", "left tip"))
    assert _request(task="pose", category="star", keypoints="top tip, left tip,") == named
    categories = [{"id": 1, "name": "star", "keypoints": ["top tip", "left tip"], "skeleton": [[1, 2]]}]
    content = {"images": [], "annotations": [], "categories": categories}
    (folder / "ann.json").write_text(json.dumps(content))
    read = _request(task="pose", category="star", skeleton_from=folder / "ann.json")
    assert read == Request(("star",), "pose", None, ("top tip", "left tip"), ((0, 1),))


def test_options_that_do_not_fit_the_task_are_explained(folder):
    with pytest.raises(ConfigError, match="belong to --task pose"):
        _request(["star"], category="star")
    for options in (
        {"category": "star"},
        {"keypoints": "tip"},
        {"category": "star", "keypoints": "tip", "phrases": ["ring"]},
        {"category": "star", "keypoints": "tip", "skeleton_from": Path("a.json")},
    ):
        with pytest.raises(ConfigError, match="pose takes --category"):
            _request(task="pose", **options)
    with pytest.raises(ConfigError, match="pose needs one category and its keypoints"):
        _request(task="pose", category="star", keypoints=" , ")
    with pytest.raises(ConfigError, match="at least one phrase"):
        _request(task="vqa")
    (folder / "ann.json").write_text(json.dumps({"images": [], "annotations": [], "categories": [{"name": "dog"}]}))
    with pytest.raises(DataError, match="no category 'star'; known are"):
        _request(task="pose", category="star", skeleton_from=folder / "ann.json")
    with pytest.raises(DataError, match="needs a list of keypoint names"):
        _request(task="pose", category="dog", skeleton_from=folder / "ann.json")


def test_a_bare_lmm_is_asked_for_boxes_alone():
    check_bare("detection", None, None, None, None)
    check_bare("written_boxes", None, None, None, None)
    with pytest.raises(ConfigError, match="asked for boxes only, got --task vqa"):
        check_bare("vqa", None)
    with pytest.raises(ConfigError, match="give --lmm alone"):
        check_bare("detection", None, Path("config.py"))


def test_help_shows_an_example_per_task():
    shown = CliRunner().invoke(cli.app, ["predict", "--help"], env={"COLUMNS": "200"}).output
    missing = [wording.name for wording in KNOWN_TASKS if f"--task {wording.name}" not in shown]
    assert missing == ["detection", "chat", "written_boxes"], "needs no option, needs a history, goes with --lmm"
    assert "lumen predict photo.jpg star 'red ring'" in shown


def _lumen(*words):
    command = [sys.executable, "-m", "lumen.cli", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def lumen_here(monkeypatch, capsys):
    """Return a function that runs a command in this process and returns code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lumen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_check_data_lists_problems_and_sets_the_exit_code(folder, lumen_here):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "star"}],
    }
    (folder / "ann.json").write_text(json.dumps(content))
    code, output, _ = lumen_here("check-data", folder / "ann.json", "--images", folder)
    assert (code, output) == (0, f"{folder / 'ann.json'}: nothing is wrong\n")
    content["images"].append({"id": 2, "file_name": "gone.png", "width": 60, "height": 40})
    content["annotations"].append({"id": 8, "image_id": 1, "category_id": 1, "bbox": [1, 2, 0, 4]})
    (folder / "ann.json").write_text(json.dumps(content))
    code, output, _ = lumen_here("check-data", folder / "ann.json", "--images", folder)
    assert code == 1
    assert "2 problems of 2 kinds" in output
    assert "box without area: 8" in output and "image file is missing: 2" in output
    assert lumen_here("check-data", folder / "none.json")[0] == 2
    assert "there is no folder" in lumen_here("check-data", folder / "ann.json", "--images", folder / "none")[2]
    assert "Examples: lumen check-data" in lumen_here("check-data", "--help")[1]


def test_check_decoder_reports_and_sets_the_exit_code(tmp_path, lumen_here, monkeypatch):
    sound = _lumen("check-decoder", ROOT / "projects" / "example_decoder")
    assert sound.returncode == 0 and "ok      losses with no pairs" in sound.stdout, sound.stderr
    # From here on in this process, where what is registered must not stay.
    monkeypatch.setattr(DECODERS, "_module_dict", dict(DECODERS.module_dict))
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = (ROOT / "projects" / "example_decoder" / "example_decoder.py").read_text()
    broken = source.replace("class Pointing", "class Broken").replace(".abs().sum()", ".abs().mean()")
    (tmp_path / "broken_decoder.py").write_text(broken)
    code, found, _ = lumen_here("check-decoder", tmp_path)
    assert code == 1
    assert "FAILED  losses with no objects" in found and "must be one finite number" in found
    code, refused, _ = lumen_here("check-decoder", tmp_path, "--option", "colour=red")
    assert code == 1 and "unexpected keyword argument 'colour'" in refused
    assert lumen_here("check-decoder", ROOT / "docs")[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos"], "give a source, what to label, and --out"),
        (["photos", "star"], "give a source, what to label, and --out"),
        (["photos", "star", "--out", "o", "--part", "3/2"], "--part is a number from 1 and how many there are"),
        (["photos", "star", "--out", "o", "--part", "1/2", "--ray", "2"], "leave --part out"),
        (["photos", "star", "--out", "o", "--lmm", "x", "--task", "segmentation"], "asked for boxes only"),
        (["photos", "star", "--merge", "o"], "--merge takes a folder that --out wrote, and --format; leave out: words"),
        (["--merge", "photos", "-t", "0.5", "--format", "voc"], "--format; leave out: threshold"),
        (["photos", "star", "--out", "o", "--max-pixels", "9"], "--max-pixels belong to --lmm"),
        (["--merge", "photos"], "holds no job.json"),
    ],
)
def test_label_refuses_what_does_not_fit(folder, lumen_here, words, message):
    code, _, error = lumen_here("label", *words)
    assert code == 2 and message in error and error.count("\n") == 1
