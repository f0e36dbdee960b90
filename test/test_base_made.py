"""Whether a result is what its inputs and options make."""

import json
import os

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made, accept_versions, files_digest, first_difference


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("one two\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.yaml").write_text("x: 1\n")
    return tmp_path


def result(**options):
    return Made("out", ["text", "conf"], **{"size": 4, "shape": {"rows": 2, "name": "x"}, **options})


def make(room, **options):
    made = result(**options)
    assert not made.fresh()
    (room / "out").write_text("result\n")
    made.note(seconds=3)
    return made


def test_what_is_made_is_fresh_until_something_changes(room):
    made = make(room)
    assert made.fresh() and result().fresh() and made.done("") is True
    assert result().facts() == {"seconds": 3}
    assert (room / "out.made.json").is_file()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: result(size=5), "size: 4 then, 5 now"),
        (lambda: result(shape={"rows": 3, "name": "x"}), "shape.rows: 2 then, 3 now"),
        (lambda: result(shape={"rows": 2}), "shape.name: 'x' then, not there now"),
        (lambda: result(more=None), "more: not there then, None now"),
        (lambda: Made("out", ["text"], **result().options), "conf is no more an input"),
        (lambda: Made("out", ["text", "conf", "third"], **result().options), "third is a new input"),
        (lambda: open("text", "a").write("x") and result(), "text has changed"),
        (lambda: open("conf/a.yaml", "w").write("x: 2\n") and result(), "conf has changed"),
        (lambda: open("conf/b.yaml", "w").write("\n") and result(), "conf has changed"),
        (lambda: os.remove("text") or result(), "text is not there"),
        (lambda: open("out", "a").write("x") and result(), "out is not as it was written"),
        (lambda: os.remove("out") or result(), "out is not there"),
        (lambda: open("out.made.json", "w").write("[]") and result(), "it is not known how out was made"),
    ],
)
def test_every_change_is_noticed_and_named(room, change, words):
    make(room)
    made = change()
    assert made.difference() == words
    assert not made.fresh()
    with pytest.raises(UserError, match="remove out to train again"):
        made.done("remove {out} to train again")


def test_content_counts_and_not_its_time(room):
    made = make(room)
    os.utime(room / "text", (1, 1))
    assert made.fresh()
    (room / "text").write_text("one six\n")  # of the same length
    assert made.difference() == "text has changed"


def test_a_moved_input_is_the_same_by_its_role(room):
    made = Made("out", {"words": "text"})
    (room / "out").write_text("")
    made.note()
    (room / "text").rename(room / "elsewhere")
    assert Made("out", {"words": "elsewhere"}).fresh()
    assert Made("out", {"words": "text"}).difference() == "words (text) is not there"


def test_what_an_input_was_made_of_counts_too(room):
    """The list of sound files is the same to the letter, the sound is not."""

    def listing(sound):
        made = Made("list", [], sound=sound, tools={"soxr": sound})
        (room / "list").write_text("a.wav 100\n")
        made.note()

    listing("1")
    (room / "model").mkdir()
    made = Made("model", ["list"])
    (room / "model" / "weights").write_text("w")
    made.note(files=["weights"])
    (room / "final").write_text("")
    last = Made("final", ["model"])
    last.note()
    assert made.fresh() and last.fresh()
    listing("2")
    assert made.difference() == "list has changed" and last.fresh()
    made.note(files=["weights"])
    assert last.difference() == "model has changed"
    last.note()
    # Made again of the same: nothing has changed, whatever the time.
    made.note(files=["weights"])
    assert last.fresh()
    made.begin()
    assert last.difference() == "model has changed"


def test_versions_of_tools_are_not_passed_on(room):
    for version in ("1", "2"):
        made = Made("mid", ["text"], tools={"torch": version})
        (room / "mid").write_text("same")
        made.note()
        last = Made("out", ["mid"])
        if version == "1":
            (room / "out").write_text("")
            last.note()
    assert last.fresh()


def test_files_of_a_directory_that_must_stay(room):
    (room / "model").mkdir()
    (room / "model" / "weights").write_text("1")
    made = Made("model", ["text"])
    made.note(files=["weights"])
    (room / "model" / "decode").mkdir()  # what comes later is nothing to it
    assert made.fresh() and (room / "model" / "made.json").is_file()
    (room / "model" / "weights").write_text("2")
    assert made.difference() == "model/weights is not as it was written"


