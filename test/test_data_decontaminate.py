"""Text without lines that share words with test sets: against brute force, and the corpora's own figures."""

import itertools
import os
import random
import re
from pathlib import Path

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import decontaminate as command
from espnet_llmvq.data.decontaminate import decontaminate

CORPORA = Path(os.environ.get("CORPORA") or "nowhere")


def put(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def rows(out):
    return [line.split("\t") for line in Path(f"{out}.dropped.tsv").read_text().splitlines()]


def naive(line, utterance, length):
    """Whether some words of the utterance, `length` in a row, stand in the line: by looking for each."""
    line, said = ([w for w in re.split(r"[^a-z]+", side.lower()) if w] for side in (line, utterance))
    parts = [said[i : i + length] for i in range(len(said)) if i + length <= len(said)]
    return any(line[i : i + length] == part for part in parts for i in range(len(line)))


# {words in a row: words there are}, so that about half of the lines share some.
@pytest.mark.parametrize("length, vocabulary", {1: 800, 3: 7, 7: 2}.items())
def test_against_brute_force(tmp_path, length, vocabulary):
    rng = random.Random(length)
    words = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=3)][:vocabulary]

    def sentence():
        said = [rng.choice(words) for _ in range(rng.randint(1, 14))]
        return " ".join(rng.choice([word, word.upper(), f"“{word}”,", f"{word} —"]) for word in said)

    sets = {name: {f"{name}{i}": sentence() for i in range(5)} for name in "ab"}
    for name, table in sets.items():
        (tmp_path / name).mkdir()
        put(tmp_path / name / "text", [f"{utt} {text}" for utt, text in table.items()])
    lines = [sentence() for _ in range(300)]
    texts = [put(tmp_path / "1.txt", lines[:100]), put(tmp_path / "2.txt", lines[100:])]
    against, out = [str(tmp_path / name) for name in "ab"], str(tmp_path / "out.txt")
    shares, total, dropped = decontaminate(texts, against, out, length)

    shared = [{n: [u for u, text in t.items() if naive(line, text, length)] for n, t in sets.items()} for line in lines]
    kept = [line for line, found in zip(lines, shared) if not any(found.values())]
    assert Path(out).read_text().splitlines() == kept and 50 < len(kept) < 250
    assert (total, dropped) == (300, 300 - len(kept))
    for name, path in zip("ab", against):
        found = [found[name] for found in shared]
        assert shares[path] == (sum(map(bool, found)), len({utt for utts in found for utt in utts}))
    places = [f"{path}:{n}" for path, count in zip(texts, (100, 200)) for n in range(1, count + 1)]
    told = {(where, Path(name).name) for where, name, _, _ in rows(out)}
    assert told == {(place, name) for place, found in zip(places, shared) for name in "ab" if found[name]}
    for where, name, utt, run in rows(out):
        assert naive(lines[places.index(where)], run, length)
        assert naive(sets[Path(name).name][utt], run, length)


def test_lines_stay_as_they_are_and_the_rest_is_told(tmp_path, capsys):
    said = put(tmp_path / "text", ["u1 IT'S THE END OF IT ALL SHE SAID", "u2 THE END OF IT ALL", "u3"])
    lines = [
        "“It’s the end—of it all!” she said.", "The end of it all; she", "", "  Two  blanks. ",
        "It is the end of it all, he said.",
    ]  # fmt: skip
    text, out = put(tmp_path / "books.txt", lines), str(tmp_path / "clean" / "out.txt")
    command.main([text, "--against", said, "--words", "6", "--out", out])
    assert Path(out).read_text() == "  Two  blanks. \nIt is the end of it all, he said.\n"
    first = ["u1", "it's the end of it all"], ["u1", "the end of it all she"]
    assert rows(out) == [[f"{text}:{n}", said, *row] for n, row in enumerate(first, 1)]
    printed = capsys.readouterr().out
    assert f"{said}: 2 lines share words with 1 utterances\n{out}: 2 of 4 lines; 2 left out, listed in" in printed

    # Again: nothing is done, and the same is said.
    before = os.stat(out).st_mtime_ns
    command.main([text, "--against", said, "--words", "6", "--out", out])
    assert capsys.readouterr().out == printed and os.stat(out).st_mtime_ns == before
    put(tmp_path / "text", ["u1 TWO BLANKS"])
    command.main([text, "--against", said, "--words", "2", "--out", out])
    assert f"{said}: 1 lines share words with 1 utterances" in capsys.readouterr().out
    assert len(Path(out).read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda room: os.unlink(room / "books.txt"), "books.txt: cannot be read: No such file"),
        (lambda room: (room / "books.txt").write_bytes(b"fine\ncaf\xe9\n"), "books.txt:2: not UTF-8: byte 0xe9"),
        (lambda room: (room / "books.txt").write_text(""), "books.txt: is empty"),
        (lambda room: os.unlink(room / "set" / "text"), "set/text: cannot be read"),
        (lambda room: (room / "set" / "text").write_text("u a\nu b\n"), "set/text:2: u: this id has other content"),
        (lambda room: (room / "books.txt").write_text("so it goes on and on\n"), "no line is left of 1"),
        (lambda room: (room / "out.txt").write_text("mine\n"), "out.txt: is there, and not made here"),
        (lambda room: (room / "out.txt.dropped.tsv").write_text("mine\n"), "dropped.tsv: is there, and not made here"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, change, message):
    (tmp_path / "set").mkdir()
    put(tmp_path / "set" / "text", ["u SO IT GOES ON AND ON"])
    text = put(tmp_path / "books.txt", ["so it goes on and on", "not here"])
    change(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        decontaminate([text], [tmp_path / "set"], tmp_path / "out.txt", 3)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_output_is_none_of_the_inputs(tmp_path):
    text, said = put(tmp_path / "books.txt", ["a"]), put(tmp_path / "text", ["u B"])
    for out in (text, said):
        with pytest.raises(UserError, match="would replace the input"):
            decontaminate([text], [said], out)


@pytest.mark.skipif(not (CORPORA / "mini_librispeech").is_dir(), reason="set CORPORA to a folder with mini_librispeech")
def test_books_that_were_read_aloud(tmp_path):
    """Counted when these texts were put together: 116 paragraphs and 4 other lines, with 126 of 1,519 utterances.

    One paragraph more is found where a quotation ends within the seven words.
    """
    home = CORPORA / "mini_librispeech" / "LibriSpeech" / "train-clean-5"
    said = sorted(line for path in home.glob("*/*/*.trans.txt") for line in path.read_text().splitlines())
    texts = [str(path) for path in sorted((CORPORA / "text").glob("*.txt"))]
    assert len(said) == 1519 and len(texts) == 7
    path = put(tmp_path / "said", said)
    shares, _, dropped = decontaminate(texts, [path], tmp_path / "out.txt")
    assert shares == {path: (121, 126)} and dropped == 121
    assert sum("/standardebooks_paragraphs.txt:" in where for where, *_ in rows(tmp_path / "out.txt")) == 117
