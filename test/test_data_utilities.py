"""Kaldi's utilities on randomly damaged directories: each agrees with a naive reader, none ends in a traceback.

The naive reader below shares no code with the package: it decides what is broken, what a repair keeps, and whether a
directory can be read at all.
"""

import math
import random
import shutil
import traceback
import wave

import numpy as np
import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import combine as combine_data
from espnet_llmvq.cli.data import copy as copy_data_dir
from espnet_llmvq.cli.data import durations as get_utt2dur
from espnet_llmvq.cli.data import fix as fix_data_dir
from espnet_llmvq.cli.data import segments as extract_segments
from espnet_llmvq.cli.data import speed as perturb_data_dir_speed
from espnet_llmvq.cli.data import spk2utt as utt2spk_to_spk2utt
from espnet_llmvq.cli.data import subset as subset_data_dir
from espnet_llmvq.cli.data import validate as validate_data_dir
from espnet_llmvq.data.subset import per_speaker

RATE = 8000
# In the C locale "B" sorts before "a" and "-" before "_"; other locales disagree.
UTTS = ["B-1", "B_2", "a-1", "a_1", "c-1", "é-1"]
SPK = {u: u[0] for u in UTTS}


def write_wav(path, samples):
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(RATE)
        f.writeframes(np.full(samples, 1000, dtype="<i2").tobytes())


