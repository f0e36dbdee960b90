"""Interleaved sequences: a reader of its own says, from CTM and text, what every sequence must be."""

import collections
import json
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import soundfile
from conftest import write_cards

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.base.config import from_mapping
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.align import import_ as import_alignment
from espnet_llmvq.cli.align import segments as segment_lengths
from espnet_llmvq.cli.sequences import make as make_sequences
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.systems import read_interleaving
from espnet_llmvq.model.positions import Positions
from espnet_llmvq.sequence.interleaved import Interleaving, interleave
from espnet_llmvq.sequence.questions import MultipleChoice
from espnet_llmvq.sequence.sequence import Sequence, Span, read_sequences
from espnet_llmvq.sequence.units import Dropped

RATE = 16000
LEXICON = "one two don't Überraschung ice-cream 7 α x.y".split()
STOPS = ".,;:?!…"


def random_utterance(rng):
    """(transcript, CTM words in milliseconds, samples): case and punctuation in the transcript only."""
    tokens, words, at = [], [], int(rng.integers(0, 300))
    for _ in range(int(rng.integers(2, 12))):
        word = str(rng.choice(LEXICON))
        token = word.capitalize() if rng.random() < 0.3 else word
        if rng.random() < 0.2:
            token = '"' + token
        token += str(rng.choice(["", "", "", ".", ",", "?", '."', "!)", "-", "'", '. "', ": “", "?)“"]))
        tokens.append(token)
        if rng.random() < 0.1:
            tokens.append("--")
        length = int(rng.integers(1, 500))
        words.append((word.lower(), at, length))
        at += length + int(rng.choice([0, 0, 0, 60, 199, 200, 201, 600]))
        if rng.random() < 0.1:
            words.append(("<eps>", at, 0))
    if rng.random() < 0.1:
        tokens.insert(0, "-")
    return " ".join(tokens), words, at * 16 + int(rng.integers(0, 5000))


