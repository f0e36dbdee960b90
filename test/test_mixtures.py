"""Mixtures of phases: names, sources, the files that a phase trains on, what is made again, and the rows of JSTIP."""

import collections
import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.tables import level
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.phases import with_schedule
from espnet_llmvq.experiment.systems import phases_of, read_mixture, read_systems
from espnet_llmvq.sequence.sequence import read_sequences
from espnet_llmvq.stages import data, encoder, language, sequences, train

EGS = Path(__file__).resolve().parent.parent / "egs"
RECIPE = read_cards(EGS / "mini_tts/jstip1/conf")
CARDS = {
    "systems": {
        "plain": {"phases": ["start", "joint"]},
        "mixed": {"phases": ["start", "joint_mixed"]},
        "both": {"phases": ["start", "joint_both"]},
    },
    "phases": {
        "start": {"max_epoch": 1},
        "joint": {"max_epoch": 2, "train_encoder": True},
        "joint_mixed": {"base": "joint", "mixture": "mixed"},
        "joint_both": {"base": "joint_mixed", "mixture": "both", "train_encoder": False},
    },
    "mixtures": {
        "mixed": {"train/asr": 2, "train/word": 1},
        "both": {"train/asr": 1, "tts/text": 0.5, "domain/text": 1, "tts/asr": 1},
    },
    "interleave": {"word": {"level": "word", "segment_token": None}, "segments": {"level": "segment"}},
}


def changed(section, **entries):
    """The cards with other entries in a section."""
    return {**CARDS, section: {**CARDS[section], **entries}}


@pytest.fixture
def mixtures(plan):
    """Function: the mixtures of systems, with cards and options."""

    def read(systems, cards=CARDS, **options):
        return plan(cards, systems=systems, **{"tts_text": "tts.txt", "texts": "domain=d.txt", **options}).mixtures

    return read


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"train/wrod": 1}, r"unknown form in .*mixture bad, train/wrod: 'wrod' \(did you mean 'word'\?\)"),
        ({"trian/asr": 1}, r"unknown set in .*mixture bad, trian/asr: 'trian' \(did you mean 'train'\?\)"),
        ({"tarin/text": 1}, r"unknown set in .*mixture bad, tarin/text: 'tarin' \(did you mean 'train'\?\)"),
        ({"domain/asr": 1}, "unknown set in .*mixture bad, domain/asr: 'domain'"),  # a text has no audio
        ({"train": 1}, "unknown form in .*mixture bad, train: ''"),
        ({"train/asr": 0}, "mixture bad: the share of train/asr is 0; it must be a number above 0"),
        ({"train/asr": True}, "share of train/asr is True"),
        ({"train/asr": "one"}, "share of train/asr is 'one'"),
        ({"train/asr": float("nan")}, "share of train/asr is nan"),
        ({}, "mixture bad: no source"),
        (["train/asr"], r"mixture bad: expected keys and values, not \['train/asr'\]"),
    ],
)
def test_mistakes_in_a_mixture(mixtures, entry, message):
    cards = changed("mixtures", bad=entry)
    cards["phases"] = {**CARDS["phases"], "joint_both": {"mixture": "bad"}}
    with pytest.raises(UserError, match=message):
        mixtures("both", cards)


def test_only_what_the_systems_need_is_read(mixtures):
    with pytest.raises(UserError, match="key in --override.*did you mean 'silence'"):
        mixtures("mixed", interleave_overrides="silense=0")
    wrong = {"levl": "word"}
    mixtures("mixed", changed("interleave", segments=wrong), interleave_overrides="silence=0")
    with pytest.raises(UserError, match=r"systems.yaml, form of interleaving word.*'levl' \(did you mean 'level'"):
        mixtures("mixed", changed("interleave", word=wrong))
    with pytest.raises(UserError, match=r"unknown mixture in .*phase joint_both: 'mixd' \(did you mean 'mixed'\?\)"):
        mixtures("both", changed("phases", joint_both={"mixture": "mixd"}))


