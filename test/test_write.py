"""Files and directories that appear in one step, and what a command may replace."""

import errno
import fcntl
import multiprocessing
import os

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_replaceable, replace_directory, write_text, writing


def tree(path):
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}


def test_text_appears_whole(tmp_path):
    write_text(tmp_path / "new" / "a", "ä\r\nb\n")
    assert (tmp_path / "new" / "a").read_bytes() == "ä\r\nb\n".encode()
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new" / "a", "\ud800")
    assert (tmp_path / "new" / "a").read_bytes() == "ä\r\nb\n".encode()


def write_often(path, letter):
    for _ in range(100):
        write_text(path, letter * 100_000)


def die_writing(path):
    with writing(path) as f:
        f.write("half")
        f.flush()
        os._exit(9)


def test_several_processes_write_one_file(tmp_path):
    """It is whole at any time, and nothing else is left, also of one that was killed while it wrote."""
    fork, path = multiprocessing.get_context("fork"), tmp_path / "a"
    dying = fork.Process(target=die_writing, args=(path,))
    dying.start()
    dying.join()
    assert dying.exitcode == 9 and os.listdir(tmp_path) == [".a.tmp"]
    write_text(path, "")
    processes = [fork.Process(target=write_often, args=(path, letter)) for letter in "abc"]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        text = path.read_text()
        assert not text or (len(text) == 100_000 and len(set(text)) == 1)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_text(tmp_path / "a", "b")
    assert tree(tmp_path) == {"a": "b"}


@pytest.mark.parametrize(
    ("content", "refused"), [(None, False), ([], False), (["made.json", "x"], False), (["x"], True)]
)
def test_only_what_the_command_made_is_replaced(tmp_path, content, refused):
    target = tmp_path / "out"
    if content is not None:
        target.mkdir()
        for name in content:
            (target / name).write_text(name)
    if refused:
        with pytest.raises(UserError, match=f"{target} would be replaced, but holds other files and no made.json"):
            check_replaceable(target, "made.json")
    else:
        check_replaceable(target, "made.json")


def test_a_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("out", "dangling"):
        with pytest.raises(UserError, match=f"{name} would be replaced, but is a link"):
            check_replaceable(tmp_path / name, "made.json")


def test_a_file_in_the_place_of_a_directory(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out would be replaced"):
        check_replaceable(tmp_path / "out", "made.json")


@pytest.mark.parametrize("there", [False, True])
def test_directory_takes_the_place_of_another(tmp_path, there):
    new, target = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    (new / "a").write_text("new")
    if there:
        target.mkdir()
        (target / "b").write_text("old")
        # Left by a run that was killed between its steps.
        (tmp_path / ".out.llmvq-old").mkdir()
        (tmp_path / ".out.llmvq-old" / "c").write_text("older")
    replace_directory(new, target)
    assert tree(tmp_path) == {"out/a": "new"}
