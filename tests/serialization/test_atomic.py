import os
from pathlib import Path

import pytest

from lumen.serialization import atomic
from lumen.serialization.atomic import atomic_file, publish_folder, remove_leftovers, temporary_folder, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_folder(path, text, *, replace=False):
    with temporary_folder(path) as folder:
        write_text(folder / "inner" / "a.txt", text)
        publish_folder(folder, path, replace=replace)


def read_folder(path):
    return (path / "inner" / "a.txt").read_text(encoding="utf-8")


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError, match="stop"), atomic_file(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_text_is_utf_8_and_its_folder_is_made(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "\u00e9\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_a_file_of_the_longest_name_is_written(tmp_path):
    for name in ("n" * 255, "n" * 250, "\u00e9" * 127):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text(encoding="utf-8") == name
    assert len(list(tmp_path.iterdir())) == 3


def test_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda number: (steps.append("fsync"), fsync(number)))
    monkeypatch.setattr(atomic.os, "replace", lambda *paths: (steps.append("rename"), replace(*paths)))
    write_text(tmp_path / "a.txt", "content")
    assert steps == ["fsync", "rename", "fsync"]  # the file, its name, the folder that holds the name


def test_a_folder_appears_when_it_is_published(tmp_path):
    path = tmp_path / "parent" / "c"
    with temporary_folder(path) as folder:
        (folder / "a").touch()
        assert not path.exists()
        publish_folder(folder, path)
    assert names(path) == ["a"]
    assert names(path.parent) == ["c"]


@pytest.mark.parametrize("error", [None, RuntimeError("stop")])
def test_a_folder_that_is_not_published_is_removed(tmp_path, error):
    try:
        with temporary_folder(tmp_path / "c") as folder:
            (folder / "a").touch()
            if error:
                raise error
    except RuntimeError:
        assert error is not None
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_not_part_of_the_next_folder(tmp_path):
    (tmp_path / ".tmp-c").mkdir()
    (tmp_path / ".tmp-c" / "half").touch()
    write_folder(tmp_path / "c", "new")
    assert names(tmp_path / "c") == ["inner"]


def test_a_folder_with_content_is_replaced_only_where_that_is_wanted(tmp_path):
    (tmp_path / "c").mkdir()
    write_folder(tmp_path / "c", "first")  # an empty folder is replaced
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "c", "second")
    assert read_folder(tmp_path / "c") == "first"
    write_folder(tmp_path / "c", "third", replace=True)
    assert read_folder(tmp_path / "c") == "third"
    assert names(tmp_path) == ["c"]


def test_a_folder_is_there_at_every_moment_of_its_replacement(tmp_path, monkeypatch):
    write_folder(tmp_path / "c", "old")
    states = []
    for name in ("rename", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            atomic.os, name, lambda *args, real=real: (states.append(read_folder(tmp_path / "c")), real(*args))
        )
    write_folder(tmp_path / "c", "new", replace=True)
    assert set(states) == {"old", "new"}
    assert names(tmp_path) == ["c"]


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    (tmp_path / "link").symlink_to("a.txt")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "flows")
    assert os.read(reader, 9) == b"flows"
    os.close(reader)
    assert names(tmp_path) == ["a.txt", "link", "pipe"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_renamed(tmp_path, monkeypatch):
    write_folder(tmp_path / "c", "old")
    rename = os.rename

    def fail_once(source, target):
        if source.name == ".tmp-c":
            raise OSError("disk error")
        rename(source, target)

    monkeypatch.setattr(atomic, "_swap", lambda *paths: False)  # as on a system that cannot
    monkeypatch.setattr(atomic.os, "rename", fail_once)
    with pytest.raises(OSError, match="disk error"):
        write_folder(tmp_path / "c", "new", replace=True)
    assert read_folder(tmp_path / "c") == "old"
    assert names(tmp_path) == ["c"]


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    write_folder(tmp_path / "c", "old")
    os.rename(tmp_path / "c", tmp_path / ".old-c")
    with temporary_folder(tmp_path / "c"):
        assert read_folder(tmp_path / "c") == "old"
    assert names(tmp_path) == ["c"]


def test_leftover_files_are_removed_and_folders_are_not(tmp_path):
    (tmp_path / ".tmp-a.pth").touch()
    (tmp_path / ".tmp-cache").mkdir()
    (tmp_path / "a.pth").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".tmp-cache", "a.pth"]


def test_a_pipe_behind_a_link_is_written_to():
    reading, writing = os.pipe()
    with atomic_file(Path(f"/proc/self/fd/{writing}")) as file:
        file.write(b"to a pipe")
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"to a pipe"