def test_a_costly_result_is_resumed_with_the_same_only(room):
    (room / "model").mkdir()
    made = Made("model", ["text"], rate=0.1)
    assert made.done("") is False
    made.begin()
    assert made.done("") is False and not made.fresh()
    with pytest.raises(UserError, match=r"model was made otherwise \(rate: 0.1 then, 0.2 now\); remove model"):
        Made("model", ["text"], rate=0.2).done("remove {out}")
    made.note()
    assert made.done("") is True


def test_a_directory_of_unknown_making_is_not_gone_on_with(room):
    (room / "model").mkdir()
    assert Made("model").done("") is False
    (room / "model" / "checkpoint.pth").write_text("of an older version")
    with pytest.raises(UserError, match=r"made otherwise \(it is not known how model was made\); remove model"):
        Made("model").done("remove {out}")


def test_other_versions_can_be_accepted_and_that_is_said(room):
    make(room, tools={"torch": "1"})
    with pytest.raises(UserError, match="tools.torch: '1' then, '2' now.; remove out, or accept it with --accept_vers"):
        result(tools={"torch": "2"}).done("remove {out}")


def test_an_input_that_changes_meanwhile_is_seen(room):
    made = result()
    made.changed({"options": {}, "inputs": {}})
    (room / "text").write_text("while it was being made\n")
    (room / "out").write_text("of the old text")
    made.note()
    assert result().difference() == "text has changed"


def test_versions_of_tools_can_be_accepted(room):
    make(room, tools={"torch": "1"})
    newer = result(tools={"torch": "2"})
    assert newer.difference() == "tools.torch: '1' then, '2' now"
    accept_versions()
    try:
        assert newer.fresh() and newer.done("") is True
    finally:
        accept_versions(False)
    assert not newer.fresh()


def test_nothing_half_written_is_a_record(room):
    make(room)
    (room / "out.made.json").write_text((room / "out.made.json").read_text()[:40])
    assert result().record() is None and not result().fresh()
    result().forget()
    assert not (room / "out.made.json").exists()
    result().forget()


def test_audio_counts_by_path_size_and_time(room):
    (room / "a.wav").write_bytes(b"1234")
    before = files_digest(["a.wav", "none.wav"])
    assert before == files_digest(["a.wav", "none.wav"])
    os.utime(room / "a.wav", (1, 1))
    assert before != files_digest(["a.wav", "none.wav"])
    assert files_digest(["a.wav"]) != files_digest(["none.wav"])


@pytest.mark.parametrize(
    "old, new, words",
    [
        ({}, {}, ""),
        ({"a": [1, 2]}, {"a": [1, 2]}, ""),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": None}}}, "a.b.c: 1 then, None now"),
        ({"a": 1}, {"a": {"b": 1}}, "a: 1 then, {'b': 1} now"),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a: 1 then, 2 now"),
        ({"a": "x" * 200}, {"a": ""}, f"a: '{'x' * 79}... then, '' now"),
    ],
)
def test_first_difference(old, new, words):
    assert first_difference(old, new) == words


def test_options_are_compared_as_json_gives_them_back(room):
    made = Made("out", [], pair=(1, 2), by={1: "x"})
    (room / "out").write_text("")
    made.note()
    assert Made("out", [], pair=[1, 2], by={"1": "x"}).fresh()
    assert json.loads((room / "out.made.json").read_text())["options"] == {"pair": [1, 2], "by": {"1": "x"}}


def test_a_directory_as_input_counts_by_its_record_and_by_its_files(room):
    (room / "frames").mkdir()
    (room / "frames/a.ark").write_text("one")
    Made("frames", name="frames").note(files=["a.ark"])
    (room / "out").write_text("")
    made = Made("out", ["frames"])
    made.note()
    os.utime(room / "frames/a.ark", (1, 1))
    assert made.fresh()
    for text in ("two", None):
        (room / "frames/a.ark").write_text(text) if text else (room / "frames/a.ark").unlink()
        assert made.difference() == "frames has changed"
        Made("out", ["frames"]).note()
