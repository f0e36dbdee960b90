"""Files and directories that appear in one step, and what a command may replace."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import (
    WRITTEN,
    beside,
    check_outputs,
    check_replaceable,
    locked,
    remove,
    replace_directory,
    under_way,
    write_text,
    writing,
)
from espnet_llmvq.base.made import Made

RECORD = '{"inputs": {}, "options": {}, "files": {}, "complete": true}'


def tree(path):
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}


def test_text_appears_whole(tmp_path):
    write_text(tmp_path / "new" / "a", "ä\r\nb\n")
    assert (tmp_path / "new" / "a").read_bytes() == "ä\r\nb\n".encode()
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new" / "a", "\ud800")
    assert (tmp_path / "new" / "a").read_bytes() == "ä\r\nb\n".encode()


def test_the_longest_names(tmp_path):
    """Of 255 bytes, which leave no room for a longer one beside them."""
    names = ["a" * 255, "é" * 127, "é" * 126 + "aa"]
    for name in names * 2:
        write_text(tmp_path / name, name)
        with locked(tmp_path / name):
            assert under_way(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == sorted([WRITTEN, *names])
    assert len(set(beside(tmp_path / name, "new") for name in names)) == 3


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
    assert dying.exitcode == 9 and os.listdir(tmp_path) == [".a.llmvq-tmp"]
    write_text(path, "")
    processes = [fork.Process(target=write_often, args=(path, letter)) for letter in "abc"]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        text = path.read_text()
        assert not text or (len(text) == 100_000 and len(set(text)) == 1)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(os.listdir(tmp_path)) == [WRITTEN, "a"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_text(tmp_path / "a", "b")
    assert sorted(os.listdir(tmp_path)) == [WRITTEN, "a"] and (tmp_path / "a").read_text() == "b"


@pytest.mark.parametrize(
    ("content", "refused"), [(None, False), ([], False), (["made.json", "x"], False), (["x"], True)]
)
def test_only_what_the_command_made_is_replaced(tmp_path, content, refused):
    target = tmp_path / "out"
    if content is not None:
        target.mkdir()
        for name in content:
            (target / name).write_text(RECORD if name == "made.json" else name)
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


def test_a_file_is_replaced_if_it_is_as_it_was_written(tmp_path):
    """Not one that a person wrote, edited, put in its place or linked; --overwrite is for these."""
    path = tmp_path / "a.txt"
    for text in ("one", "two", "one"):
        write_text(path, text)
    for spoil in (
        lambda: path.write_text("one, corrected"),
        lambda: path.write_bytes(b""),
        lambda: path.symlink_to("b.txt"),
        lambda: path.mkdir(),
    ):
        path.unlink()
        spoil()
        before = (os.readlink(path) if path.is_symlink() else ""), path.is_dir() or path.exists() and path.read_bytes()
        with pytest.raises(UserError, match="a.txt: is there, and not made here; move it away, or .*--overwrite"):
            write_text(path, "one")
        with pytest.raises(UserError, match="a.txt: is there"):
            remove(path)
        assert before == (
            (os.readlink(path) if path.is_symlink() else ""), path.is_dir() or path.exists() and path.read_bytes()
        )  # fmt: skip
        if path.is_dir():
            path.rmdir()
            path.touch()
    path.write_text("mine")
    overwriting("--overwrite", path)
    assert path.read_text() == "new"
    write_text(path, "one")  # ours from now on
    remove(path)
    assert os.listdir(tmp_path) == [WRITTEN]


@pytest.mark.parametrize("damage", [lambda old: old[:-30], lambda old: b"\xff\n" + old, lambda old: b"\0" * len(old)])
def test_damaged_notes_of_what_was_written(tmp_path, damage):
    """As a full disk or a crash leaves them: what they no longer tell is refused, all else goes on."""
    for name in ("a", "b"):
        write_text(tmp_path / name, name)
    notes = tmp_path / WRITTEN
    notes.write_bytes(damage(notes.read_bytes()))
    for name in ("c", "d", "c"):
        write_text(tmp_path / name, f"more of {name}")
    with contextlib.suppress(UserError):
        write_text(tmp_path / "b", "more of b")
    lost = b"\xff" not in notes.read_bytes()
    assert ((tmp_path / "b").read_text() == "b") == lost


def overwriting(option, path):
    code = (
        "import sys; from espnet_llmvq.cli.parser import Parser, add_overwrite; parser = Parser();"
        "add_overwrite(parser); parser.parse_args([sys.argv[1]]);"
        "from espnet_llmvq.base.files import write_text; write_text(sys.argv[2], 'new')"
    )
    subprocess.run([sys.executable, "-c", code, option, str(path)], check=True)


def test_an_input_is_never_an_output(tmp_path):
    """Under whatever path, and also if it was written here."""
    write_text(tmp_path / "a", "text")
    (tmp_path / "b").symlink_to("a")
    for output in ("a", "b", "../" + tmp_path.name + "/a"):
        with pytest.raises(UserError, match="would replace the input .*give the output another name"):
            check_outputs([None, tmp_path / output], [None, str(tmp_path / "a")])
    check_outputs([tmp_path / "a", tmp_path / "c"], [tmp_path / "d"])


def test_a_record_keeps_what_was_made_replaceable(tmp_path):
    """A result that has changed is made again, as its record says that it was made here; a killed making too."""
    out = tmp_path / "out"
    write_text(out, "made")
    Made(out).note()
    out.write_text("damaged")
    Made(out).forget()
    assert not Made(out).fresh()
    write_text(out, "made again")
    (tmp_path / "other").write_text("mine")
    (tmp_path / "other.made.json").write_text("mine too")
    Made(tmp_path / "other").forget()
    with pytest.raises(UserError, match="other: is there"):
        write_text(tmp_path / "other", "made")
    with pytest.raises(UserError, match="other.made.json: is there"):
        Made(tmp_path / "other").note()
    assert tree(tmp_path)["other.made.json"] == "mine too"


def test_what_is_built_carries_what_others_put_there(tmp_path):
    """Files, and links to files and directories; what is written now must not have their names."""
    (tmp_path / "disk").mkdir()
    out, made = tmp_path / "out", Made(tmp_path / "out")
    for name in ("a", "b"):
        with made.rebuilding() as new:
            write_text(new / name, name)
            made.note([name], at=new)
        (out / "notes").write_text("mine")
        (out / "wav").is_symlink() or (out / "wav").symlink_to(tmp_path / "disk")
    assert {p.name for p in out.iterdir()} == {"b", "made.json", "notes", "wav"} and (out / "wav").is_symlink()
    with pytest.raises(UserError, match="notes would be replaced, but was not made with its directory"):
        with made.rebuilding() as new:
            write_text(new / "notes", "ours")
    assert (out / "notes").read_text() == "mine"
    (out / "made.json").write_text("mine")
    with pytest.raises(UserError, match="out would be replaced, but holds other files and no made.json"):
        with made.rebuilding():
            pass


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
