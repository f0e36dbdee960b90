"""What reads and writes many lines: the same results as plain dicts and lists, and memory that hardly grows."""

import importlib.util
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from espnet_llmvq.align.ctm import CtmFile, open_ctm, read_ctm
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.datadir import DataDir, formatted_rows
from espnet_llmvq.data.shared import check_apart, check_directories_apart
from espnet_llmvq.sequence import sequence as sequences_file
from espnet_llmvq.sequence.asr import text_sequence
from espnet_llmvq.sequence.corpus import joined
from espnet_llmvq.sequence.mixture import Source, mix
from espnet_llmvq.sequence.sequence import SequenceReader, build_index, write_sequences
from espnet_llmvq.sequence.synth_manifest import synth_manifest
from espnet_llmvq.stages.sequences import Units, write_share

A_LINE = 200  # bytes: of ten million, with the libraries, less than 2 GiB


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).resolve().parent.parent / "bench/ten_million.py"
    spec = importlib.util.spec_from_file_location("ten_million", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_memory_of_a_hundred_thousand_lines(tmp_path, bench):
    """Of two sizes, as what libraries take says nothing about lines."""
    steps = ["manifest", "validate", "sequences", "index", "mixture", "share", "sampler"]
    rows = {step: {} for step in steps}
    for n in (10_000, 100_000):
        (tmp_path / str(n)).mkdir()
        for step in steps:
            rows[step][n] = bench.measured(step, tmp_path / str(n), n)
    assert {step: bench.growth(found)[0] for step, found in rows.items() if bench.growth(found)[0] > A_LINE} == {}
    assert max(row["peak_mib"] for found in rows.values() for row in found.values()) < bench.LIMIT_MIB


def test_the_table_of_the_bench(bench):
    row = {"seconds": 1.0, "cpu_seconds": 0.5, "peak_mib": 50.0, "base_mib": 40.0}
    rows = {1000: {**row, "own_mib": 2.0}, 2000: {**row, "own_mib": 3.0}}
    assert bench.growth(rows) == (1048.6, 40 + 3 + 9_998)
    told = "| validate | 1.0, 0.5, 50.0 | 1.0, 0.5, 50.0 | 1048.6 | 10041 (over 2 GiB) |"
    assert list(bench.table({"validate": rows}))[2] == told
    rows[2000]["own_mib"] = 2.0
    assert bench.growth(rows) == (0, 50)


def mixture_of_dicts(sources, positions, seed):
    """[(id, positions)] of a mixture, as it was made when ids and positions were in dicts."""
    picked, shares = [], sum(source.share for source in sources)
    for source in sources:
        lines = Path(source.shape).read_text(encoding="utf-8").splitlines()
        lengths = {key: int(value) for key, value in map(str.split, lines)}
        budget, total, number, chosen = positions * source.share / shares, 0, 0, []
        while budget is not None:
            number += 1
            order = sorted(lengths)
            random.Random(f"{seed} {source.name} {number}").shuffle(order)
            for key in order:
                if chosen and abs(total + lengths[key] - budget) >= abs(total - budget):
                    budget = None
                    break
                chosen.append((f"{source.name}/{number}/{key}", lengths[key]))
                total += lengths[key]
        picked += chosen
    random.Random(f"{seed} order").shuffle(picked)
    return picked


@pytest.mark.parametrize("positions", [40, 999, 5000])
def test_mixtures_are_those_of_dicts(tmp_path, positions):
    rng = np.random.default_rng(positions)
    sources = []
    for name, n, share in (("a", 60, 1), ("b", 7, 2.5), ("c", 300, 0.5)):
        ids = [f"é{i}" if i % 3 else f"u-{i}" for i in rng.permutation(n)]
        write_sequences(tmp_path / name, [text_sequence(key, key) for key in ids])
        (tmp_path / f"{name}_shape").write_text("".join(f"{key} {rng.integers(1, 40)}\n" for key in ids))
        sources.append(Source(name, share, str(tmp_path / name), str(tmp_path / f"{name}_shape")))
    lines, facts = mix(sources, positions, seed=4)
    lines = list(lines)
    expected = mixture_of_dicts(sources, positions, 4)
    assert [(key, length) for key, length, _ in lines] == expected
    assert all(json.loads(line)["spans"][0]["text"] == key.split("/")[2] for key, _, line in lines)
    for name, (n, total, _) in facts.items():
        own = [length for key, length in expected if key.startswith(f"{name}/")]
        assert (n, total) == (len(own), sum(own))


def test_a_share_is_that_of_a_sorted_list(tmp_path):
    lines = [f"u{i} {i + 1}\n" for i in range(50)]
    (tmp_path / "shape").write_text("".join(lines))
    write_share(str(tmp_path / "out"), str(tmp_path / "shape"), 0.3, 7)
    first = set(sorted(lines, key=lambda line: random.Random(f"7 {line.split()[0]}").random())[:15])
    assert (tmp_path / "out").read_text() == "".join(line for line in lines if line in first)


def test_ids_of_one_hash(tmp_path, monkeypatch):
    """An index tells ids apart by more than their hashes, and finds one that is there twice among them."""
    monkeypatch.setattr(sequences_file, "_hash", lambda key: len(key))
    ids = ["b", "a", "cc", "c", "aa"]
    write_sequences(tmp_path / "s", [text_sequence(key, f"text {key}") for key in ids])
    table = np.load(tmp_path / "s.idx")
    build_index(tmp_path / "s")
    assert (np.load(tmp_path / "s.idx") == table).all() and table[:, 0].tolist() == [1, 1, 1, 2, 2]
    reader = SequenceReader(tmp_path / "s")
    assert all(json.loads(reader[key])["spans"][0]["text"] == f"text {key}" for key in ids) and "d" not in reader
    with pytest.raises(UserError, match="duplicate sequence id é1"):
        write_sequences(tmp_path / "t", [text_sequence(key, "x") for key in ("é1", "x2", "é1", "x2")][::2])
    assert not (tmp_path / "t").exists()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    room = tmp_path_factory.mktemp("many") / "data"
    synth_manifest(str(room), 300, sound_files=2, word_times=True)
    return room


def test_rows_of_a_formatted_directory(tmp_path, corpus):
    """Sorted tables are read line by line, others as a whole; both give what `DataDir` has."""
    data, samples = DataDir.load(corpus), DataDir.load(corpus).samples(corpus)
    expected = [(utt, data.wav_scp[utt], samples[utt], data.text[utt]) for utt in data.utts]
    assert list(formatted_rows(corpus)) == expected
    shutil.copytree(corpus, tmp_path / "d")
    lines = (corpus / "text").read_text().splitlines(keepends=True)
    (tmp_path / "d/text").write_text("".join(lines[::-1] + lines[:1]))
    assert list(formatted_rows(tmp_path / "d")) == expected
    for name, text, message in (
        ("utt2num_samples", "x", "spk00000-00000000: 'x' is not a count; format it again"),
        ("text", None, "spk00000-00000000: not in text"),
    ):
        shutil.copytree(corpus, tmp_path / name)
        first, *others = (corpus / name).read_text().splitlines(keepends=True)
        (tmp_path / name / name).write_text("".join([f"{first.split()[0]} {text}\n"] * (text is not None) + others))
        with pytest.raises(UserError, match=message):
            list(formatted_rows(tmp_path / name))
    (tmp_path / "d/utt2num_samples").unlink()
    with pytest.raises(UserError, match="is not formatted; run llmvq data format"):
        list(formatted_rows(tmp_path / "d"))


def test_word_times_of_a_file(tmp_path, corpus):
    found, expected = open_ctm(corpus / "words.ctm"), read_ctm(corpus / "words.ctm")
    assert isinstance(found, CtmFile) and dict(found) == expected and len(found) == len(expected)
    assert "nobody" not in found and list(found) == list(expected)
    lines = (corpus / "words.ctm").read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    (tmp_path / "shuffled.ctm").write_text("".join(lines))
    assert open_ctm(tmp_path / "shuffled.ctm") == expected
    for text in ("u 1 0 1\n", "u 1 0 1 x\n\n", "u 2 0 1 x\n", "u 1 -1 1 x\n"):
        (tmp_path / "bad.ctm").write_text(text)
        with pytest.raises(UserError) as ours:
            open_ctm(tmp_path / "bad.ctm")
        with pytest.raises(UserError) as plain:
            read_ctm(tmp_path / "bad.ctm")
        assert str(ours.value) == str(plain.value)


def test_a_directory_joined_to_a_file(tmp_path, corpus):
    lines = (corpus / "words.ctm").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("spk00000-00000007 ")]
    (tmp_path / "words.ctm").write_text("".join(["before 1 0 1 x\n", *kept, "zz 1 0 1 x\n"]))
    dropped = {}
    rows = {row[0]: row[-1] for row in joined(corpus, open_ctm(tmp_path / "words.ctm"), "no alignment", dropped, 20000)}
    samples = DataDir.load(corpus).samples(corpus)
    short = {utt for utt, n in samples.items() if n < 20000}
    expected = read_ctm(tmp_path / "words.ctm")
    assert rows == {utt: expected[utt] for utt in samples if utt in expected and utt not in short}
    reasons = {utt: why.reason for utt, why in dropped.items()}
    told = dict.fromkeys(short, "audio shorter than an encoder step") | {"spk00000-00000007": "no alignment"}
    told |= dict.fromkeys(["before", "zz"], "not in the data directory")
    assert reasons == told | {utt: "audio shorter than an encoder step" for utt in short}


