"""Data directories: every defect is named, repairs lose nothing silently, against brute force."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import fix as fix_data_dir
from espnet_llmvq.cli.data import subset as subset_data_dir
from espnet_llmvq.cli.data import validate as validate_data_dir
from espnet_llmvq.data import subset
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.combine import combine_data
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.filter import filter_data
from espnet_llmvq.data.tables import Problem, read_scp, scan

UTTS = ["a-1", "a-2", "b-1", "b-2", "c-1"]


def lines(path, new=None):
    """Read a file as lines, or write them."""
    if new is not None:
        Path(path).write_bytes("".join(f"{line}\n" for line in new).encode())
    return Path(path).read_bytes().decode().split("\n")[:-1]


def edit(path, number, new):
    """Replace line `number` (from 1) by a list of lines."""
    old = lines(path)
    old[number - 1 : number] = new
    lines(path, old)


def make(root, utts=UTTS, prefix="", segments=False, seconds=0.05):
    """A clean directory with 0.05 s of 8 kHz noise per utterance; segments cut two per file."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    utts = sorted(prefix + u for u in utts)
    wavs = sorted({"r" + u[:-2] for u in utts}) if segments else utts
    for name in wavs:
        samples = rng.standard_normal(round(seconds * 8000)) * 0.1
        soundfile.write(root / f"{name}.wav", samples, 8000, subtype="PCM_16")
    lines(root / "wav.scp", [f"{w} {root}/{w}.wav" for w in wavs])
    if segments:
        cut = {"1": "0.0 0.02", "2": "0.02 0.05"}
        lines(root / "segments", [f"{u} r{u[:-2]} {cut[u[-1]]}" for u in utts])
    lines(root / "text", [f"{u} Hello, {u}!" for u in utts])
    lines(root / "utt2spk", [f"{u} {u[:-2]}" for u in utts])
    spks = sorted({u[:-2] for u in utts})
    lines(root / "spk2utt", [f"{s} " + " ".join(u for u in utts if u[:-2] == s) for s in spks])
    lines(root / "entities", [f"{utts[1]}\tcity=New York\tday=1"])
    lines(root / "words.ctm", [f"{u} 1 {t} 0.01 hello" for u in utts for t in ("0.00", "0.02")])
    lines(root / "utt2uniq", [f"{u} {u}" for u in utts])
    lines(root / "spk2gender", [f"{s} f" for s in spks])
    return root


def found(path, **options):
    """{(file name, line, utt)} the validator names."""
    return {(Path(p.file).name, p.line, p.utt) for p in validate(path, **options)}


@pytest.mark.parametrize("segments", [False, True])
def test_clean_directory_has_no_problem_and_round_trips(tmp_path, segments, capsys):
    d = make(tmp_path / "d", segments=segments)
    assert validate(d) == []
    assert validate_data_dir.main([str(d)]) == 0
    assert fix_data_dir.main([str(d)]) == 0
    assert not (d / ".backup").exists() and not (d / "dropped.tsv").exists()
    DataDir.load(d).write(tmp_path / "e")
    for name in ("wav.scp", "text", "utt2spk", "spk2utt", "entities", "words.ctm", "utt2uniq"):
        assert lines(d / name) == lines(tmp_path / "e" / name)
    assert DataDir.load(d).entities == {"a-2": [("city", "New York"), ("day", "1")]}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def edited(name, number, *new):
    return lambda d: edit(d / name, number, new)


def bytewise(name, change):
    return lambda d: (d / name).write_bytes(change((d / name).read_bytes()))


