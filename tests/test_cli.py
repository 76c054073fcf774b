import inspect
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumen import cli
from lumen.cli import ModelFiles, find_model, list_images, predict_files, slug, split_inputs, unique_stems
from lumen.errors import CheckpointError, ConfigError, DataError
from lumen.predictor import DEFAULT_THRESHOLD, LumenPredictor

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
    if best:
        (folder / "best.pth").write_text("")
    return folder


def test_a_question_writes_pictures_and_json(folder, tiny_lumen, capsys):
    predictor = LumenPredictor(tiny_lumen, input_hw=(64, 64))
    failed = predict_files(predictor, [folder / "a.png"], ["star", "red ring"], folder / "out", threshold=0.0)
    assert failed == 0
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == ["a.json", "a.png", "a_heat_1_star.png", "a_heat_2_red-ring.png"]
    report = json.loads((folder / "out" / "a.json").read_text())
    assert (report["height"], report["width"]) == (40, 60)
    assert report["phrases"] == ["star", "red ring"]
    assert len(report["bboxes_xyxy"]) == len(report["scores"]) == len(report["labels"]) > 0
    assert set(report["labels"]) <= {0, 1}
    assert max(box[2] for box in report["bboxes_xyxy"]) <= 60
    assert report["model"]["tasks"] == "detection"
    assert "found" in capsys.readouterr().out


def test_an_unreadable_file_is_reported_and_passed_over(folder, tiny_lumen, capsys):
    (folder / "broken.png").write_bytes(b"not an image")
    predictor = LumenPredictor(tiny_lumen, input_hw=(64, 64))
    paths = [folder / "broken.png", folder / "a.png"]
    assert predict_files(predictor, paths, ["star"], folder / "out", heatmaps=False) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.json", "a.png"]


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


def test_equal_names_do_not_overwrite_each_other():
    paths = [Path("x/a.png"), Path("y/a.png"), Path("a-2.jpg"), Path("b.png")]
    assert unique_stems(paths) == ["a", "a-2", "a-2-2", "b"]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("Red Ring", "red-ring"), ("a/../b", "a-b"), ("\u661f", "phrase"), ("x" * 99, "x" * 40), ("a'b", "a-b")],
)
def test_a_phrase_becomes_part_of_a_file_name(phrase, expected):
    assert slug(phrase) == expected


def test_the_newest_run_is_taken(folder):
    old, new = (_make_run(folder / "work_dirs" / name) for name in ("z_old", "a_new"))
    os.utime(old / "last_checkpoint", (1, 1))
    assert find_model(None, None, None) == ModelFiles(
        Path("work_dirs/a_new/config.py"), Path("work_dirs/a_new/iter_5.pth")
    )
    assert find_model(old, None, None) == ModelFiles(old / "config.py", old / "iter_5.pth")
    assert new.is_dir()


def test_the_best_checkpoint_of_a_run_is_taken(folder):
    run = _make_run(folder / "run", best=True)
    assert find_model(run, None, None).checkpoint == run / "best.pth"


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
        "import sys, lumen.predictor, lumen.visualization, lumen.lmm.hf; "
        "heavy = {'mmdet', 'mmcv', 'matplotlib', 'mmengine.runner', 'lumen.lmm.nano'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_and_the_predictor_share_a_threshold():
    for function in (predict_files, cli.predict):
        assert inspect.signature(function).parameters["threshold"].default == DEFAULT_THRESHOLD


def _check_data(*words):
    command = [sys.executable, "-m", "lumen.cli", "check-data", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_check_data_lists_problems_and_sets_the_exit_code(folder):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "star"}],
    }
    (folder / "ann.json").write_text(json.dumps(content))
    sound = _check_data(folder / "ann.json", "--images", folder)
    assert (sound.returncode, sound.stdout) == (0, f"{folder / 'ann.json'}: nothing is wrong\n")
    content["images"].append({"id": 2, "file_name": "gone.png", "width": 60, "height": 40})
    content["annotations"].append({"id": 8, "image_id": 1, "category_id": 1, "bbox": [1, 2, 0, 4]})
    (folder / "ann.json").write_text(json.dumps(content))
    found = _check_data(folder / "ann.json", "--images", folder)
    assert found.returncode == 1
    assert "2 problems of 2 kinds" in found.stdout
    assert "box without area: 8" in found.stdout and "image file is missing: 2" in found.stdout
    assert _check_data(folder / "none.json").returncode == 2
    assert "there is no folder" in _check_data(folder / "ann.json", "--images", folder / "none").stderr
    assert "Examples: lumen check-data" in _check_data("--help").stdout
