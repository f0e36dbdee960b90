"""Texts as people have them, from public reports of this and other toolkits (docs/field_reports.md)."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ENCODER

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import score
from espnet_llmvq.cli.data import import_ as import_data
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.filter import filter_data
from espnet_llmvq.data.normalise import NORMALISERS, get_normaliser, visible
from espnet_llmvq.experiment.experiment import Experiment
from espnet_llmvq.experiment.options import Options
from espnet_llmvq.sequence.sequence import read_sequences
from espnet_llmvq.stages.sequences import check_sequences, make_sequences, sequences_made


@pytest.fixture
def long(tmp_path, llm_dir):
    """Function: an `Experiment` of a formatted training set, one of whose two transcripts has 2,280 words."""

    def make(words=2280, train="train", **more):
        room = tmp_path / "dump" / train
        room.mkdir(parents=True, exist_ok=True)
        rows = {"wav.scp": "/a.wav", "text": "one two", "utt2spk": "s", "utt2num_samples": "16000"}
        for name, value in rows.items():
            long = " ".join(["one"] * words) if name == "text" else value
            (room / name).write_text(f"a {value}\nb {long}\n")
        (room / "spk2utt").write_text("s a b\n")
        options = Options(dumpdir=str(tmp_path / "dump"), expdir=str(tmp_path / "exp"), llm=llm_dir, **more)
        return Experiment(options, (), (), (), {}, {}, ENCODER)

    return make


def test_a_transcript_longer_than_the_context(long, capsys):
    """It would have been met in training, after phase one."""
    experiment = long()
    make_sequences(experiment, ["train"])
    path = experiment.sequences("train")
    assert [seq.id for seq in read_sequences(path)] == ["a"]
    assert "dropped, longer than the context: 1" in capsys.readouterr().out
    assert Path(f"{path}.dropped.tsv").read_text().startswith("b\tlonger than the context: 2")
    make_sequences(experiment, ["train"])
    assert capsys.readouterr().out.count("up to date") == 1
    check_sequences(experiment, ["train"])
    wider = dataclasses.replace(experiment, options=dataclasses.replace(experiment.options, context="5000"))
    make_sequences(wider, ["train"])
    assert [seq.id for seq in read_sequences(path)] == ["a", "b"]
    with pytest.raises(
        UserError, match=r"1 sequences have more LLM positions than the \d+ of the context: b \(2\d\d\d\)"
    ):
        make_sequences(long(too_long="refuse"), ["train"])


def test_what_is_only_decoded_may_be_long(long):
    experiment = long(train="test")
    make_sequences(experiment, ["test"])
    assert len(list(read_sequences(experiment.sequences("test")))) == 2


def test_short_corpora_are_shared_by_runs_with_other_contexts(long):
    one, other = long(words=3), long(words=3, context="300")
    assert sequences_made(one, "train").options == sequences_made(other, "train").options


def errors(normaliser, ref, hyp):
    from rapidfuzz.distance import Levenshtein

    normalise = get_normaliser(normaliser)
    return Levenshtein.distance(normalise(ref).split(), normalise(hyp).split())


NUMBERS = [
    ("take 2.5 mg", "take 25 mg"), ("10:30", "1030"), ("1,5", "15"), ("take .5 mg", "take 5 mg"), ("3.14.", "314"),
    ("0,125", "0125"), ("v1.2.3", "v123"), ("1;2", "12"), ("1·5", "15"), ("١٫٥", "١٥"), ("１．５", "15"),
    ("1..2", "12"), ("$.50", "$50"),
    ("1_000", "1000"), ("2,5 kg", "25 kg"), ("12:30:45", "123045"), ("5/6", "56"), ("7.-8", "78"), ("1,00", "100"),
    ("12,34,567", "1234567"), ("10²", "102"), ("10⁶", "106"), ("2½", "21/2"), ('".5" mg', "5 mg"),
    ("−.5", "5"), ("¥.5", "¥5"),
    ("1.,2", "12"), ("2[noise]5", "25"), ("2(or)5", "25"), ("1(2", "12"), ("2<unk>5", "25"),
    ("٠,١٢٥", "٠١٢٥"), ("1٬5", "15"),
]  # fmt: skip


# In what is spelled, points and spaces do not count.
@pytest.mark.parametrize("normaliser", [name for name in NORMALISERS if name != "spelled"])
@pytest.mark.parametrize("ref, hyp", NUMBERS)
def test_numbers_are_not_joined(normaliser, ref, hyp):
    assert errors(normaliser, ref, hyp) > 0


@pytest.mark.parametrize("normaliser", [name for name in NORMALISERS if name != "none"])
@pytest.mark.parametrize("grouped, plain", [
    ("1,000", "1000"), ("cost:1,000", "cost:1000"), ("cost:.5", "cost:0.5"), (",1,000", ",1000"),
    ("12,345,678 people", "12345678 people"), ("1,000.5", "1000.5"), ("1,000, 5", "1000, 5"),
    ("(1,000)", "(1000)"), (".5", "0.5"), ("1，000", "1000"), ("१,०००", "१०००"), ("１，０００", "1000"),
    ("١٬٠٠٠", "١٠٠٠"),
    ('".5"', '"0.5"'), ("¥.5", "¥0.5"), ("2½", "2 1/2"),
])  # fmt: skip
def test_groups_of_three_digits_are_one_number(normaliser, grouped, plain):
    assert errors(normaliser, grouped, plain) == 0


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("mark", "’‘ʼ´`′‛׳ꞌ＇\x92")
def test_an_apostrophe_is_an_apostrophe(normaliser, mark):
    assert errors(normaliser, f"I don{mark}t know, it{mark}s five o{mark}clock", "I don't know, it's five o'clock") == 0


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_a_quotation_mark_is_a_quotation_mark(normaliser):
    assert errors(normaliser, "he \x93said\x94 “yes” and „no‟ ＂״", 'he "said" "yes" and "no" ""') == 0


# https://github.com/openai/whisper/pull/2836, its table and its tests
@pytest.mark.parametrize("text, expected", [
    ("it costs one dollar", "it costs $1"), ("it costs one", "it costs one"), ("one percent", "1%"),
    ("three point one", "3.1"), ("one point five", "1.5"), ("minus one", "-1"), ("PyTorch 1.10.1", "pytorch 1.10.1"),
    ("Appendix D.1", "appendix d.1"), ("the ones", "the ones"), ("1 of 11", "one of 11"), ("someone", "someone"),
    ("plus one", "+1"), ("positive ones", "+1s"),
    ("one euro", "€1"), ("twenty one", "21"), ("two dollars and one cent", "$2.01"), ("no one", "no one"),
])  # fmt: skip
def test_one_is_rewritten_only_alone(text, expected):
    assert get_normaliser("whisper_english")(text) == expected


def test_the_version_of_the_package_stands_beside_figures(tmp_path, capsys):
    (tmp_path / "text").write_text("a one two\n")
    score.main(["--ref", str(tmp_path / "text"), "--hyp", str(tmp_path / "text"), "--normaliser", "whisper_english",
                "--train_text", str(tmp_path / "text")])  # fmt: skip
    named = f"whisper_english (whisper-normalizer {version('whisper-normalizer')})"
    printed = capsys.readouterr().out
    assert printed.count(named) == 3  # WER, CER, OOV rate
    assert get_normaliser(named)("The colour") == "the color"


HIDDEN = [
    "\u200b",
    "\u00ad",
    "\ufeff",
    "\u200e",
    "\u200f",
    "\u2060",
    "\u202a",
    "\u2066",
    "\u061c",
    "\U000e0041",
    "\u200d",
]


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("char", HIDDEN)
def test_what_cannot_be_seen_is_no_error(normaliser, char):
    # U+200B in what a recogniser wrote: https://github.com/cjpais/Handy/issues/500
    assert errors(normaliser, f"{char}co{char}operate now{char}", "cooperate now") == 0


@pytest.mark.parametrize("text, kept", [
    ("می\u200cخواهم", "می\u200cخواهم"), ("می\u200c خواهم\u200c", "می خواهم"), ("است\u200c\u200c\u200cم", "است\u200cم"),
    ("क\u094d\u200dष", "क\u094d\u200dष"), ("ক\u09cd\u200c", "ক\u09cd\u200c"), ("র\u200d\u09cdয", "র\u200d\u09cdয"),
    ("Auf\u200clage", "Auflage"), ("a\u200d\u200bb", "ab"), ("\u200dक", "क"), ("می\u200b\u200cخ", "می\u200cخ"),
    ("\u06dd1", "\u06dd1"), ("٪\u200d٬", "٪٬"), ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
    ("❤\ufe0f\u200d🔥 a\u200d", "❤\ufe0f\u200d🔥 a"), ("👩🏽\u200d⚕\ufe0f", "👩🏽\u200d⚕\ufe0f"),
])  # fmt: skip
def test_joiners_stay_where_the_script_needs_them(text, kept):
    assert visible(text) == kept == visible(kept)


def test_many_joiners_take_no_longer():
    assert visible("a" + "\u200d" * 100_000 + "b") == "ab"


def test_hidden_characters_are_not_scored_in_any_metric(tmp_path, capsys):
    (tmp_path / "ref").write_text("a one two three five\nb four\n")
    (tmp_path / "hyp").write_text("a one t\u200bwo\u00ad three five\nb \ufefffour\n")
    score.main(["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "hyp"), *[
        f"--metric={name}" for name in ("wer", "cer", "ter", "bleu", "chrf")], "--normaliser", "none",
        "--json", str(tmp_path / "out.json")])  # fmt: skip
    values = {row["metric"]: row["value"] for row in json.loads((tmp_path / "out.json").read_text())["scores"]}
    assert values == {"wer": 0, "cer": 0, "ter": 0, "bleu": 100, "chrf": 100}
    assert "hyp: 2 texts held characters that cannot be seen" in capsys.readouterr().out


def test_hidden_characters_are_not_tokenized(tmp_path, llm_dir, long, capsys):
    from espnet_llmvq.llm.tokenizer import read_lines
    from espnet_llmvq.sequence.corpus import documents

    path = tmp_path / "text.txt"
    path.write_text("one\u200b two\n\u00ad\n")
    dropped = {}
    assert read_lines([path]) == ["one two"]
    assert list(documents(path, dropped)) == [("line00000001", "one two")] and len(dropped) == 1
    experiment = long(words=2)
    text = tmp_path / "dump/train/text"
    text.write_text(text.read_text().replace("b one one", "b one\u200b o\u00adne"))
    make_sequences(experiment, ["train"])
    assert list(read_sequences(experiment.sequences("train")))[1].spans[-1].text == " one one"


def test_a_text_of_hidden_characters_alone_is_empty(tmp_path, long):
    """Else a model would be trained to say nothing."""
    experiment = long(words=2)
    room = tmp_path / "dump/train"
    (room / "text").write_text("a \u200b\ufeff\nb one \u200b two\n")
    assert [(p.utt, p.message) for p in validate(room, audio=False)] == [("a", "empty transcript")]
    make_sequences(experiment, ["train"])
    assert list(read_sequences(experiment.sequences("train")))[1].spans[-1].text == " one two"
    (tmp_path / "a.wav").touch()
    (room / "wav.scp").write_text(f"a {tmp_path}/a.wav\nb {tmp_path}/a.wav\n")
    filter_data(room, tmp_path / "filtered")
    assert list(DataDir.load(tmp_path / "filtered").text) == ["b"]


def test_import_says_what_texts_held(tmp_path, capsys):
    """https://github.com/QwenLM/Qwen3-ASR: targets of its fine-tuning begin with a tag."""
    rows = []
    for i, text in enumerate(["\ufeffhello", "language English<asr_text>Good \u200bday.", "<|en|><|NEUTRAL|>fine",
                              "a<|en|> language English"]):  # fmt: skip
        (tmp_path / f"{i}.wav").touch()
        rows.append(json.dumps({"audio": f"{i}.wav", "text": text}) + "\n")
    (tmp_path / "m.jsonl").write_text("".join(rows))
    import_data.main([str(tmp_path / "m.jsonl"), str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "2 texts have characters that cannot be seen, which are left out" in said
    assert "1 texts have tags of a recogniser, such as 'language English<asr_text>'; --strip_tags true leaves" in said
    assert list(DataDir.load(tmp_path / "out").text.values())[0] == "hello"
    import_data.main([str(tmp_path / "m.jsonl"), str(tmp_path / "stripped"), "--strip_tags", "true"])
    assert "tags" not in capsys.readouterr().err
    texts = list(DataDir.load(tmp_path / "stripped").text.values())
    assert texts == ["hello", "Good day.", "fine", "a<|en|> language English"]


# What is one text to a reader, by report: (report, normaliser, reference, hypothesis, errors)
SAME = [
    # Armenian models write ե and ւ for the one character և.
    ("https://github.com/NVIDIA-NeMo/Speech/pull/15343", "basic", "և դու", "եւ դու", 0),
    # composed and decomposed
    ("https://github.com/ArcReel/ArcReel/issues/1578", "basic", "Hi\u1ebfu", "Hie\u0302\u0301u", 0),
    ("https://github.com/ArcReel/ArcReel/issues/1578", "whisper_basic", "Hi\u1ebfu", "Hie\u0302\u0301u", 0),
    # numbers in words and in digits
    ("https://github.com/coval-ai/benchmarks/issues/218", "whisper_english", "numbered THIRTY SIX members.",
     "numbered 36 members", 0),
    ("https://github.com/coval-ai/benchmarks/issues/218", "whisper_english", "one hundred twenty three",
     "123", 0),
    ("https://github.com/eka-care/KARMA-OpenMedEvalKit/pull/10", "whisper_english", "five percent of ten dollars",
     "5% of $10", 0),
    # "one" that is no number stays what it is
    ("https://github.com/Gimics/talktome/issues/28", "whisper_english", "that one who, no one, the next one",
     "that 1 who, no 1, the next 1", 0),
    ("https://github.com/huggingface/swift-transformers/pull/359", "whisper_basic", "Hello, world! [music] (laughter)",
     "hello world", 0),
    ("https://github.com/wavify-labs/wavify-sdks/issues/23", "basic", "Hello, World!", "hello world", 0),
    # acronyms: with points they are one word to `basic`, letters to Whisper's
    ("https://github.com/huggingface/open_asr_leaderboard/pull/142", "basic", "the U.S.A.", "the USA", 0),
    ("https://github.com/huggingface/open_asr_leaderboard/pull/142", "whisper_english", "the U.S.A.", "the USA", 3),
    # not made equal: a point may be a decimal one, vowel signs may be what is tested
    ("https://github.com/saurabhav88/EnviousWispr/issues/1982", "basic", "1.250 Euro", "1250 Euro", 1),
    ("https://github.com/ivrit-ai/asr-training/pull/3", "basic", "שָׁלוֹם", "שלום", 1),
    # texts of two languages, and full-width forms among them
    ("https://github.com/QwenAudio/Fun-ASR/issues/35", "basic", "我用 ＰｙＴｏｒｃｈ２。", "我用 pytorch2", 0),
]  # fmt: skip


@pytest.mark.parametrize("report, normaliser, ref, hyp, n", SAME)
def test_texts_of_reports(report, normaliser, ref, hyp, n):
    assert errors(normaliser, ref, hyp) == n


def test_ids_that_are_written_in_two_ways_are_named(tmp_path):
    """https://github.com/ArcReel/ArcReel/issues/1578, for ids: they are not guessed to be the same."""
    (tmp_path / "ref").write_text("Hi\u1ebfu a\nb c\n")
    (tmp_path / "hyp").write_text("Hie\u0302\u0301u a\nb c\n")
    with pytest.raises(UserError, match="hyp: 1 utterances are not in .*ref: Hie\u0302\u0301u"):
        score.main(["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "hyp")])


TAGS = [
    "<unk> <noise> {x}",
    "a (()) b",
    "[noise] yes",
    "</s><s>",
    "<|endoftext|> end",
    "don't <eps> know",
    "((unclear)) word",
]


@pytest.mark.parametrize("text", TAGS)
def test_tags_in_texts_are_text(tmp_path, text):
    """They are neither special tokens nor dropped in silence: what is trained on is what stands there."""
    (tmp_path / "a.wav").touch()
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": text}) + "\n")
    import_data.main([str(tmp_path / "m.jsonl"), str(tmp_path / "out")])
    assert DataDir.load(tmp_path / "out").text == {"a": text}
    assert get_normaliser("none")(text) == text