# name: (damage, the one place it is named at, the utterance that a repair drops or "" or None if there is none)
ALL = set(UTTS)
DEFECTS = {
    "missing text": (lambda d: (d / "text").unlink(), "text:0:-", None),
    "missing spk2utt": (lambda d: (d / "spk2utt").unlink(), "spk2utt:0:-", ""),
    "unsorted": (lambda d: lines(d / "text", lines(d / "text")[::-1]), "text:2:b-2", ""),
    "exact duplicate": (edited("text", 2, *["a-2 Hello, a-2!"] * 2), "text:3:a-2", ""),
    "conflicting duplicate": (edited("text", 2, "a-2 Hello, a-2!", "a-2 Bye"), "text:3:a-2", None),
    "not in wav.scp": (edited("wav.scp", 3), "text:3:b-1", "b-1"),
    "not in text": (edited("text", 3), "wav.scp:3:b-1", "b-1"),
    "not in spk2utt": (edited("spk2utt", 1, "a a-1"), "utt2spk:2:a-2", ""),
    "wrong speaker": (edited("utt2spk", 2, "a-2 b"), "spk2utt:1:a-2", ""),
    "missing audio": (lambda d: (d / "b-2.wav").unlink(), "wav.scp:4:b-2", "b-2"),
    "unreadable audio": (bytewise("b-2.wav", lambda x: b"noise" * 99), "wav.scp:4:b-2", "b-2"),
    "no samples": (lambda d: soundfile.write(d / "b-2.wav", np.zeros(0), 8000), "wav.scp:4:b-2", "b-2"),
    "empty audio file": (bytewise("c-1.wav", lambda x: b""), "wav.scp:5:c-1", "c-1"),
    "truncated audio": (bytewise("a-1.wav", lambda x: x[:-100]), "wav.scp:1:a-1", "a-1"),
    "not UTF-8": (bytewise("text", lambda x: x.replace(b"b-2!", b"\xe9!")), "text:4:b-2", None),
    "empty text": (edited("text", 5, "c-1 "), "text:5:c-1", "c-1"),
    "CRLF": (edited("text", 3, "b-1 Hello, b-1!\r"), "text:3:b-1", ""),
    "byte order mark": (bytewise("text", lambda x: b"\xef\xbb\xbf" + x), "text:1:a-1", ""),
    "pipe": (edited("wav.scp", 1, "a-1 sph2pipe -f wav x.sph |"), "wav.scp:1:a-1", None),
    "unknown utterance in entities": (edited("entities", 1, "a-2\tcity=Rome", "x-9\tcity=Oslo"), "entities:2:x-9", ""),
}
SEGMENT_DEFECTS = {
    "past the end": "a-2 ra 0.02 0.07",
    "end before start": "a-2 ra 0.02 0.01",
    "unknown recording": "a-2 rx 0.02 0.05",
    "not numbers": "a-2 ra x 0.05",
    "too few fields": "a-2 ra 0.05",
    "not finite": "a-2 ra 0 nan",
}


def check_repair(d, left, capsys):
    """The repair leaves these utterances; None: there is none."""
    before = {p.name: p.read_bytes() for p in d.iterdir() if p.is_file()}
    capsys.readouterr()
    status = validate_data_dir.main([str(d), "--fix", "true"])
    out = capsys.readouterr().out
    if left is None:
        assert status == 1
        assert {p.name: p.read_bytes() for p in d.iterdir() if p.is_file()} == before
        return
    assert status == 0
    assert validate(d) == []
    data = DataDir.load(d)
    assert set(data.text) == left
    dropped = dict(line.split("\t") for line in lines(d / "dropped.tsv"))
    for utt in ALL - left:
        assert dropped[utt] and f"dropped: {utt}: {dropped[utt]}" in out
    for name, content in before.items():
        if not name.endswith(".wav"):
            assert (d / ".backup" / name).read_bytes() == content
    for name in ("words.ctm", "utt2uniq"):
        assert {r.key for r in scan(d / name)[0]} == left
    assert fix_data_dir.main([str(d)]) == 0  # the second run finds nothing
    assert not (d / ".backup.1").exists()


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_named_and_repaired(tmp_path, name, capsys):
    damage, place, dropped = DEFECTS[name]
    d = make(tmp_path / "d")
    damage(d)
    file, line, utt = place.split(":")
    assert found(d) == {(file, int(line), utt)}
    assert validate_data_dir.main([str(d)]) == 1
    assert f"{d}/{file}:{line}: {utt}: " in capsys.readouterr().out
    check_repair(d, None if dropped is None else ALL - {dropped}, capsys)