def put(path, lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def make(root, segments, prefix=""):
    """A clean directory of utterances of 400, 480, ... samples; with segments, two in each recording."""
    root.mkdir(parents=True)
    utts = sorted(prefix + u for u in UTTS)
    seconds = {u: (400 + 80 * i) / RATE for i, u in enumerate(utts)}
    if segments:
        rec = {u: f"{prefix}r{i // 2}" for i, u in enumerate(utts)}
        for name in sorted(set(rec.values())):
            write_wav(root / f"{name}.wav", 1600)
        put(root / "wav.scp", [f"{r} {root}/{r}.wav" for r in sorted(set(rec.values()))])
        put(root / "segments", [f"{u} {rec[u]} 0.01 {0.01 + seconds[u]:.3f}" for u in utts])
        put(root / "reco2file_and_channel", [f"{r} {r} A" for r in sorted(set(rec.values()))])
    else:
        for u in utts:
            write_wav(root / f"{u}.wav", round(seconds[u] * RATE))
        put(root / "wav.scp", [f"{u} {root}/{u}.wav" for u in utts])
    put(root / "text", [f"{u} words of {u}" for u in utts])
    put(root / "utt2spk", [f"{u} {prefix}{u[len(prefix)]}" for u in utts])
    spks = sorted({prefix + u[len(prefix)] for u in utts})
    put(root / "spk2utt", [" ".join([s, *(u for u in utts if u[: len(s)] == s)]) for s in spks])
    put(root / "entities", [f"{utts[1]}\tcity=New York"])
    put(root / "utt2dur", [f"{u} {seconds[u]:g}" for u in utts])
    put(root / "utt2lang", [f"{u} en" for u in utts])
    put(root / "spk2gender", [f"{s} f" for s in spks])
    put(root / "words.ctm", [f"{u} 1 {t} 0.01 words" for u in utts for t in ("0.00", "0.02")])
    return root


LISTS = ["wav.scp", "text", "utt2spk", "spk2utt", "utt2dur", "utt2lang", "entities", "spk2gender", "words.ctm"]


def damage(root, rng):
    """One random defect."""
    segmented = (root / "segments").exists()
    name = rng.choice([*LISTS, *["segments"] * 3] if segmented else LISTS)
    path = root / name
    if not path.exists():
        return
    data = path.read_bytes()
    lines = data.split(b"\n")[:-1]
    kind = rng.choice(KINDS)
    if kind == "delete" and name != "segments":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "bom":
        path.write_bytes(b"\xef\xbb\xbf" + data)
    elif kind == "no end":
        path.write_bytes(data.rstrip(b"\n"))
    elif kind == "crlf":
        path.write_bytes(data.replace(b"\r", b"").replace(b"\n", b"\r\n"))
    elif kind == "audio":
        sound = rng.choice(sorted(root.glob("*.wav")))
        rng.choice([lambda p: p.write_bytes(p.read_bytes()[:-100]), lambda p: p.unlink()])(sound)
    if kind in ("delete", "empty", "bom", "no end", "crlf", "audio") or not lines:
        return
    i = rng.randrange(len(lines))
    key = lines[i].split()[0] if lines[i].split() else b"x"
    if kind == "missing":
        del lines[i]
    elif kind == "twice":
        lines.insert(rng.randrange(len(lines) + 1), lines[i])
    elif kind == "conflict":
        lines.insert(i, key + b" other")
    elif kind == "shuffle":
        rng.shuffle(lines)
    elif kind == "locale":
        lines.sort(key=lambda line: line.lower().replace(b"-", b"").replace(b"_", b""))
    elif kind == "blank":
        lines.insert(i, rng.choice([b"", b"  ", b"\t"]))
    elif kind == "latin":
        lines[i] += b" caf\xe9"
    elif kind == "stray":
        lines.append(b"zz r9 0 1" if name == "segments" else b"zz stray")
    elif kind == "alone":
        lines[i] = key
    elif kind == "tab":
        lines[i] = lines[i].replace(b" ", b"\t", 1) + b" "
    elif kind == "times" and name == "segments":
        bad = [b"0.5 0.1", b"0 9", b"-1 0.1", b"nan 1", b"0 inf", b"a b", b"0", b"0.2 0.2", b"0 0.1 7"]
        lines[i] = b" ".join(lines[i].split()[:2]) + b" " + rng.choice(bad)
    elif kind == "pipe" and name == "wav.scp":
        lines[i] = key + b" cat x.wav |"
    path.write_bytes(b"".join(line + b"\n" for line in lines))


KINDS = ["missing", "twice", "shuffle", "locale", "blank", "stray", "alone", "tab", "crlf", "bom", "no end", "audio",
         "missing", "stray", "alone", "twice", "shuffle", "times", "times", "times", "delete", "empty", "conflict",
         "latin", "pipe"]  # fmt: skip


def naive_lines(path):
    """[(id, rest, whole line)] without blank lines, and whether all is UTF-8."""
    data = path.read_bytes()
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    rows, valid = [], True
    for line in data.split(b"\n"):
        line = line.strip(b" \t\r")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text, valid = line.decode(errors="replace"), False
        if text:
            parts = text.replace("\t", " ").split(" ", 1)
            rows.append((parts[0], text[len(parts[0]) :].strip(" \t"), text))
    return rows, valid


def naive_segment(rest):
    """(recording, start, end), None if it is not one."""
    parts = rest.split()
    try:
        rec, start, end = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        return None
    fine = len(parts) == 3 and math.isfinite(start) and math.isfinite(end) and 0 <= start < end
    return (rec, start, end) if fine else None


def naive_ctm(rest):
    """Whether a CTM line without its id has times and a word."""
    fields = rest.split()
    try:
        return len(fields) > 3 and all(0 <= float(x) < math.inf for x in fields[1:3])
    except ValueError:
        return False


def naive_samples(path):
    """Samples of a WAV file; None if it is not there or shorter than it says."""
    try:
        with wave.open(path) as f:
            promised = f.getnframes()
            return promised if len(f.readframes(promised)) == 2 * promised else None
    except (OSError, EOFError, wave.Error):
        return None


class Naive:
    """What a directory holds and what may be done with it.

    hand: a person has to act. clean: nothing to repair (audio looked at only if asked).
    kept: utterances with all their lines in order. drops: something goes.
    """

    def __init__(self, root, audio=True, empty_text=False):
        names = {p.name for p in root.iterdir() if p.is_file()}
        self.segmented = "segments" in names
        self.rows, self.hand = {}, False
        core = ["wav.scp", "text", "utt2spk"] + ["segments"] * self.segmented
        managed = [n for n in (*LISTS, "segments", "reco2file_and_channel") if n in names]
        for name in managed:
            self.rows[name], valid = naive_lines(root / name)
        self.hand = any(not self.rows.get(name) for name in core)
        for name in managed:
            rows, valid = self.rows[name], naive_lines(root / name)[1]
            first, conflict = {}, False
            for key, rest, _ in rows:
                conflict |= first.setdefault(key, rest) != rest
            rebuilt = name == "spk2utt" and self.rows.get("utt2spk")
            if not rebuilt:
                self.hand |= not valid or (conflict and not name.endswith(".ctm"))
        for _, rest, _ in self.rows.get("wav.scp", ()):
            self.hand |= rest.endswith("|")
        for _, rest, _ in self.rows.get("utt2spk", ()):
            self.hand |= len(rest.replace("\t", " ").split(" ")) > 1
        for _, rest, _ in self.rows.get("words.ctm", ()):
            self.hand |= not naive_ctm(rest)
        self.names = managed
        if self.hand:
            return
        value = {n: {k: v for k, v, _ in reversed(self.rows[n])} for n in core}
        samples = {k: naive_samples(p) if audio else 10**9 for k, p in value["wav.scp"].items() if p}
        recs = {k for k, n in samples.items() if n is not None}
        self.kept, self.segments = set(), {}
        everyone = set().union(*(value[n] for n in core if n != "wav.scp" or not self.segmented))
        for utt in everyone:
            fine = all(utt in value[n] for n in core if n != "wav.scp" or not self.segmented)
            fine = fine and value["utt2spk"][utt] and (empty_text or value["text"][utt])
            if fine and self.segmented:
                segment = naive_segment(value["segments"][utt])
                fine = segment and segment[0] in recs
                fine = fine and segment[2] <= samples[segment[0]] / RATE + 0.01
                if fine:
                    self.segments[utt] = segment
            elif fine:
                fine = utt in recs
            if fine:
                self.kept.add(utt)
        self.recs = {s[0] for s in self.segments.values()} if self.segmented else self.kept
        self.spk = {u: value["utt2spk"][u] for u in self.kept}
        self.value, self.samples = value, samples
        # A malformed segment still names its recording, so that recording is not called unused.
        named = {v.split()[0] for v in value.get("segments", {}).values() if v.split()}
        spks = set(value["utt2spk"].values())
        known = {"utt": everyone, "spk": spks, "rec": set(value["wav.scp"])}
        stray = any(
            k not in known[self.level(n)]
            for n in managed
            if n not in core and n != "spk2utt"
            for k, _, _ in self.rows[n]
        )
        listed = {u for _, rest, _ in self.rows.get("spk2utt", ()) for u in rest.split()}
        self.drops = (
            self.kept != everyone or stray or bool(listed - set(value["utt2spk"]))
            or (self.segmented and bool(set(value["wav.scp"]) - named))
            or any(not v for v in value["wav.scp"].values())
            or (audio and any(n is None for n in samples.values()))
        )  # fmt: skip

    def level(self, name):
        if name.startswith("spk2"):
            return "spk"
        return "rec" if name.startswith("reco2") or (name == "wav.scp" and self.segmented) else "utt"

    def repaired(self):
        """{file: content} after a repair."""
        ids = {"utt": self.kept, "spk": set(self.spk.values()), "rec": self.recs}
        files = {}
        for name in self.names:
            kept, seen = [], set()
            for key, _, line in self.rows[name]:
                if key in ids[self.level(name)] and (name.endswith(".ctm") or key not in seen):
                    seen.add(key)
                    kept.append((key, line))
            files[name] = "".join(line + "\n" for _, line in sorted(kept, key=lambda x: x[0].encode()))
        files["spk2utt"] = spk2utt(self.spk)
        return files


def spk2utt(spk):
    utts = sorted(spk, key=str.encode)
    return "".join(
        " ".join([s, *(u for u in utts if spk[u] == s)]) + "\n" for s in sorted(set(spk.values()), key=str.encode)
    )


def attempt(main, *arguments):
    """The exit status of a command, or "error" for a UserError; any other exception fails the test."""
    try:
        return main([str(a) for a in arguments]) or 0
    except UserError:
        return "error"


def table(path):
    return {k: v for k, v, _ in naive_lines(path)[0]}


def seconds(found, utt):
    if found.segmented:
        return found.segments[utt][2] - found.segments[utt][1]
    return found.samples[utt] / RATE


def check_fix(root, room, seen):
    copy = room / "fixed"
    shutil.copytree(root, copy)
    found = Naive(copy)
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    status = attempt(fix_data_dir.main, "--nj", 1, copy)
    if found.hand or not found.kept:
        assert status == (1 if found.hand else "error")
        assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
        seen.add("by hand" if found.hand else "nothing left")
        return
    assert status == 0
    same = ("--repeated_audio", "true")  # which many of them have, and nothing repairs
    assert attempt(validate_data_dir.main, *same, "--nj", 1, copy) == 0
    expected = found.repaired()
    changed = any(before.get(n, b"") != text.encode() for n, text in expected.items())
    for name, text in expected.items():
        if changed and (copy / ".backup").exists():
            assert (copy / name).read_text() == text, name
    assert attempt(validate_data_dir.main, *same, "--nj", 1, root) == (1 if (copy / ".backup").exists() else 0)
    assert set(table(copy / "text")) == found.kept
    seen.add("repaired" if found.drops else "rewritten" if changed else "clean")


def check_readers(root, room, seen, rng):
    """Every utility that reads a directory: an error exactly where the naive reader sees one."""
    found = Naive(root, audio=False, empty_text=True)
    sound = Naive(root, audio=True, empty_text=True)
    readable = not found.hand and not found.drops and bool(found.kept)
    n = rng.randint(1, len(UTTS))

    def run(main, *arguments, audio=False, possible=True):
        """Whether a command had to succeed, and did."""
        fine = readable and possible and (not audio or not sound.drops)
        assert attempt(main, *arguments) == (0 if fine else "error"), main.__module__
        seen.add((main.__module__.rpartition(".")[2], fine))
        return fine

    if run(copy_data_dir.main, "--utt-prefix=p-", "--spk-suffix=-s", root, room / "copy"):
        new = {u: "p-" + u for u in found.kept}
        assert table(room / "copy/text") == {new[u]: found.value["text"][u] for u in new}
        assert (room / "copy/spk2utt").read_text() == spk2utt({new[u]: found.spk[u] + "-s" for u in new})
        assert table(room / "copy/utt2uniq") == {v: k for k, v in new.items()}
        recs = found.value["wav.scp"] if found.segmented else {new[u]: found.value["wav.scp"][u] for u in new}
        assert table(room / "copy/wav.scp") == recs
        for name in {"entities", "utt2lang", "words.ctm"} & set(found.names):
            old = [line for line in found.repaired()[name].splitlines()]
            assert (room / "copy" / name).read_text().split() == [w for line in old for w in ("p-" + line).split()]
    utts = [] if found.hand else sorted(found.kept, key=str.encode)
    enough = n <= len(utts)
    lengths = found if found.segmented else sound
    known = readable and (found.segmented or not sound.drops)
    order = sorted(utts, key=lambda u: (seconds(lengths, u), u)) if known else []
    choices = {"--first": utts[:n], "--last": utts[-n:], "--shortest": order[:n], "--per-spk": None, "--speakers": None}
    how = rng.choice(list(choices))
    opens = how == "--shortest" and not found.segmented
    possible = enough or how == "--per-spk"
    if run(subset_data_dir.main, how, root, n, room / "subset", audio=opens, possible=possible):
        got = table(room / "subset/utt2spk")
        check_subset(how, n, choices[how], got, found)
        assert (room / "subset/spk2utt").read_text() == spk2utt(got)
        for name in {"text", "utt2lang"} & set(found.names):
            whole = table(root / name)
            assert table(room / "subset" / name) == {u: whole[u] for u in got if u in whole}
    opens = not found.segmented
    if "utt2dur" in found.names:  # the user's
        assert attempt(get_utt2dur.main, root) == "error"
        seen.add(("durations", False))
    elif run(get_utt2dur.main, root, audio=opens):
        got = {u: float(v) for u, v in table(root / "utt2dur").items()}
        assert got.keys() == found.kept
        assert all(abs(got[u] - seconds(sound if opens else found, u)) < 1e-6 for u in got)
    if found.segmented or found.hand:
        if run(extract_segments.main, "--nj", 1, root, room / "cut", audio=True, possible=found.segmented):
            check_samples(room / "cut", {u: seconds(sound, u) * RATE for u in sound.kept}, 1)
            assert not (room / "cut/segments").exists()
    if run(perturb_data_dir_speed.main, "--nj", 1, 0.5, root, room / "slow", audio=True):
        check_samples(room / "slow", {f"sp0.5-{u}": seconds(sound, u) * 16000 * 2 for u in sound.kept}, 2)


def check_subset(how, n, expected, got, found):
    if expected is not None:
        assert sorted(got) == sorted(expected)
    for spk in set(found.spk.values()):
        had = sum(s == spk for s in found.spk.values())
        has = sum(s == spk for s in got.values())
        if how == "--per-spk":
            assert has == min(n, had)
        elif how == "--speakers":
            assert has in (0, had)
    if how == "--speakers":
        assert len(got) >= n and any(len(got) - sum(s == spk for s in got.values()) < n for spk in got.values())


def check_samples(root, expected, slack):
    """The sound files of a directory have the expected numbers of samples."""
    got = {u: naive_samples(p) for u, p in table(root / "wav.scp").items()}
    assert got.keys() == expected.keys()
    assert all(abs(got[u] - expected[u]) <= slack for u in got), (got, expected)


def check_combine(root, room, other, seen):
    found = Naive(root, audio=False, empty_text=True)
    possible = not found.hand and bool(found.kept)
    if possible and not found.segmented:
        # The other directory has segments, so the lengths of whole files are needed.
        possible = all(naive_samples(found.value["wav.scp"][u]) is not None for u in found.kept)
    status = attempt(combine_data.main, room / "both", root, other)
    assert status == (0 if possible else "error")
    seen.add(("combine", possible))
    if not possible:
        return
    alone = Naive(other, audio=False)
    assert (room / "both/spk2utt").read_text() == spk2utt({**found.spk, **alone.spk})
    assert table(room / "both/text") == {u: d.value["text"][u] for d in (found, alone) for u in d.kept}
    cut = {u: tuple(map(float, v.split()[1:])) for u, v in table(room / "both/segments").items()}
    for u in found.kept:
        start, end = found.segments[u][1:] if found.segmented else (0, naive_samples(found.value["wav.scp"][u]) / RATE)  # noqa: E501
        assert cut[u] == pytest.approx((start, end))
    assert (room / "both/utt2dur").exists() == ("utt2dur" in found.names)


def compare(room, seed, clean, other, seen, capsys):
    """Damage a directory as `seed` says and compare every utility on it."""
    rng = random.Random(seed)
    segments = rng.random() < 0.5
    root = room / "d"
    shutil.copytree(clean[segments], root)
    if rng.random() < 0.5:
        (root / "utt2dur").unlink()
    text = (root / "wav.scp").read_text().replace(str(clean[segments]), str(root))
    (root / "wav.scp").write_text(text)
    for _ in range(rng.randint(0, 3)):
        damage(root, rng)
    found = Naive(root, audio=False)
    check_fix(root, room, seen)
    check_combine(root, room, other, seen)
    if not found.hand and not found.drops:
        capsys.readouterr()
        assert attempt(utt2spk_to_spk2utt.main, root / "utt2spk") == 0
        assert capsys.readouterr().out == spk2utt(found.spk)
    check_readers(root, room, seen, rng)


def test_damaged_directories_against_a_naive_reader(tmp_path, capsys):
    clean = {s: make(tmp_path / f"clean{s}", s) for s in (False, True)}
    other = make(tmp_path / "other", True, prefix="x")
    seen, wrong = set(), []
    for seed in range(200):
        room = tmp_path / f"d{seed}"
        try:
            compare(room, seed, clean, other, seen, capsys)
            shutil.rmtree(room)
        except AssertionError:
            wrong.append((seed, traceback.format_exc(limit=-2)))
    assert not wrong, f"{len(wrong)} of 200, the first with seed {wrong[0][0]}: {wrong[0][1]}"
    # The damage was of all sorts, and every utility met good and bad directories.
    commands = ["combine", "copy", "subset", "durations", "segments", "speed"]
    assert seen >= {(c, fine) for c in commands for fine in (True, False)}
    assert seen >= {"by hand", "repaired", "rewritten", "clean"}


@pytest.mark.parametrize(
    "had, kept", [(2, "01"), (3, "012"), (5, "012"), (6, "024"), (8, "024"), (9, "036"), (10, "036")]
)
def test_three_of_each_speaker_are_those_of_kaldi(had, kept):
    """By hand: Kaldi's step is the largest whole number that, taken three times, is no more than there are."""
    assert "".join(per_speaker("0123456789"[:had], 3)) == kept


def test_subset_by_speakers_and_lists(tmp_path, capsys):
    d = make(tmp_path / "d", True)

    def run(*arguments):
        subset_data_dir.main([*map(str, arguments), str(tmp_path / "s")])
        return sorted(table(tmp_path / "s/text"))

    put(tmp_path / "list", ["a", "B more"])
    assert run("--spk-list", tmp_path / "list", d) == ["B-1", "B_2", "a-1", "a_1"]
    assert table(tmp_path / "s/spk2gender").keys() == {"a", "B"}
    # B-1 is the shortest, each next one 10 ms longer
    assert run("--shortest", d, 3) == ["B-1", "B_2", "a-1"]
    drawn = [run("--speakers", "--seed", i, d, 2) for i in range(8)]
    assert {len(utts) for utts in drawn} <= {2, 3} and len(set(map(tuple, drawn))) > 1
    assert run("--speakers", "--seed", 3, d, 2) == drawn[3]
    put(tmp_path / "list", ["a", "nobody"])
    with pytest.raises(UserError, match="list:2: nobody: not in .*spk2utt"):
        run("--spk-list", tmp_path / "list", d)


@pytest.mark.parametrize("segments", [False, True])
def test_copy_renames_what_belongs_to_utterances_and_speakers(tmp_path, segments, capsys):
    d = make(tmp_path / "d", segments)
    arguments = ["--spk-prefix", "s_", "--utt-suffix=-x", str(d), str(tmp_path / "c")]
    assert copy_data_dir.main(arguments) == 0
    got = {p.name: p.read_text().splitlines() for p in (tmp_path / "c").iterdir()}
    assert got["text"][0] == "B-1-x words of B-1" and got["utt2spk"][0] == "B-1-x s_B"
    assert got["spk2utt"][0] == "s_B B-1-x B_2-x" and got["spk2gender"][0] == "s_B f"
    assert got["entities"] == ["B_2-x\tcity=New York"]
    assert got["words.ctm"][0] == "B-1-x 1 0.00 0.01 words" and got["utt2uniq"][0] == "B-1-x B-1"
    if segments:
        assert got["segments"][0] == "B-1-x r0 0.01 0.06" and got["wav.scp"][0] == f"r0 {d}/r0.wav"
    else:
        assert got["wav.scp"][0] == f"B-1-x {d}/B-1.wav"
    # A second copy leads back to the first originals; one without new names is the same directory.
    copy_data_dir.main(["--utt-prefix=y-", str(tmp_path / "c"), str(tmp_path / "e")])
    assert table(tmp_path / "e/utt2uniq")["y-B-1-x"] == "B-1"
    copy_data_dir.main([str(d), str(tmp_path / "f")])
    tables = {p.name for p in d.iterdir() if p.suffix != ".wav"}
    assert {p.name for p in (tmp_path / "f").iterdir()} == tables | {"made.json"}
    with pytest.raises(UserError, match="--utt_prefix 'a b': an id has no blanks"):
        copy_data_dir.main(["--utt-prefix", "a b", str(d), str(tmp_path / "g")])


def test_a_copy_is_checked_without_its_audio(tmp_path, capsys):
    d = make(tmp_path / "d", False)
    (d / "a-1.wav").unlink()
    assert copy_data_dir.main([str(d), str(tmp_path / "c")]) == 0
    assert f"{tmp_path}/c: valid" in capsys.readouterr().out


def test_speed_in_kaldis_order_of_arguments(tmp_path, capsys):
    d = make(tmp_path / "d", False)
    perturb_data_dir_speed.main(["--nj=1", "0.9", str(d), str(tmp_path / "kaldi")])
    perturb_data_dir_speed.main(["--nj=1", str(d), "0.9", str(tmp_path / "ours")])
    for name in ("text", "utt2spk", "utt2uniq", "utt2num_samples"):
        assert (tmp_path / "kaldi" / name).read_text() == (tmp_path / "ours" / name).read_text()
    for wrong in (["0.9", str(d)], [str(d), str(tmp_path / "x")]):
        with pytest.raises(SystemExit):
            perturb_data_dir_speed.main(wrong)


def test_extract_segments_keeps_the_samples(tmp_path, capsys):
    d = make(tmp_path / "d", True)
    samples = np.arange(1600, dtype="<i2")
    for path in d.glob("*.wav"):
        with wave.open(str(path), "wb") as f:
            f.setparams((1, 2, RATE, 0, "NONE", ""))
            f.writeframes(samples.tobytes())
    extract_segments.main(["--nj=1", str(d), str(tmp_path / "c")])
    with wave.open(table(tmp_path / "c/wav.scp")["a-1"]) as f:  # the third: 0.01 to 0.08 s of r1
        assert f.getframerate() == RATE
        assert np.array_equal(np.frombuffer(f.readframes(9999), "<i2"), samples[80:640])
    assert not (tmp_path / "c/reco2file_and_channel").exists()
    with pytest.raises(UserError, match="has no segments to cut"):
        extract_segments.main([str(make(tmp_path / "e", False)), str(tmp_path / "f")])
