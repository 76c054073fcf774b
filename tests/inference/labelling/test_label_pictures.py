import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lumen.data.image import read_image
from lumen.errors import ConfigError, DataError
from lumen.inference.labelling.job import survey
from lumen.inference.labelling.pictures import Picture, list_pictures

NAMES = ["a.png", "b.jpg", "c.png", "sub/a.png", "sub/b.png", "x.png", "y.png"]


def names_of(source, **options):
    return [picture.name for picture in list_pictures(source, **options)]


def make_shard(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_folder_is_listed_by_name_with_what_lies_below(photos):
    (photos / "notes.txt").touch()
    (photos / ".hidden.png").touch()
    (photos / "loop").symlink_to(photos)
    assert names_of(photos) == NAMES


def test_a_shard_gives_the_pictures_that_its_files_would(photos, tmp_path):
    files = {name: (photos / name).read_bytes() for name in NAMES}
    shard = make_shard(tmp_path / "shard-000.tar", {**files, "a.json": b"{}"})
    pictures = list(list_pictures(shard))
    assert [picture.name for picture in pictures] == [f"shard-000/{name}" for name in NAMES]
    for picture, name in zip(pictures, NAMES, strict=True):
        np.testing.assert_array_equal(picture.read(), read_image(photos / name))
    assert names_of(tmp_path)[-len(NAMES) :] == [picture.name for picture in pictures], "a folder of shards"


def test_a_shard_in_the_layout_of_webdataset_is_read(photos, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        writer.write({"__key__": "000", "png": (photos / "a.png").read_bytes(), "cls": b"3"})
    (picture,) = list_pictures(tmp_path / "0.tar")
    assert picture.name == "0/000.png"
    np.testing.assert_array_equal(picture.read(), read_image(photos / "a.png"))


def test_a_shard_that_is_broken_or_compressed_is_refused(photos, tmp_path):
    content = (photos / "a.png").read_bytes()
    whole = make_shard(tmp_path / "whole.tar", {"a.png": content, "b.png": content}).read_bytes()
    second = whole.index(b"b.png")
    (tmp_path / "cut.tar").write_bytes(whole[: second - 1])
    (tmp_path / "cut_header.tar").write_bytes(whole[: second + 100])
    (tmp_path / "noise.tar").write_bytes(b"no shard" * 200)
    with tarfile.open(tmp_path / "small.tar.gz", "w:gz"):
        pass
    for name, message in (("cut", "cannot be read"), ("cut_header", "no end mark"), ("noise", "cannot be read")):
        with pytest.raises(DataError, match=message):
            list(list_pictures(tmp_path / f"{name}.tar"))
    with pytest.raises(DataError, match="is compressed"):
        list(list_pictures(tmp_path / "small.tar.gz"))


def test_a_list_is_relative_to_its_folder_or_to_that_of_the_images(photos, tmp_path):
    (photos / "list.txt").write_text("c.png\n\nsub/a.png\n")
    assert names_of(photos / "list.txt") == ["c.png", "sub/a.png"]
    (tmp_path / "list.txt").write_text(f"c.png\n{photos / 'a.png'}\ngone.png\n")
    pictures = list(list_pictures(tmp_path / "list.txt", images=photos))
    assert pictures[1].name == str(photos / "a.png").removeprefix("/"), "labels stay in the folder of the labels"
    for picture in pictures[:2]:
        assert picture.read().shape[0] == 40
    with pytest.raises(DataError, match=r"gone\.png"):
        pictures[2].read()


def test_a_coco_file_gives_its_images_and_ids(photos, tmp_path):
    images = [{"id": 7, "file_name": "sub/a.png"}, {"id": 3, "file_name": "b.jpg"}]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    pictures = list(list_pictures(tmp_path / "coco.json", images=photos))
    assert [(picture.id, picture.name) for picture in pictures] == [(7, "sub/a.png"), (3, "b.jpg")]
    assert pictures[0].read().shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "no list 'images'"),
        ("a.json", '{"images": [{"id": 1}]}', r"images\[0\] has no file_name"),
        ("a.json", "{", "cannot be read as json"),
        ("a.txt", "../secret.png\n", r"a path with '\.\.'"),
        ("a.txt", "ok.png\n.\n", "names '.'"),
        ("a.txt", "/\n", "names '/'"),
        ("a.txt", "bad\x1b.png\n", "control characters"),
        ("a.json", '{"images": [{"id": 1, "file_name": "\\ud800.png"}]}', "not UTF-8"),
        ("a.json", '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}', "used twice"),
        ("a.json", f'{{"images": [{{"id": {2**63}, "file_name": "a"}}]}}', "beyond 64 bits"),
        ("a.docx", "", "not a source of pictures"),
        ("gone.txt", None, "there is no"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(list_pictures(tmp_path / name))


def test_a_shard_that_is_a_pipe_is_refused_without_waiting(photos):
    os.mkfifo(photos / "z.tar")
    with pytest.raises(DataError, match="the shard is not a file"):
        names_of(photos)


def test_a_file_name_that_is_not_utf8_is_refused(photos):
    (photos / os.fsdecode(b"bad\xff.png")).touch()
    with pytest.raises(DataError, match="rename the file"):
        names_of(photos)


def test_folders_may_be_nested_deeper_than_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("a")
        os.chdir("a")
    Path("z.png").touch()
    assert names_of(tmp_path) == ["a/" * 1200 + "z.png"]
    Path("z.png").unlink()  # and the folders, which `shutil.rmtree` cannot remove
    for _ in range(1200):
        os.chdir("..")
        os.rmdir("a")


def test_a_folder_of_images_belongs_to_lists_alone(photos):
    with pytest.raises(ConfigError, match="--images belongs to a list"):
        list_pictures(photos, images=photos)


def pictures_called(*names):
    return lambda: (Picture(name, name) for name in names)


def test_names_that_come_twice_are_found():
    assert survey(pictures_called("a.png", "b.png"), "it").same_stem is None
    assert survey(pictures_called("a.png", "b.png", "a.jpg", "b.jpg"), "it").same_stem == "a.jpg"
    assert survey(pictures_called("a.png", "b.png"), "it") != survey(pictures_called("b.png", "a.png"), "it")
    with pytest.raises(DataError, match=r"it names 'b\.png' twice"):
        survey(pictures_called("b.png", "a.png", "b.png"), "it")
    with pytest.raises(DataError, match="it holds no image"):
        survey(pictures_called(), "it")