@pytest.mark.parametrize("name", SEGMENT_DEFECTS)
def test_segment_defect_is_named_and_repaired(tmp_path, name, capsys):
    d = make(tmp_path / "d", segments=True)
    edit(d / "segments", 2, [SEGMENT_DEFECTS[name]])
    assert ("segments", 2, "a-2") in found(d) and {f for f, _, _ in found(d)} == {"segments"}
    check_repair(d, ALL - {"a-2"}, capsys)


def test_broken_recording_takes_all_its_segments(tmp_path, capsys):
    d = make(tmp_path / "d", segments=True)
    truncate(d / "rb.wav")
    edit(d / "wav.scp", 3, [f"rc {d}/rc.wav", f"rd {d}/rc.wav"])
    assert found(d) == {("wav.scp", 2, "rb"), ("wav.scp", 4, "rd")}
    check_repair(d, ALL - {"b-1", "b-2"}, capsys)
    dropped = dict(line.split("\t") for line in lines(d / "dropped.tsv"))
    assert set(dropped) == {"b", "b-1", "b-2", "rb", "rd"}
    assert "truncated" in dropped["b-1"]
    assert [row.key for row in scan(d / "spk2gender")[0]] == ["a", "c"]


def test_rate_and_options(tmp_path, capsys):
    d = make(tmp_path / "d")
    assert validate(d, rate=8000) == []
    assert found(d, rate=16000) == {("wav.scp", i + 1, u) for i, u in enumerate(UTTS)}
    assert validate_data_dir.main([str(d), "--rate", "16000", "--fix", "true"]) == 1
    assert set(DataDir.load(d).text) == ALL  # the rate is no reason to drop
    (d / "a-1.wav").unlink()
    assert validate(d, audio=False) == []
    lines(d / "text", [f"{u}" for u in UTTS])
    assert validate(d, audio=False, allow_empty_text=True) == []


def test_repair_that_would_leave_nothing_is_refused(tmp_path):
    d = make(tmp_path / "d")
    for wav in d.glob("*.wav"):
        wav.unlink()
    with pytest.raises(UserError, match="no utterance would be left"):
        fix_data_dir.main([str(d)])
    assert not (d / ".backup").exists() and validate(d, audio=False) == []


def test_earlier_backup_is_kept(tmp_path):
    d = make(tmp_path / "d")
    edit(d / "text", 1, [])
    first = (d / "text").read_bytes()
    fix_data_dir.main([str(d)])
    edit(d / "text", 1, [])
    fix_data_dir.main([str(d)])
    assert (d / ".backup.1" / "text").read_bytes() == first
    assert lines(d / ".backup" / "dropped.tsv")[0].startswith("a-1\t")


def test_strange_blanks_and_line_separators(tmp_path):
    lines(tmp_path / "text", ["u1\tone  two\u2028three ", "u2 \u3000", "  u3 x"])
    assert read_scp(tmp_path / "text") == {"u1": "one  two\u2028three", "u2": "\u3000", "u3": "x"}
    lines(tmp_path / "text", ["u1"])
    with pytest.raises(UserError, match="text:1: u1: "):
        read_scp(tmp_path / "text")


def test_c_locale_order(tmp_path):
    ids = ["Z", "a", "a-b", "a_b", "aB", "é", "\uffee", "\U0001f600"]
    expected = [b.decode() for b in sorted(i.encode() for i in ids)]
    data = DataDir({i: "x.wav" for i in ids}, {i: "t" for i in ids}, {i: "s" for i in ids})
    data.write(tmp_path / "d")
    assert [line.split()[0] for line in lines(tmp_path / "d" / "text")] == expected
    assert validate(tmp_path / "d", audio=False) == []


