"""Mixtures by share of LLM positions, and the figure of segment lengths."""

import collections
import os

import numpy as np
import pytest
from conftest import write_cards

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.align import segments as segment_lengths
from espnet_llmvq.sequence.asr import text_sequence
from espnet_llmvq.sequence.mixture import Source
from espnet_llmvq.sequence.sequence import Sequence, SequenceReader, Span, read_sequences, write_sequences
from espnet_llmvq.stages.sequences import write_mixture


@pytest.fixture
def sources(tmp_path):
    """Three files of sequences with positions drawn at random: {name: {id: positions}}."""
    rng, found = np.random.default_rng(0), {}
    for name, n in (("asr", 40), ("il", 400), ("text", 9)):
        found[name] = {f"u{i}": int(rng.integers(3, 30)) for i in range(n)}
        write_sequences(tmp_path / f"{name}.jsonl", [text_sequence(key, f"{name} {key}") for key in found[name]])
        (tmp_path / f"{name}_shape").write_text("".join(f"{k} {n}\n" for k, n in found[name].items()))
    return found


def mix(room, out, shares, **options):
    sources = [Source(name, share, f"{room}/{name}.jsonl", f"{room}/{name}_shape") for name, share in shares.items()]
    write_mixture(str(room / out), str(room / f"{out}_shape"), sources, **options)


def read(room, out):
    shape = dict(line.split() for line in (room / f"{out}_shape").read_text().splitlines())
    made = list(read_sequences(room / out))
    assert [s.id for s in made] == list(shape)
    return made, {k: int(v) for k, v in shape.items()}


def test_shares_and_passes(tmp_path, sources, capsys):
    mix(tmp_path, "mix", {"asr": 1, "il": 2, "text": 1})
    made, shape = read(tmp_path, "mix")
    totals, times = collections.Counter(), collections.defaultdict(collections.Counter)
    for seq in made:
        name, number, key = seq.id.split("/")
        assert seq.spans[0].text == f"{name} {key}" and shape[seq.id] == sources[name][key]
        totals[name] += shape[seq.id]
        times[name][key] += 1
        assert 1 <= int(number) <= 6
    once = sum(sources["asr"].values())
    assert times["asr"] == {key: 1 for key in sources["asr"]} and totals["asr"] == once
    # The longest example has 29 positions, so the nearest total is at most 15 away.
    assert abs(totals["il"] - 2 * once) <= 15 and abs(totals["text"] - once) <= 15
    assert set(times["il"].values()) == {1} and len(times["il"]) < 400
    # Too little text: whole passes and a part of one.
    assert len(times["text"]) == 9 and max(times["text"].values()) - min(times["text"].values()) <= 1
    assert f"asr: 40 sequences, {once} positions, " in capsys.readouterr().out
    # The order is mixed: each third holds all three.
    third = len(made) // 3
    assert all(len({s.id.split("/")[0] for s in made[i : i + third]}) == 3 for i in (0, third, 2 * third))
    reader = SequenceReader(tmp_path / "mix")
    assert Sequence.from_json(reader[made[7].id]) == made[7]


def test_the_seed_decides(tmp_path, sources):
    shares = {"asr": 1, "il": 1}
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        mix(tmp_path, out, shares, seed=seed, positions=500)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    _, shape = read(tmp_path, "a")
    assert abs(sum(shape.values()) - 500) <= 30
    # What is drawn of a source does not depend on the others.
    mix(tmp_path, "d", {"il": 1}, seed=3, positions=250)
    ids = {key for key in shape if key.startswith("il")}
    assert ids == set(read(tmp_path, "d")[1])