def test_units_of_what_was_kept():
    units, rng = Units(), random.Random(0)
    levels = [rng.choice(["word", "segment"]) for _ in range(60)]
    added = [(f"u{i}", level, [rng.randint(1, 4) for _ in range(i % 5 + 1)]) for i, level in enumerate(levels)]
    for row in added:
        units.add(*row)
    kept = [row for row in added if rng.random() < 0.6]
    # Speech and text in turns, text last.
    expected = [(level, len(n), sum(n), sum(n[::-1][1::2])) for _, level, n in kept]
    assert list(units.of(key for key, _, _ in kept)) == expected and len(units) == 60


@pytest.mark.parametrize("segmented", [False, True])
def test_sets_apart_as_of_whole_directories(tmp_path, segmented):
    """Sets drawn from few recordings: an error, or none, and the same one."""
    told = set()
    for seed in range(40):
        rng, homes = random.Random(f"{segmented} {seed}"), {}
        for name in ("train", "valid", "test1", "test2"):
            files = [f"{tmp_path}/{rng.choice([name, 'common'])}{i}.wav" for i in range(rng.randint(1, 3))]
            utts = [f"{name}-{i}" for i in range(rng.randint(1, 4))]
            same = dict.fromkeys(utts, "x")
            wavs, segments = {utt: rng.choice(files) for utt in utts}, None
            if segmented:
                wavs = {f"r{i}": file for i, file in enumerate(files)}
                starts = {utt: rng.randint(0, 9) / 2 for utt in utts}
                segments = {utt: (rng.choice(list(wavs)), start, start + 1.0) for utt, start in starts.items()}
                used = {rec for rec, *_ in segments.values()}
                wavs = {rec: file for rec, file in wavs.items() if rec in used}
            homes[name] = tmp_path / f"{seed}{name}"
            homes[name].mkdir()
            DataDir(wavs, same, same, segments).write_tables(homes[name])
        answers = []
        for check, sets in (
            (check_apart, {name: DataDir.load(home) for name, home in homes.items()}),
            (check_directories_apart, homes),
        ):
            try:
                answers.append(check(sets, ["test1", "test2"]))
            except UserError as err:
                answers.append(str(err))
        assert answers[0] == answers[1], seed
        told.add(answers[0] and answers[0].partition(":")[0])
    assert told >= {None, "valid", "test1"}