def brute_force(text, words, samples, level, cut, begin, between, end_loss, margin_ms):
    """[(kind, ...)] from CTM and text alone, word by word.

    ("token", name), ("text", words, loss), ("speech", start, end, words), ("end", loss)
    """
    timed = [w for w in words if w[0] != "<eps>"]
    owned, k = collections.defaultdict(list), -1
    for token in text.split():
        if re.search(r"[^\W_]", token):
            k += 1
        owned[max(k, 0)].append(token)
    assert k + 1 == len(timed)
    breaks = [True]
    for i in range(1, len(timed)):
        quiet = timed[i][1] - (timed[i - 1][1] + timed[i - 1][2]) >= 200
        stop = set(re.search(r"[\W_]*$", " ".join(owned[i - 1]))[0]) & set(STOPS)
        breaks.append(level == "word" or quiet or (cut == "silence_punctuation" and bool(stop)))
    number = np.cumsum(breaks) - 1
    n = number[-1] + 1
    result = [("token", begin)] if begin and level == "segment" else []
    for u in range(n):
        if u and between and level == "segment":
            result.append(("token", between))
        mine = [i for i in range(len(timed)) if number[i] == u]
        said = " ".join(t for i in mine for t in owned[i])
        if (n - 1 - u) % 2 == 0:
            result.append(("text", said, True))
            continue
        first, last = mine[0], mine[-1]
        start, end = timed[first][1] * 16, (timed[last][1] + timed[last][2]) * 16
        left = start - (timed[first - 1][1] + timed[first - 1][2]) * 16 if first else 2 * start
        right = timed[last + 1][1] * 16 - end if last + 1 < len(timed) else 2 * (samples - end)
        result.append(("speech", start - min(margin_ms * 16, left // 2), end + min(margin_ms * 16, right // 2), said))
    return [*result, ("end", end_loss)], n


def read_back(sequence):
    """A sequence in the terms of `brute_force`, read from its JSON."""
    result = []
    for span in json.loads(sequence.to_json())["spans"]:
        if "audio" in span:
            assert not span.get("loss") and not span.get("eos")
            start = span.get("start")
            result.append(("speech", start, start + span["samples"], span["said"]))
            continue
        if span["text"]:
            if span.get("special"):
                result.append(("token", span["text"]))
                assert not span.get("loss")
            else:
                assert span["text"].startswith(" ") == any(kind != "token" for kind, *_ in result)
                result.append(("text", span["text"].strip(), span.get("loss", False)))
        if span.get("eos"):
            result.append(("end", span.get("loss", False)))
    return result


def test_a_thousand_random_utterances():
    rng, singles, levels = np.random.default_rng(0), 0, collections.Counter()
    for i in range(1000):
        text, words, samples = random_utterance(rng)
        level, cut = str(rng.choice(["word", "segment"])), str(rng.choice(["silence", "silence_punctuation"]))
        begin, between = [(None, None), ("<s>", "<N>"), ("<s>", None)][rng.integers(3)]
        end_loss, margin = bool(rng.integers(2)), int(rng.choice([0, 30, 100]))
        options = Interleaving(
            level=level, cut=cut, begin_token=begin, segment_token=between, end_loss=end_loss, margin=margin / 1000
        )
        expected, n = brute_force(text, words, samples, level, cut, begin, between, end_loss, margin)
        ctm = [Word(w, start / 1000, length / 1000) for w, start, length in words]
        if n == 1:
            singles += 1
            with pytest.raises(Dropped, match="one segment"):
                interleave(f"u{i}", "a.wav", samples, text, ctm, options)
            continue
        done = interleave(f"u{i}", "a.wav", samples, text, ctm, options)
        assert read_back(done.sequence) == expected, (text, words)
        assert Sequence.from_json(done.sequence.to_json()) == done.sequence
        # Every word once, in one modality, in order.
        units = [s.said or s.text.strip() for s in done.sequence.spans if s.said or s.loss]
        assert " ".join(units) == " ".join(text.split())
        spans = [s for s in done.sequence.spans if s.is_speech]
        for a, b in zip(spans, spans[1:]):
            assert a.start + a.samples <= b.start
        assert all(0 <= s.start and s.start + s.samples <= samples for s in spans)
        levels[level, n % 2] += 1
    assert 10 < singles < 300 and min(levels.values()) > 50 and len(levels) == 4


def words(*triples):
    return [Word(w, start, length) for w, start, length in triples]


def test_by_hand():
    ctm = words(("well", 0.5, 0.25), ("john", 0.75, 0.25), ("ran", 1.5, 0.5))
    done = interleave("u", "a.wav", 40000, "Well, John ran.", ctm, Interleaving(level="segment", margin=0.1)).sequence
    assert read_back(done) == [
        ("token", "<s>"), ("text", "Well,", True), ("token", "<N>"),
        ("speech", 12000, 16000 + 1600, "John"), ("token", "<N>"), ("text", "ran.", True), ("end", False),
    ]  # fmt: skip
    options = Interleaving(level="segment", cut="silence")
    done = interleave("u", "a.wav", 40000, "Well, John ran.", ctm, options).sequence
    assert read_back(done) == [
        ("token", "<s>"), ("speech", 8000 - 1600, 16000 + 1600, "Well, John"), ("token", "<N>"),
        ("text", "ran.", True), ("end", False),
    ]  # fmt: skip


def test_mixed_is_drawn_by_seed_and_utterance():
    options = Interleaving(level="mixed", ratio=(1, 3), seed=5)
    drawn = [options.level_of(f"u{i}") for i in range(4000)]
    assert drawn == [options.level_of(f"u{i}") for i in range(4000)]
    assert 0.22 < drawn.count("word") / 4000 < 0.28
    assert drawn != [Interleaving(level="mixed", ratio=(1, 3), seed=6).level_of(f"u{i}") for i in range(4000)]
    assert {Interleaving(level="mixed", ratio=(0, 1)).level_of(f"u{i}") for i in range(50)} == {"segment"}


def test_a_single_segment_may_go_to_word_level():
    ctm = words(("a", 0, 0.1), ("b", 0.1, 0.1))
    done = interleave("u", "a.wav", 4000, "A b", ctm, Interleaving(level="segment", single_segment="word"))
    assert done.level == "word" and read_back(done.sequence)[0] == ("speech", 0, 1600, "A")


GOOD = (("hello", 0.0, 0.4), ("world", 0.4, 0.4))


@pytest.mark.parametrize(
    "text, ctm, samples, reason",
    [
        ("hello world", (GOOD[0], ("world", 0.4, 0.7)), 16000,
         "alignment runs past the audio: word 2, 'world', ends at 1.100 s of 1.000 s"),
        ("hello world", (GOOD[0], ("world", 0.3, 0.4)), 16000, "alignment overlaps: word 2, 'world', begins 0.100 s"),
        ("hello there", GOOD, 16000, "words differ: word 2 is 'there' in the transcript, 'world' in the alignment"),
        ("hello", GOOD, 16000, "words differ: word 2 is nothing in the transcript, 'world'"),
        ("hello world again", GOOD, 16000, "words differ: word 3 is 'again' in the transcript, nothing"),
        ("hello", GOOD[:1], 16000, "one word"),
        ("- ?", GOOD, 16000, "no words in the transcript"),
        ("hello world", (GOOD[0], ("world", 0.4, 0.0)), 16000, "a word without duration: 'world' at 0.400 s"),
        ("hello world", (("hello", 0.0, 0.01), ("world", 0.0, 0.4)), 16000, "a word without duration: 'hello'"),
    ],
)  # fmt: skip
def test_bad_input_is_dropped_with_its_reason(text, ctm, samples, reason):
    with pytest.raises(Dropped) as why:
        interleave("u", "a.wav", samples, text, words(*ctm), Interleaving())
    assert str(why.value).startswith(reason)


def test_small_overruns_are_clipped():
    ctm = words(("hello", 0.0, 0.41), ("world", 0.4, 0.61), ("again", 1.0, 0.515))
    done = interleave("u", "a.wav", 24000, "Hello, world again", ctm, Interleaving(margin=0))
    assert read_back(done.sequence)[1] == ("speech", 6400, 16000, "world")
    done = interleave("u", "a.wav", 24000, "Hello, world again", ctm[:2] + words(("again", 1.1, 0.415)), Interleaving())
    assert [(u.start, u.end) for u in done.units] == [(0, 6400), (6400, 16160), (17600, 24000)]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"levle": "word"}, "did you mean 'level'"),
        ({"level": "words"}, "did you mean 'word'"),
        ({"silence": -1}, "silence is -1; it must be seconds"),
        ({"margin": True}, "margin is True; it must be a number"),
        ({"ratio": [0, 0]}, "ratio"),
        ({"end_loss": True, "end_token": False}, "end_loss"),
        ({"begin_token": 1}, "begin_token is 1; it must be text; put quotes around it"),
        ({"segment_token": ""}, "segment_token is '', which is no token; null for none"),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(UserError, match=message):
        from_mapping(Interleaving, values, "config")


def test_a_wrong_value_is_told_with_its_file(tmp_path):
    cards = read_cards(write_cards(tmp_path, interleave={"w": {"silence": -1}}))
    with pytest.raises(UserError, match="systems.yaml, form of interleaving w: silence is -1; it must be"):
        read_interleaving(cards, "w")
    with pytest.raises(UserError, match="--override: silence is -1; it must be"):
        Interleaving.read({}, ["silence=-1"])
    with pytest.raises(UserError, match="q.yaml: shots is -1"):
        from_mapping(MultipleChoice, {"shots": -1}, "q.yaml")


@pytest.fixture
def data_dir(tmp_path, llm_dir):
    """A formatted data directory, its CTM, and configs."""
    text = {
        "a": "one two three four", "b": "five", "c": "six seven", "d": "eight nine", "e": "one two",
        "f": "one two three four five six seven eight nine zero",
    }  # fmt: skip
    length = {"a": 16000, "b": 16000, "c": 16000, "d": 16000, "e": 600, "f": 16000}
    lines = []
    for utt, words_ in text.items():
        soundfile.write(tmp_path / f"{utt}.wav", np.zeros(length[utt], np.int16), RATE)
        if utt != "d":
            lines += [f"{utt} 1 {0.1 * i:.1f} 0.1 {w}" for i, w in enumerate(words_.split())]
    lines.append("z 1 0.0 0.1 stranger")
    tables = {
        "text": text, "utt2num_samples": length, "utt2spk": {u: u for u in text}, "spk2utt": {u: u for u in text},
        "wav.scp": {u: f"{tmp_path}/{u}.wav" for u in text},
    }  # fmt: skip
    room = tmp_path / "data"
    room.mkdir()
    for name, table in tables.items():
        (room / name).write_text("".join(f"{k} {v}\n" for k, v in table.items()))
    (tmp_path / "ctm").write_text("\n".join(lines) + "\n")
    (tmp_path / "encoder.yaml").write_text(
        "frontend_conf: {hop_length: 160, center: false}\nframe_stack: 8\nencoder_conf: {input_layer: linear}\n"
    )
    forms = {"word": {"level": "word", "margin": 0}, "default": {},
             "segment": {"level": "segment", "cut": "silence", "margin": 0}}  # fmt: skip
    write_cards(tmp_path, interleave=forms)
    return tmp_path


def test_command_counts_and_lists_what_it_drops(data_dir, llm_dir, tokenizer, capsys):
    out = data_dir / "out.jsonl"
    options = ["--builder", "interleaved", "--data_dir", str(data_dir / "data"), "--ctm", str(data_dir / "ctm"),
               "--cards", str(data_dir), "--form", "word", "--encoder_config", str(data_dir / "encoder.yaml"),
               "--llm", llm_dir, "--out", str(out)]  # fmt: skip
    # a: two pieces of 1,600 samples, of 2 steps each, the tokens of two words, the end token
    tokens = [len(tokenizer.encode(w, add_special_tokens=False)) for w in ("two", "four")]
    make_sequences.main([*options, "--context", str(4 + sum(tokens) + 1)])
    assert [s.id for s in read_sequences(out)] == ["a", "c"]
    listed = dict(line.split("\t") for line in (data_dir / "out.jsonl.dropped.tsv").read_text().splitlines())
    assert listed.pop("f").startswith("longer than the context: ")
    assert listed == {
        "b": "one word: which would be text alone", "d": "no alignment", "z": "not in the data directory",
        "e": "audio shorter than an encoder step: 600 of 1280 samples",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "2 sequences" in printed and "5 dropped" in printed and "dropped, no alignment: 1" in printed
    assert "word level: 2 sequences, 3.0 units each, 1.00 words a unit, 50.0 % of 6 words as speech" in printed
    with pytest.raises(UserError, match=r"1 sequences have more LLM positions than the .* of the context: f \("):
        make_sequences.main([*options, "--context", str(4 + sum(tokens) + 1), "--too_long", "refuse"])
    make_sequences.main([*options, "--context", "1000"])
    assert [s.id for s in read_sequences(out)] == ["a", "c", "f"]
    with pytest.raises(UserError, match="no sequence is left"):
        make_sequences.main([*options, "--context", "2"])
    assert not out.exists()
    with pytest.raises(UserError, match="--builder interleaved needs --ctm"):
        make_sequences.main([*options[:4], "--out", str(out)])


def test_context_of_the_llm(data_dir, llm_dir, tokenizer, capsys):
    """A document longer than the LLM's context is dropped and listed."""
    from espnet_llmvq.llm.directory import context_of

    limit, text = context_of(llm_dir), data_dir / "documents"
    text.write_text("one two\n" + "nine " * (limit + 1) + "\n\nthree\n")
    out = data_dir / "text.jsonl"
    options = ["--builder", "text", "--text", str(text), "--llm", llm_dir, "--out", str(out)]
    make_sequences.main([*options, "--context", "llm"])
    assert [(s.id, s.spans[0].text, s.spans[0].eos) for s in read_sequences(out)] == [
        ("line00000001", "one two", True), ("line00000004", "three", True)
    ]  # fmt: skip
    listed = (data_dir / "text.jsonl.dropped.tsv").read_text().splitlines()
    assert listed[0].startswith("line00000002\tlonger than the context: ") and f", {limit} fit" in listed[0]
    assert listed[1:] == ["line00000003\tempty line"]
    # By the characters, without the tokenizer: what may be too long is counted, and what is not ASCII.
    count, text = Positions(tokenizer, {}, 1), "nine " * (limit // 3)
    for words in ("one two", text, "zwölf"):
        seq = Sequence("u", (Span(text="USER:"), Span(text=f" {words}", loss=True, eos=True)))
        most = Positions(None, {}, 1).upper_bound(seq)
        assert most is None if words == "zwölf" else most >= count(seq) > 0
    assert most is None and Positions(None, {}, 1).upper_bound(Sequence("u", (Span(text=text, eos=True),))) > limit
    with pytest.raises(SystemExit):
        make_sequences.main([*options, "--context", "0"])
    assert "--context: invalid number of positions value: '0'" in capsys.readouterr().err


def test_questions_and_answers_that_have_no_partner_are_listed(data_dir):
    answers, out = data_dir / "answers", data_dir / "qa.jsonl"
    answers.write_text("a yes\nb no\nc maybe\nstranger no\n")
    table = data_dir / "data" / "text"
    table.write_text(table.read_text().replace("b five", "b"))
    options = ["--data_dir", str(data_dir / "data"), "--answers", str(answers), "--prompt", "{speech} {text}",
               "--out", str(out)]  # fmt: skip
    made = {}
    for builder in ("qa", "qa_text"):
        make_sequences.main(["--builder", builder, *options])
        listed = dict(line.split("\t") for line in (data_dir / "qa.jsonl.dropped.tsv").read_text().splitlines())
        made[builder] = [s.id for s in read_sequences(out)]
        assert sorted([*made[builder], *listed]) == ["a", "b", "c", "d", "e", "f", "stranger"]
        assert listed["d"] == "no answer" and listed["stranger"] == "not in the data directory"
    assert made == {"qa": ["a", "b", "c"], "qa_text": ["a", "c"]}
    assert listed["b"] == "no question in writing"


@pytest.mark.parametrize("name, content", [("utt2num_samples", None), ("utt2num_samples", "a x\n")])
def test_a_directory_that_is_not_formatted(data_dir, name, content):
    path = data_dir / "data" / name
    lines = path.read_text()
    path.unlink() if content is None else path.write_text(lines.replace("a 16000\n", content))
    message = "is not formatted; run llmvq data format" if content is None else "utt2num_samples: a: 'x' is not a count"
    common = ["--data_dir", str(data_dir / "data"), "--ctm", str(data_dir / "ctm")]
    form = ["--cards", str(data_dir), "--form", "default"]
    for command, options in (
        (import_alignment, ["--out", str(data_dir / "new.ctm")]),
        (segment_lengths, [*form, "--out", str(data_dir / "lengths")]),
        (make_sequences, ["--builder", "interleaved", *form, "--encoder_config", str(data_dir / "encoder.yaml"),
                          "--out", str(data_dir / "deep" / "er" / "il.jsonl")]),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            command.main([*common, *options])
    path.write_text(lines)
    command.main([*common, *options])  # makes the directory
    assert (data_dir / "deep" / "er" / "il.jsonl").exists()


def test_no_pause_is_an_error_and_silence_0_cuts_after_every_word(data_dir):
    out = data_dir / "out.jsonl"
    options = ["--builder", "interleaved", "--data_dir", str(data_dir / "data"), "--ctm", str(data_dir / "ctm"),
               "--cards", str(data_dir), "--form", "segment", "--encoder_config", str(data_dir / "encoder.yaml"),
               "--out", str(out)]  # fmt: skip
    with pytest.raises(UserError, match="no sequence is left; are there pauses in the word times"):
        make_sequences.main(options)
    assert not out.exists()
    make_sequences.main([*options, "--override", "silence=0", "--override", "segment_token=null"])
    (seq,) = (s for s in read_sequences(out) if s.id == "a")
    # The words of "a" follow each other without a gap, 0.1 s each.
    assert [(s.text, s.start, s.samples) for s in seq.spans] == [
        ("<s>", None, None), (None, 0, 1600), (" two", None, None), (None, 3200, 1600), (" four", None, None),
        ("", None, None),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"key in --override.*'silense'.*did you mean 'silence'"):
        make_sequences.main([*options, "--override", "silense=0"])


def test_questions_and_answers(data_dir):
    out = data_dir / "out.jsonl"
    (data_dir / "answers").write_text("a ten\nc thirteen it is\n")
    options = ["--data_dir", str(data_dir / "data"), "--answers", str(data_dir / "answers"), "--out", str(out),
               "--prompt", "Q: {speech} A: {text}"]  # fmt: skip
    make_sequences.main(["--builder", "qa", *options])
    spans = next(read_sequences(out)).spans
    assert [(s.text, s.loss, s.eos) for s in spans] == [
        ("Q:", False, False), (None, False, False), (" A:", False, False), (" ten", True, True)
    ]  # fmt: skip
    assert spans[1].audio.endswith("/a.wav") and not spans[1].is_piece
    make_sequences.main(["--builder", "qa_text", *options])
    assert [s.text for s in next(read_sequences(out)).spans] == ["Q:", " one two three four", " A:", " ten"]


def test_show_sequences(data_dir):
    out = data_dir / "out.jsonl"
    make_sequences.main(["--builder", "interleaved", "--data_dir", str(data_dir / "data"),
                         "--ctm", str(data_dir / "ctm"), "--encoder_config", str(data_dir / "encoder.yaml"),
                         "--cards", str(data_dir), "--form", "default", "--out", str(out)])  # fmt: skip
    shown = subprocess.run([sys.executable, "-m", "espnet_llmvq", "sequences", "show", str(out), "--ids", "c"],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert shown.splitlines() == [
        "c",
        f'        speech   0.000 to   0.100 s "six"  {data_dir}/c.wav',
        '  loss  text   " seven"',
        "        end token",
    ]


def test_letters_of_any_script_make_a_word():
    assert unicodedata.category("α") == "Ll"  # what the random lexicon relies on
    ctm = words(("日本", 0.0, 0.2), ("語", 0.2, 0.2))
    done = interleave("u", "a.wav", 16000, "日本、 語。", ctm, Interleaving())
    assert [u.text for u in done.units] == ["日本、", "語。"]
