"""Word times from elsewhere: TextGrid files written by hand, the import command, and the HMM aligner."""

import re

import numpy as np
import pytest

from espnet_llmvq.align.ctm import Word, read_ctm, write_ctm
from espnet_llmvq.align.textgrid import read_textgrid, read_textgrids
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.align import import_ as command

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = "several phones 3 <here>"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.7
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = "Say"
        intervals [3]:
            xmin = 0.5
            xmax = 1
            text = "naïve"
        intervals [4]:
            xmin = 1
            xmax = 1.5
            text = "\"\"no\"\","
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
1
"IntervalTier"
"words"
0
1.5
4
0
0.25
""
0.25
0.5
"Say"
0.5
1
"naïve"
1
1.5
"\"\"no\"\","
"""
COMMENTED = SHORT.replace("<exists>\n1\n", "<exists> ! with tiers: 7\n1 tier, 0.25x\n")
WORDS = [Word("Say", 0.25, 0.25), Word("naïve", 0.5, 0.5), Word('"no",', 1.0, 0.5)]


@pytest.mark.parametrize("text", [LONG, SHORT, COMMENTED], ids=["long", "short", "commented"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_textgrid_forms(tmp_path, text, encoding, newline):
    path = tmp_path / "u.TextGrid"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path.write_bytes(mark + text.replace("\n", newline).encode(encoding))
    assert read_textgrid(path) == WORDS


def test_textgrid_to_ctm_and_back(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/u1.TextGrid").write_text(LONG, encoding="utf-8")
    (tmp_path / "u2.textgrid").write_text(SHORT.replace("Say", "Do"), encoding="utf-8")
    found = read_textgrids(tmp_path)
    write_ctm(tmp_path / "w.ctm", found)
    assert (tmp_path / "w.ctm").read_text(encoding="utf-8").splitlines()[:3] == [
        "u1 1 0.250 0.250 Say",
        "u1 1 0.500 0.500 naïve",
        'u1 1 1.000 0.500 "no",',
    ]
    assert read_ctm(tmp_path / "w.ctm") == found
    (tmp_path / "u1.TextGrid").write_text(LONG, encoding="utf-8")
    with pytest.raises(UserError, match=r"a/u1.TextGrid: another .* same utterance id|u1.TextGrid: another"):
        read_textgrids(tmp_path)


def line_of(text, part):
    return text[: text.index(part)].count("\n") + 1


@pytest.mark.parametrize(
    "old, new, line, message",
    [
        ('"TextGrid"', '"Pitch"', 2, "not a TextGrid"),
        ('"ooTextFile"', '"ooBinaryFile"', 1, "not a TextGrid"),
        ("0.25\n0.5\n", "0.5\n0.25\n", line_of(SHORT, "0.25\n0.5"), "from 0.5 to 0.25 s"),
        ("0.5\n1\n", "0.4\n1\n", line_of(SHORT, "0.5\n1\n"), "begins at 0.4 s, the one before ends at 0.5"),
        ('"Say"', '"Say it"', line_of(SHORT, "0.25\n0.5"), "'Say it' holds several words"),
        ('"Say"', "Say", line_of(SHORT, '"Say"') + 1, "the label of an interval should be here, not 0.5"),
        ('"""no"","', '"""no"",', line_of(SHORT, '"""no'), "closing quote"),
        ('"IntervalTier"', '"Tier"', line_of(SHORT, '"IntervalTier"'), "class of a tier is 'Tier'"),
        ("1.5\n4\n", "1.5\n4.5\n", line_of(SHORT, "4\n0\n"), "number of intervals is 4.5"),
        ("1.5\n4\n", "1.5\n5\n", SHORT.count("\n"), "the file ends where the start of an interval"),
    ],
)
def test_bad_textgrid_is_named(tmp_path, old, new, line, message):
    path = tmp_path / "u.TextGrid"
    assert SHORT.count(old) >= 1
    path.write_text(SHORT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_textgrid(path)
    assert str(error.value).startswith(f"{path}:{line}: ")


def test_other_faults_of_textgrids(tmp_path):
    path = tmp_path / "u.TextGrid"
    path.write_text(LONG, encoding="utf-8")
    with pytest.raises(UserError, match="no tier 'word'; it has 'phones', 'clicks', 'words'"):
        read_textgrid(path, "word")
    with pytest.raises(UserError, match="'clicks' has points"):
        read_textgrid(path, "clicks")
    path.write_bytes(b'File type = "ooTextFile"\n"na\xefve"\n')
    with pytest.raises(UserError, match=r"u.TextGrid:2: neither UTF-8 nor UTF-16"):
        read_textgrid(path)
    with pytest.raises(UserError, match="No such file"):
        read_textgrid(tmp_path / "none.TextGrid")
    with pytest.raises(UserError, match=r"no \*.TextGrid"):
        read_textgrids(tmp_path / "empty")


def data_dir(path, utterances):
    """A formatted data directory; utterances: {id: (text, samples)}."""
    path.mkdir()
    for name, line in (
        ("wav.scp", lambda u, t, n: f"{path}/{u}.wav"),
        ("text", lambda u, t, n: t),
        ("utt2spk", lambda u, t, n: u),
        ("utt2num_samples", lambda u, t, n: n),
    ):
        (path / name).write_text("".join(f"{u} {line(u, *v)}\n" for u, v in utterances.items()))
    return str(path)


def test_ctm_is_checked(tmp_path, capsys):
    n = 16000
    data = data_dir(
        tmp_path / "data",
        {"u1": ("Good hey.", n), "u2": ("good", n), "u3": ("good", n), "u4": ("a b", n), "u5": ("a", n)},
    )
    given = {
        "u1": [Word("<eps>", 0.0, 0.1), Word("good", 0.1, 0.3), Word("hey", 0.4, 0.605)],
        "u2": [Word("god", 0.1, 0.3)],
        "u3": [Word("good", 0.1, 1.3)],
        "u4": [Word("a", 0.1, 0.5), Word("b", 0.2, 0.5)],
        "u6": [Word("a", 0.1, 0.5)],
    }
    write_ctm(tmp_path / "in.ctm", given)
    write_ctm(tmp_path / "true.ctm", {"u1": [Word("good", 0.11, 0.3), Word("hey", 0.41, 0.6)]})
    out = tmp_path / "out/w.ctm"
    command.main(
        ["--data_dir", data, "--ctm", f"{tmp_path}/in.ctm", "--out", str(out), "--reference", f"{tmp_path}/true.ctm"]
    )
    assert read_ctm(out) == {"u1": given["u1"][1:]}
    failed = dict(line.split(" ", 1) for line in (tmp_path / "out/w.ctm.failed").read_text().splitlines())
    assert {utt: re.split(": |$", why)[0] for utt, why in failed.items()} == {
        "u2": "words differ",
        "u3": "alignment runs past the audio",
        "u4": "alignment overlaps",
        "u5": "no alignment",
        "u6": "not in the data directory",
    }
    printed = capsys.readouterr().out
    assert "1 of 6 utterances aligned, 5 failed" in printed and "word starts: error median 10 ms" in printed
    assert (tmp_path / "out/w.ctm.report.png").read_bytes().startswith(b"\x89PNG")


def test_textgrids_are_imported(tmp_path):
    data = data_dir(tmp_path / "data", {"u1": ('say "naive" no', 24000), "u2": ("say naïve no", 24000)})
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids/u1.TextGrid").write_text(SHORT, encoding="utf-8")
    (tmp_path / "grids/u2.TextGrid").write_text(SHORT, encoding="utf-8")
    command.main(["--data_dir", data, "--textgrid", f"{tmp_path}/grids", "--out", f"{tmp_path}/w.ctm"])
    assert read_ctm(tmp_path / "w.ctm") == {"u2": WORDS}
    assert (tmp_path / "w.ctm.failed").read_text().startswith("u1 words differ: word 2 is '\"naive\"'")


def test_hmm_aligner_finds_words_of_its_dictionary():
    pytest.importorskip("pocketsphinx")
    pytest.importorskip("espeakng_loader")
    from espnet_llmvq.align.hmm import HmmAligner
    from espnet_llmvq.data.espeak import Espeak

    text = "The Weather, I don't know, was “nice” yesterday."
    wave, truth = Espeak().speak(text, "en-us+f2")
    aligner = HmmAligner()
    for _ in range(2):  # an utterance leaves nothing behind
        words = aligner.align(text.split(), wave)
        assert [w.word for w in words] == text.split()
        errors = [abs(a - b) for w, (start, end, _) in zip(words, truth) for a, b in ((w.start, start), (w.end, end))]
        assert np.median(errors) < 0.05
        with pytest.raises(ValueError, match="not in the dictionary: 'Zzxq,'"):
            aligner.align(["the", "Zzxq,"], wave)
        with pytest.raises(ValueError, match="found no path"):
            aligner.align(text.split(), wave[:1600])
    with pytest.raises(ValueError, match="empty"):
        aligner.align([], wave)


def test_hmm_aligner_without_pocketsphinx(monkeypatch):
    from espnet_llmvq.align.hmm import HmmAligner

    monkeypatch.setitem(__import__("sys").modules, "pocketsphinx", None)
    with pytest.raises(UserError, match="pip install"):
        HmmAligner()


@pytest.mark.parametrize("sources", [[], ["--ctm", "a.ctm", "--textgrid", "grids"]])
def test_one_source_of_word_times_is_needed(tmp_path, sources):
    with pytest.raises(UserError, match="one of --ctm and --textgrid"):
        command.main(["--data_dir", str(tmp_path), "--out", str(tmp_path / "out.ctm"), *sources])