def brute_force(d, broken):
    """Problems as (file, line, utt), naively."""
    table = {n: [x.split(" ", 1) for x in lines(d / n)] for n in ("wav.scp", "text", "utt2spk")}
    ids = {n: [row[0] for row in rows] for n, rows in table.items()}
    problems = set()
    for name, rows in table.items():
        for i, row in enumerate(rows):
            for j in range(i):
                if rows[j][0] == row[0]:
                    problems.add((name, i + 1, row[0]))
        late = [i for i in range(len(rows)) if any(rows[j][0] > rows[i][0] for j in range(i))]
        if late:
            problems.add((name, late[0] + 1, rows[late[0]][0]))
    for utt in {u for column in ids.values() for u in column}:
        have = [n for n in ("text", "wav.scp", "utt2spk") if utt in ids[n]]
        if len(have) < 3:
            problems.add((have[0], ids[have[0]].index(utt) + 1, utt))
        for i, row in enumerate(table["text"]):
            if row[0] == utt and (len(row) < 2 or not row[1]):
                problems.add(("text", i + 1, utt))
        for i, row in enumerate(table["wav.scp"]):
            if row[0] == utt and Path(row[1]).name in broken:
                problems.add(("wav.scp", i + 1, utt))
    listed = {(i + 1, row.split()[0], u) for i, row in enumerate(lines(d / "spk2utt")) for u in row.split()[1:]}
    for number, spk, utt in listed:
        if [utt, spk] not in table["utt2spk"]:
            problems.add(("spk2utt", number, utt))
    for i, utt in enumerate(ids["utt2spk"]):
        if utt not in {u for _, _, u in listed}:
            problems.add(("utt2spk", i + 1, utt))
    known = {u for column in ids.values() for u in column}
    for name in ("entities", "words.ctm", "utt2uniq"):
        for i, row in enumerate(lines(d / name)):
            if row.split()[0] not in known:
                problems.add((name, i + 1, row.split()[0]))
    speakers = {row[1] for row in table["utt2spk"]}
    for i, row in enumerate(lines(d / "spk2gender")):
        if row.split()[0] not in speakers:
            problems.add(("spk2gender", i + 1, row.split()[0]))
    return problems


def test_random_damage_against_brute_force(tmp_path):
    clean = make(tmp_path / "clean")
    for seed in range(50):
        rng = random.Random(seed)
        d = tmp_path / f"d{seed}"
        shutil.copytree(clean, d)
        lines(d / "wav.scp", [f"{u} {d}/{u}.wav" for u in UTTS])
        broken = set()
        for _ in range(rng.randint(1, 4)):
            name = rng.choice(["wav.scp", "text", "utt2spk"])
            content = lines(d / name)
            number = rng.randint(1, len(content))
            old = content[number - 1]
            kind = rng.choice(["remove", "repeat", "swap", "blank", "audio", "other", "remove"])
            if kind == "remove":
                edit(d / name, number, [])
            elif kind == "repeat":
                edit(d / name, rng.randint(1, len(content)), [old, content[number - 1]])
            elif kind == "swap":
                rng.shuffle(content)
                lines(d / name, content)
            elif kind == "blank":
                text = lines(d / "text")
                k = rng.randint(1, len(text))
                edit(d / "text", k, [text[k - 1].split()[0]])
            elif kind == "audio":
                wav = d / f"{rng.choice(UTTS)}.wav"
                if wav.name not in broken:
                    rng.choice([truncate, lambda p: p.write_bytes(b"")])(wav)
                broken.add(wav.name)
            elif kind == "other" and rng.random() < 0.4:
                edit(d / name, number, [old, old + "x"])
        assert found(d, nj=1) == brute_force(d, broken), seed


def test_subset(tmp_path, capsys):
    d = make(tmp_path / "d")

    def run(*args):
        subset_data_dir.main([*map(str, args), str(tmp_path / "s")])
        assert validate(tmp_path / "s") == []
        data = DataDir.load(tmp_path / "s")
        assert set(data.extra["words.ctm"]) == set(data.text) == set(data.extra["utt2uniq"])
        return data.utts

    assert run("--first", d, 2) == ["a-1", "a-2"]
    assert run("--last", d, 2) == ["b-2", "c-1"]
    assert run("--per-spk", d, 1) == ["a-1", "b-1", "c-1"]
    assert len(run(d, 3)) == 3
    lines(tmp_path / "list", ["c-1", "a-2 more"])
    assert run("--utt_list", tmp_path / "list", d) == ["a-2", "c-1"]
    assert lines(tmp_path / "s" / "entities") == lines(d / "entities")
    for bad in ([d, 6], [d, 0], [d, "x"]):
        with pytest.raises(UserError):
            run(*bad)
    lines(tmp_path / "list", ["c-1", "zz"])
    with pytest.raises(UserError, match="list:2: zz"):
        run("--utt_list", tmp_path / "list", d)


