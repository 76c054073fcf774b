from pathlib import Path

import pytest

from lumen.paths import CHECKOUT, PACKAGED, find_path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUMEN_DATA", raising=False)


def test_a_path_of_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMEN_DATA", str(tmp_path / "root"))
    for folder in (tmp_path / "shapes", tmp_path / "root" / "shapes"):
        folder.mkdir(parents=True)
    assert Path(find_path("shapes")).resolve() == tmp_path / "shapes"


def test_the_data_root_comes_before_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMEN_DATA", str(tmp_path / "root"))
    (tmp_path / "root" / "lumen").mkdir(parents=True)
    assert Path(find_path("lumen")) == tmp_path / "root" / "lumen"


def test_the_checkout_is_found_from_any_folder():
    assert Path(find_path("lumen/paths.py")) == CHECKOUT / "lumen" / "paths.py"


def test_an_absolute_path_is_kept(tmp_path):
    assert find_path(tmp_path) == str(tmp_path)


def test_a_name_that_is_nowhere_is_returned_as_it_came():
    assert find_path("someone/some-model") == "someone/some-model"


def test_the_data_root_stands_for_a_leading_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMEN_DATA", str(tmp_path / "root"))
    (tmp_path / "root" / "shapes").mkdir(parents=True)
    assert Path(find_path("data/shapes")) == tmp_path / "root" / "shapes"
    assert find_path("data/nowhere") == "data/nowhere"


def test_a_packaged_model_is_found_by_its_name_unless_there_is_such_a_folder(tmp_path):
    assert Path(find_path("nano")) == PACKAGED["nano"] and (PACKAGED["nano"] / "config.json").is_file()
    (tmp_path / "nano").mkdir()
    assert Path(find_path("nano")).resolve() == tmp_path / "nano"