@pytest.mark.parametrize(
    "file, shape, message",
    [
        ("asr.jsonl", "none", "none: No such file or directory; run llmvq stage positions"),
        ("text.jsonl", "asr_shape", "text.jsonl has 9 sequences, .*asr_shape 40 lines; run stage 10 again"),
        ("asr.jsonl", "asr.jsonl", "asr.jsonl:1: .* is not `id positions`"),
    ],
)
def test_bad_sources(tmp_path, sources, file, shape, message):
    source = Source("asr", 1, str(tmp_path / file), str(tmp_path / shape))
    with pytest.raises(UserError, match=message):
        write_mixture(str(tmp_path / "o"), str(tmp_path / "s"), [source])
    assert not (tmp_path / "o").exists()


def test_no_two_ids_of_a_mixture_are_the_same(tmp_path):
    """Names and ids with dashes, slashes and numbers, twice through each source."""
    for name, keys in (("x", ["a", "a-2", "y-1", "2/a"]), ("x-y", ["1", "1-2", "2", "x/1"])):
        write_sequences(
            tmp_path / f"{name}.jsonl", [Sequence(key, (Span(text=f"{name} {key}", loss=True),)) for key in keys]
        )
        (tmp_path / f"{name}_shape").write_text("".join(f"{key} 1\n" for key in keys))
    mix(tmp_path, "o", {"x": 1, "x-y": 1}, positions=24)
    made = list(read_sequences(tmp_path / "o"))
    assert len({s.id for s in made}) == len(made) == 24
    assert set(collections.Counter(s.transcript for s in made).values()) == {3}
    reader = SequenceReader(tmp_path / "o")
    assert all(Sequence.from_json(reader[s.id]) == s for s in made)


def test_nothing_is_left_after_an_error(tmp_path, sources):
    """A source that changed since its positions were counted: same number of sequences, another id."""
    lines = (tmp_path / "asr.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"id": "u3"', '"id": "other"')
    (tmp_path / "asr.jsonl").write_text("\n".join(lines) + "\n")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match="asr.jsonl has no u3, .*asr_shape has; run stage 10 again"):
        mix(tmp_path, "o", {"asr": 1})
    assert [name for name in sorted(os.listdir(tmp_path)) if not name.endswith(".idx")] == [
        name for name in before if not name.endswith(".idx")
    ]


def test_segment_lengths(tmp_path):
    room = tmp_path / "data"
    room.mkdir()
    text = {"a": "one two, three four. five", "b": "six seven"}
    same, samples = {u: u for u in text}, dict.fromkeys(text, 48000)
    tables = {"text": text, "utt2num_samples": samples, "utt2spk": same, "spk2utt": same, "wav.scp": same}
    for name, table in tables.items():
        (room / name).write_text("".join(f"{k} {v}\n" for k, v in table.items()))
    starts = [0.0, 0.2, 0.4, 1.0, 1.2]
    lines = [f"a 1 {s} 0.2 {w}" for s, w in zip(starts, "one two three four five".split())]
    lines += ["b 1 0.0 0.2 six", "b 1 0.2 0.2 nine"]  # other words: dropped
    (tmp_path / "ctm").write_text("\n".join(lines) + "\n")
    conf = write_cards(tmp_path / "conf", interleave={"words": {"level": "word"}})
    segment_lengths.main(["--data_dir", str(room), "--ctm", str(tmp_path / "ctm"), "--out", str(tmp_path / "fig"),
                          "--cards", conf, "--form", "words"])  # fmt: skip
    rows = [line.split("\t") for line in (tmp_path / "fig.tsv").read_text().splitlines()]
    assert rows[0] == ["cut", "utterance", "words", "seconds"]
    assert rows[1:] == [
        ["silence", "a", "3", "0.600"], ["silence", "a", "2", "0.400"],
        ["silence_punctuation", "a", "2", "0.400"], ["silence_punctuation", "a", "1", "0.200"],
        ["silence_punctuation", "a", "1", "0.200"], ["silence_punctuation", "a", "1", "0.200"],
    ]  # fmt: skip
    assert (tmp_path / "fig.png").read_bytes()[:4] == b"\x89PNG"