def test_half_precision_is_for_a_frozen_llm(mixtures):
    half = {"mixture": "mixed", "llm_conf": {"dtype": "bfloat16"}}
    with pytest.raises(
        UserError, match="joint_both: llm_conf.dtype is bfloat16, for a frozen LLM, but this one trains"
    ):
        mixtures("both", changed("phases", joint_both=half))
    for more in ({"freeze": ["llm"]}, {"llm_conf": {**half["llm_conf"], "lora": {"r": 4}}}):
        mixtures("both", changed("phases", joint_both={**half, **more}))


def test_plain_text_needs_an_llm_that_trains(mixtures):
    def cards(**more):
        return changed("phases", joint_both={"mixture": "both", **more})

    message = (
        r"phase joint_both: mixture both has plain text \(tts/text\), but the LLM, which alone reads it, is frozen"
    )
    with pytest.raises(UserError, match=message):
        mixtures("both", cards(freeze=["llm"]))
    mixtures("both", cards(freeze=["llm"], mixture="mixed"))
    assert "both" in mixtures("both", cards(llm_conf={"lora": {"r": 4}}))


@pytest.fixture
def recipe(plan, llm_dir, tmp_path, monkeypatch):
    """A recipe with formatted sets, word times and texts, without audio.

    Function: runs stages 9 and 10 -> sorted files that were written, `Experiment`.
    """
    for name in ("train", "valid", "test", "tts"):
        room = tmp_path / "dump" / name
        room.mkdir(parents=True)
        utts = [f"{name}{i}" for i in range(4)]
        tables = {"text": "one two three four", "wav.scp": "{}.wav", "utt2num_samples": "32000", "utt2spk": "s"}
        for table, value in tables.items():
            (room / table).write_text("".join(f"{utt} {value.format(utt)}\n" for utt in utts))
    times = "".join(
        f"train{i} 1 {0.5 * k:.1f} 0.3 {word}\n"
        for i in range(4)
        for k, word in enumerate("one two three four".split())
    )
    for path in ("exp/align/train.ctm", "other.ctm"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(times if path == "other.ctm" else times.replace("0.3", "0.4"))
    (tmp_path / "domain.txt").write_text("five six\nseven\n")
    llms = {name: str(tmp_path / name) for name in ("llm", "other")}
    for path in llms.values():
        shutil.copytree(llm_dir, path)
    config = tmp_path / "other/tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 1000}))

    def run(*stages, **options):
        more = {"systems": "mixed", "texts": "domain=domain.txt", "tts_text": "tts.txt", "llm": "./llm"}
        experiment = plan(CARDS, **{**more, **options})
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        for stage in stages or (sequences.make_all, sequences.count_all, sequences.make_mixtures):
            stage(experiment)
        now = [path for path in tmp_path.rglob("*") if path.name.endswith((".jsonl", "_shape"))]
        return sorted(str(p.relative_to(tmp_path)) for p in now if before.get(p) != p.stat().st_mtime_ns), experiment

    return run


ASR = [f"dump/{name}/sequences.jsonl" for name in ("test", "train", "valid")]
SHAPES = ["exp/stats/train_asr_shape", "exp/stats/train_shape", "exp/stats/train_word_shape", "exp/stats/valid_shape"]
MIXED = ["exp/mixtures/mixed.jsonl", "exp/mixtures/mixed_shape"]


def test_sources_of_mixtures_are_made(recipe, tmp_path):
    written, experiment = recipe(systems="plain mixed both", mixture_positions=900)
    assert written == sorted([
        *ASR, "dump/tts/sequences.jsonl", "dump/train/word.jsonl", "dump/domain/plain.jsonl", "dump/tts/plain.jsonl",
        *SHAPES, "exp/stats/domain_text_shape", "exp/stats/tts_asr_shape", "exp/stats/tts_text_shape", *MIXED,
        "exp/mixtures/both.jsonl", "exp/mixtures/both_shape",
    ])  # fmt: skip
    # A data directory that has them is still one: none is a table of utterances by its name.
    made = [p.name for p in (tmp_path / "dump").rglob("*") if p.is_file()]
    assert not any(level(name) for name in made if name not in ("text", "wav.scp", "utt2num_samples", "utt2spk"))
    assert (tmp_path / "dump/tts/plain.txt").read_text() == "one two three four\n" * 4
    assert [s.transcript for s in read_sequences("dump/domain/plain.jsonl")] == ["five six", "seven"]
    spans = next(read_sequences("dump/train/word.jsonl")).spans
    assert [s.text for s in spans if s.text] == [" two", " four"]
    assert [s.is_speech for s in spans[:4]] == [True, False, True, False]
    records = {name: json.loads(Path(f"exp/mixtures/{name}.jsonl.made.json").read_text()) for name in ("mixed", "both")}
    assert [record["options"] for record in records.values()] == [
        {"shares": [["train_asr", 2], ["train_word", 1]], "positions": 900, "seed": 1},
        {
            "shares": [["train_asr", 1], ["tts_text", 0.5], ["domain_text", 1], ["tts_asr", 1]],
            "positions": 900,
            "seed": 1,
        },
    ]
    for name, file in (("train_word", "dump/train/word.jsonl"), ("domain_text", "dump/domain/plain.jsonl"),
                       ("tts_asr", "dump/tts/sequences.jsonl"), ("tts_text", "dump/tts/plain.jsonl")):  # fmt: skip
        lines = Path(f"exp/stats/{name}_shape").read_text().splitlines()
        assert [line.split()[0] for line in lines] == [s.id for s in read_sequences(file)]
    # Of the sets that are interleaved word times are needed: tts is not.
    assert experiment.sets_to_align == ["train"]
    assert recipe(systems="plain mixed both", mixture_positions=900)[0] == []


def test_systems_without_mixtures_need_no_more(recipe):
    assert recipe(systems="plain", texts="", tts_text="")[0] == [*ASR, "exp/stats/train_shape", "exp/stats/valid_shape"]


WORD = ["dump/train/word.jsonl", *MIXED, "exp/stats/train_word_shape"]


@pytest.mark.parametrize(
    "options, written",
    [
        ({"mixture_positions": 500}, MIXED),
        ({"base_seed": 2}, MIXED),
        ({"interleave_overrides": "margin=0.05 ratio=[1,2]"}, WORD),
        ({"prompt": "{speech} {text}"}, [*ASR, *MIXED, *(s for s in SHAPES if "word" not in s)]),
        # Another LLM counts otherwise and may have another context.
        ({"llm": "./other"}, ["dump/train/word.jsonl", *MIXED, *SHAPES]),
        ({"context": "400"}, WORD),
        ({"ctms": "train=other.ctm"}, WORD),
    ],
    ids=str,
)
def test_another_option_is_noticed_and_the_first_one_again(recipe, options, written):
    recipe()
    assert recipe()[0] == []
    assert recipe(**options)[0] == sorted(written)
    assert recipe(**options)[0] == []
    assert recipe()[0] == sorted(written)


def test_a_chat_format_is_that_of_the_llm(recipe, tmp_path):
    options = {"prompt": "chat: {speech}"}
    for name in ("llm", "other"):
        path = tmp_path / name / "tokenizer_config.json"
        config = json.loads(path.read_text())
        template = "{% for m in messages %}<s>{{ m.content }}{% endfor %}"
        path.write_text(json.dumps({**config, "chat_template": template}))
    recipe(sequences.make_all)
    assert recipe(sequences.make_all, **options)[0] == ASR
    assert recipe(sequences.make_all, **options)[0] == []
    assert recipe(sequences.make_all, **options, llm="./other")[0] == sorted([*ASR, "dump/train/word.jsonl"])
    path.write_text(json.dumps({**config, "chat_template": template.replace("<s>", "<s> ")}))
    # The file may change how many tokens a text has, too.
    assert recipe(sequences.make_all, **options, llm="./other")[0] == sorted([*ASR, "dump/train/word.jsonl"])


def test_a_copy_of_the_llm_is_the_same(recipe, tmp_path):
    recipe()
    shutil.copytree(tmp_path / "llm", tmp_path / "copy")
    for path in ("./copy", str(tmp_path / "llm")):
        assert recipe(llm=path)[0] == []


def test_a_context_of_the_llm_is_noticed(recipe, tmp_path):
    recipe()
    path = tmp_path / "llm/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 511}))
    assert "dump/train/word.jsonl" in recipe()[0]
    assert recipe()[0] == []
    recipe(context="100")
    path.write_text(path.read_text().replace("511", "510"))
    assert recipe(context="100")[0] == []


def test_other_files_are_noticed_whatever_their_times(recipe, tmp_path):
    options = {"systems": "mixed both"}
    recipe(sequences.make_all, **options)
    text = ["dump/domain/plain.jsonl"]
    for name, line in (("same.txt", "five six\nseven\n"), ("older.txt", "eight\n")):
        (tmp_path / name).write_text(line)
        os.utime(tmp_path / name, (1, 1))
    assert recipe(sequences.make_all, **options, texts="domain=same.txt")[0] == []
    assert recipe(sequences.make_all, **options, texts="domain=older.txt")[0] == text
    (tmp_path / "older.txt").write_text("nine\n")  # as long as before
    assert recipe(sequences.make_all, **options, texts="domain=older.txt")[0] == text
    assert [s.transcript for s in read_sequences(text[0])] == ["nine"]
    shutil.copy(tmp_path / "exp/align/train.ctm", tmp_path / "copy.ctm")
    options["texts"] = "domain=older.txt"
    assert recipe(sequences.make_all, **options, ctms="train=copy.ctm")[0] == []
    os.utime(tmp_path / "other.ctm", (1, 1))
    assert recipe(sequences.make_all, **options, ctms="train=other.ctm")[0] == ["dump/train/word.jsonl"]
    table = tmp_path / "dump/tts/text"
    table.write_text(table.read_text().replace("four", "five"))
    again = ["dump/tts/plain.jsonl", "dump/tts/sequences.jsonl"]
    assert recipe(sequences.make_all, **options, ctms="train=other.ctm")[0] == again
    Path("dump/train/word.jsonl").unlink()
    assert recipe(sequences.make_all, **options, ctms="train=other.ctm")[0] == ["dump/train/word.jsonl"]


def test_options_of_speech_tokenizer_and_alignment_reach_their_functions(plan, monkeypatch, tmp_path):
    called = {}

    def note(path):
        name = path.rpartition(".")[2]
        monkeypatch.setattr(f"espnet_llmvq.{path}", lambda *args, **options: called.update({name: (args, options)}))

    for path in ("data.synthesise.synthesise", "llm.tokenizer.train_tokenizer", "decode.align.align_sets"):
        note(path)
    (tmp_path / "tts.txt").write_text("u1 A text.\n")
    (tmp_path / "some.txt").write_text("A text.\n")
    (tmp_path / "data/lm").mkdir(parents=True)
    (tmp_path / "data/lm/train.txt").write_text("A text.\n")
    options = {"systems": "plain mixed both", "texts": "domain=d.txt", "tts_text": "tts.txt",
               "tts_voices": "en-us en-gb", "tts_command": "say {text} {wav}", "base_seed": 3}  # fmt: skip
    experiment = plan(CARDS, **options, tokenizer_text="some.txt", reserved_tokens="<N> <A>", lm_train_text="lm.txt")
    data.perturb(experiment, nj=1)
    assert called["synthesise"] == (
        ([("u1", "A text.")], "data/tts"),
        {"voices": ["en-us", "en-gb"], "seed": 3, "nj": 1, "command": "say {text} {wav}"},
    )
    language.tokenizer(experiment)
    expected = ((["some.txt"], 500, "exp/tokenizer"), {"whole_words": 0, "reserved": ["<N>", "<A>"]})
    assert called["train_tokenizer"] == expected
    language.tokenizer(plan(systems="plain"))
    assert called["train_tokenizer"] == (
        (["data/lm/train.txt"], 500, "exp/tokenizer"),
        {"whole_words": 0, "reserved": []},
    )
    monkeypatch.setattr(encoder, "make_sequences", lambda experiment, names: None)
    encoder.align(experiment, threads=1)
    assert called["align_sets"][0] == ([("dump/train/sequences.jsonl", "exp/align/train.ctm", None)],)
    encoder.align(plan(systems="mixed", ctms="train=x.ctm", align_sets="test"), threads=1)
    assert called["align_sets"][0] == ([("dump/test/sequences.jsonl", "exp/align/test.ctm", None)],)


def test_configs_are_checked_for_other_systems(plan, capsys):
    def checked(**options):
        train.check(plan(CARDS, llm="a/b", **options))
        return "checking configs" in capsys.readouterr().out

    assert checked(systems="plain") and not checked(systems="plain")
    assert checked(systems="plain mixed")
    assert checked(systems="plain mixed", train_overrides="max_epoch=1")


def test_rows_of_jstip():
    """Equal steps, and thirds that are filled up with ASR."""
    systems = {s.name: s for s in read_systems(RECIPE, ["paper_b"])}
    thirds, last = {}, {}
    for system in systems.values():
        if system.decode != "llm":
            continue
        phase = phases_of(RECIPE, system.name)[-1]
        config = with_schedule(phase.config, phase.where)
        assert config["scheduler_conf"]["total_steps"] == config["max_epoch"] * config["num_iters_per_epoch"]
        same = ("batch_type", "batch_bins", "optim", "optim_conf", "scheduler_conf", "train_encoder", "augment_conf")
        last[system.name] = (config["max_epoch"], {key: config[key] for key in same})
        assert len(system.phases) == 3 and config["freeze"] == []
        shares = {("train", "asr"): 1}
        if phase.mixture:
            shares = read_mixture(RECIPE, phase.mixture, ["train", "tts"], ["domain"])
        kinds = collections.Counter()
        for (name, form), share in shares.items():
            kind = {"asr": "asr" if name == "train" else "tts", "text": "text"}.get(form, "interleaved")
            kinds[kind] += Fraction(share) / sum(shares.values())
        thirds[system.name] = dict(kinds)
    short = last.pop("asr_only")
    assert all(row == last["asr_only_equal"] for row in last.values())
    assert 3 * short[0] == last["asr_only_equal"][0]
    third = Fraction(1, 3)
    assert thirds["asr_only"] == thirds["asr_only_equal"] == {"asr": 1}
    assert thirds["il_word"] == thirds["il_mixed_sil"] == {"asr": 2 * third, "interleaved": third}
    assert thirds["text"] == thirds["ttstext"] == {"asr": 2 * third, "text": third}
    assert thirds["text_mixed"] == thirds["best"] == thirds["best_soft"] == {
        "asr": third, "text": third, "interleaved": third,
    }  # fmt: skip
    assert thirds["tts"] == {"asr": 2 * third, "tts": third}
    assert thirds["tts_mixed"] == {"asr": third, "interleaved": third, "tts": third}
    assert [name for name in thirds] == (
        "asr_only asr_only_equal il_word il_seg_sil il_seg_sil_punc il_mixed_sil il_mixed_sil_punc text text_mixed "
        "tts tts_mixed ttstext ttstext_mixed best best_soft"
    ).split()


def test_llmasr1_says_where_the_rows_of_jstip_are():
    for options in (["--systems", "paper_b"], ["--systems=paper_b"], ["--systems", "ctc paper_b"]):
        done = subprocess.run(["./run.sh", *options], cwd=EGS / "mini_tts/llmasr1", capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert done.returncode == 2 and "they are in ../jstip1" in done.stderr