def test_subset_follows_recordings_and_removes_stale_files(tmp_path):
    d = make(tmp_path / "d", segments=True)
    data = DataDir.load(d).subset(["a-2", "c-1"])
    assert set(data.wav_scp) == {"ra", "rc"} and set(data.segments) == {"a-2", "c-1"}
    data.write(tmp_path / "s")
    DataDir.load(make(tmp_path / "e")).write(tmp_path / "s")
    assert not (tmp_path / "s" / "segments").exists() and validate(tmp_path / "s") == []


def test_spread_and_per_speaker_counts():
    for total in range(1, 40):
        items = list(range(total))
        for count in range(1, total + 1):
            got = subset.spread(items, count)
            assert len(got) == count == len(set(got)) and got == sorted(got)
            if 2 * count <= total:  # evenly: both halves hold half of them
                assert abs(sum(i < total // 2 for i in got) - count / 2) <= 0.5
        for count in range(1, 45):
            got = subset.per_speaker(items, count)
            assert len(got) == min(count, total) and got == sorted(set(got))


def test_combine(tmp_path, capsys):
    a, b = make(tmp_path / "a"), make(tmp_path / "b", prefix="x", segments=True)
    (b / "utt2uniq").unlink()
    lines(a / "utt2num_samples", [f"{u} 400" for u in UTTS])
    combine_data([str(a), str(b)], str(tmp_path / "c"))
    assert "utt2num_samples: not combined" in capsys.readouterr().err
    assert validate(tmp_path / "c") == []
    data = DataDir.load(tmp_path / "c")
    assert set(data.text) == ALL | {"x" + u for u in UTTS}
    assert data.segments["a-1"] == ("a-1", 0.0, 0.05)
    assert data.extra["utt2uniq"]["xa-1"] == ["xa-1"]
    assert set(data.entities) == {"a-2", "xa-2"}
    with pytest.raises(UserError, match="a-1: also in"):
        combine_data([str(a), str(a)], str(tmp_path / "e"))
    assert not (tmp_path / "e").exists()


def test_filter(tmp_path, capsys):
    d = make(tmp_path / "d")
    counts = [1599, 1600, 320000, 320001, 5000]
    lines(d / "utt2num_samples", [f"{u} {n}" for u, n in zip(UTTS, counts, strict=True)])
    edit(d / "text", 5, ["c-1"])
    assert filter_data(str(d), str(tmp_path / "f"))
    assert set(DataDir.load(tmp_path / "f").text) == {"a-2", "b-1"}
    dropped = [line.split("\t")[0] for line in lines(tmp_path / "f" / "dropped.tsv")]
    assert dropped == ["a-1", "b-2", "c-1"]
    assert "kept 2 of 5 utterances, dropped 3" in capsys.readouterr().out
    (d / "utt2num_samples").unlink()
    with pytest.raises(UserError, match="llmvq data format"):
        filter_data(str(d), str(tmp_path / "f"))


def test_load_names_line_and_count(tmp_path):
    d = make(tmp_path / "d")
    edit(d / "wav.scp", 2, ["a-2 cat x |"])
    edit(d / "text", 4, [])
    with pytest.raises(UserError, match=r"wav.scp:2: a-2: pipes .*1 more"):
        DataDir.load(d)
    with pytest.raises(UserError, match="not found"):
        DataDir.load(tmp_path / "nowhere")


def test_problem_prints_as_one_line():
    assert str(Problem("d/text", 3, "u", "wrong", "do this")) == "d/text:3: u: wrong (do this)"


def test_ids_hold_no_white_space_of_any_kind(tmp_path):
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.zeros(1600), 16000)
    lines = {"wav.scp": f"a\u00a0b {wav}", "text": "a\u00a0b hi", "utt2spk": "a\u00a0b s", "spk2utt": "s a\u00a0b"}
    for name, line in lines.items():
        (tmp_path / name).write_text(f"{line}\n", encoding="utf-8")
    (problem,) = validate(tmp_path)
    assert problem.message == "the id 'a\\xa0b' holds white space" and problem.repair == "hand"
