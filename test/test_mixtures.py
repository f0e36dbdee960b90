"""Mixtures of phases: their names and sources, the files that a phase trains on, and the rows of JSTIP."""

import collections
import os
import re
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from espnet_llmvq.base.config import from_mapping, read_config, read_yaml
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import train
from espnet_llmvq.cli.recipe import mixtures
from espnet_llmvq.data.tables import level
from espnet_llmvq.espnet import run as launch
from espnet_llmvq.experiment.systems import names, plan, read_mixture, read_systems, split_mixture
from espnet_llmvq.score.published import make_published
from espnet_llmvq.sequence.interleaved import Interleaving

EGS = Path(__file__).resolve().parent.parent / "egs"
RECIPE = str(EGS / "mini_tts/jstip1/conf")
FILES = {
    "systems/plain.yaml": "phases: [start, joint]\n",
    "systems/mixed.yaml": "phases: [start, joint_mixed]\n",
    "systems/both.yaml": "phases: [start, joint_both]\n",
    "phases/start.yaml": "max_epoch: 1\n",
    "phases/joint.yaml": "max_epoch: 2\ntrain_encoder: true\n",
    "phases/joint_mixed.yaml": "base: joint.yaml\nmixture: mixed\n",
    "phases/joint_both.yaml": "base: joint_mixed.yaml\nmixture: both\ntrain_encoder: false\n",
    "mixtures/mixed.yaml": "train/asr: 2\ntrain/word: 1\n",
    "mixtures/both.yaml": "train/asr: 1\ntts/text: 0.5\ndomain/text: 1\ntts/asr: 1\n",
    "interleave/word.yaml": "level: word\n",
    "interleave/segments.yaml": "level: segment\n",
}


@pytest.fixture
def conf(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_shares_of_a_mixture(conf):
    assert read_mixture(str(conf), "mixed", ["train"]) == {("train", "asr"): 2, ("train", "word"): 1}
    assert list(read_mixture(str(conf), "both", ["train", "tts"], ["domain"]).items()) == [
        (("train", "asr"), 1), (("tts", "text"), 0.5), (("domain", "text"), 1), (("tts", "asr"), 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, message",
    [
        ("train/wrod: 1", r"unknown form in .*bad.yaml, train/wrod: 'wrod' \(did you mean 'word'\?\)"),
        ("trian/asr: 1", r"unknown set in .*bad.yaml, trian/asr: 'trian' \(did you mean 'train'\?\)"),
        ("tarin/text: 1", r"unknown set in .*bad.yaml, tarin/text: 'tarin' \(did you mean 'train'\?\)"),
        ("domain/asr: 1", "unknown set in .*bad.yaml, domain/asr: 'domain'"),  # a text has no audio
        ("train: 1", "unknown form in .*bad.yaml, train: ''"),
        ("train/asr: 0", "bad.yaml: the share of train/asr is 0; it must be a number above 0"),
        ("train/asr: true", "share of train/asr is True"),
        ("train/asr: one", "share of train/asr is 'one'"),
        ("train/asr: .nan", "share of train/asr is nan"),
        ("", "bad.yaml: no source"),
        ("- train/asr", "expected `key: value` lines"),
    ],
)
def test_mistakes_in_a_mixture(conf, text, message):
    (conf / "mixtures/bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_mixture(str(conf), "bad", ["train", "tts"], ["domain"])


def test_the_command_lists_what_the_systems_need(conf, capsys):
    command = ["--conf_dir", str(conf), "--sets", "train tts", "--texts", "domain", "--systems"]
    mixtures.main([*command, "plain"])
    assert capsys.readouterr().out == ""
    mixtures.main([*command, "both plain mixed"])
    assert capsys.readouterr().out.splitlines() == [
        "both|train/asr=1 tts/text=0.5 domain/text=1 tts/asr=1",
        "mixed|train/asr=2 train/word=1",
    ]
    with pytest.raises(UserError, match="key in --override.*did you mean 'silence'"):
        mixtures.main([*command, "mixed", "--override", "silense=0"])
    # Of a form that no phase uses, nothing is read.
    (conf / "interleave/segments.yaml").write_text("levl: segment\n")
    mixtures.main([*command, "mixed", "--override", "silence=0"])
    (conf / "interleave/word.yaml").write_text("levl: word\n")
    with pytest.raises(UserError, match=r"word.yaml.*'levl' \(did you mean 'level'"):
        mixtures.main([*command, "mixed"])
    (conf / "phases/joint_both.yaml").write_text("mixture: mixd\n")
    with pytest.raises(UserError, match=r"unknown mixture in .*joint_both.yaml 'mixd' \(did you mean 'mixed'\?\)"):
        mixtures.main([*command, "both"])


def test_each_phase_trains_on_its_files(conf, monkeypatch):
    """Cached frames belong to the plain sequences and to the encoder that stays as it is."""
    jobs = {}
    monkeypatch.setattr(launch, "is_done", lambda directory, settings: True)
    monkeypatch.setattr(launch, "run_phases", lambda found, *_: jobs.update({j[0]: j[3] for j in found}))
    train.main([
        "--systems", "plain mixed both", "--conf_dir", str(conf), "--llm", "llm", "--encoder_file", "enc/model.pth",
        "--train", "t.jsonl", "--valid", "v.jsonl", "--train_shape", "t_shape", "--valid_shape", "v_shape",
        "--train_cache", "t.scp", "--valid_cache", "v.scp", "--mixture_dir", "exp/mix",
    ])  # fmt: skip
    read = {
        tag: (
            s["train_data_path_and_name_and_type"][0][0], s["train_shape_file"][0], s["train_cache"], s["valid_cache"],
        )
        for tag, s in jobs.items()
    }  # fmt: skip
    assert read == {
        "start": ("t.jsonl", "t_shape", "t.scp", "v.scp"),
        "start-joint": ("t.jsonl", "t_shape", None, None),
        "start-joint_mixed": ("exp/mix/mixed.jsonl", "exp/mix/mixed_shape", None, None),
        "start-joint_both": ("exp/mix/both.jsonl", "exp/mix/both_shape", None, "v.scp"),
    }
    for settings in jobs.values():
        assert settings["valid_data_path_and_name_and_type"] == [["v.jsonl", "sequence", "sequence"]]
        assert "mixture" not in settings


# The rows of paper_b


def test_rows_of_jstip():
    """Equal steps, thirds that are filled up with ASR, and configs that can be read."""
    from espnet_llmvq.espnet.task import SpeechLLMTask

    systems = read_systems(RECIPE, ["paper_b"])
    for form in names(f"{RECIPE}/interleave"):
        path = f"{RECIPE}/interleave/{form}.yaml"
        from_mapping(Interleaving, read_yaml(path), path)
    for name in names(f"{RECIPE}/published"):
        path = f"{RECIPE}/published/{name}.yaml"
        rows = list(make_published(read_yaml(path), path).rows)
        assert [s.name for s in systems if s.name in rows] == rows
    for phase in plan(systems):
        config, _ = split_mixture(read_config(phase.config), phase.config, RECIPE)
        SpeechLLMTask.check_config(config, phase.config)
        assert config["scheduler_conf"]["total_steps"] == config["max_epoch"] * config["num_iters_per_epoch"]
    thirds, last = {}, {}
    for system in systems:
        if system.decode != "llm":
            continue
        config, mixture = split_mixture(read_config(system.phases[-1].config), "", RECIPE)
        same = ("batch_type", "batch_bins", "optim", "optim_conf", "scheduler_conf", "train_encoder", "augment_conf")
        last[system.name] = (config["max_epoch"], {key: config[key] for key in same})
        assert len(system.phases) == 3 and config["freeze"] == []
        shares = {("train", "asr"): 1}
        if mixture is not None:
            shares = read_mixture(RECIPE, mixture, ["train", "tts"], ["domain"])
        kinds = collections.Counter()
        for (data, form), share in shares.items():
            kind = {"asr": "asr" if data == "train" else "tts", "text": "text"}.get(form, "interleaved")
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


# The stage script, with a Python that notes what it is asked to run

PYTHON = """\
#!/usr/bin/env bash
# Names are looked up in earnest; of all else the command is noted, and what it would write appears.
case "$3 $4" in "recipe systems" | "recipe mixtures") exec {python} "$@" ;; esac
echo "${{*:2}}" >>calls
while [ $# -gt 0 ]; do
    if [ "$1" = --out ]; then mkdir -p "$(dirname "$2")" && [ -d "$2" ] || touch "$2"; fi
    shift
done
"""


@pytest.fixture
def recipe(conf):
    """A recipe with the stage script as it is, without data: function that runs it and returns its commands."""
    os.symlink(EGS / "TEMPLATE/llmasr1/llmasr.sh", conf / "llmasr.sh")
    os.symlink(EGS / "TEMPLATE/llmasr1/path.sh", conf / "path.sh")
    os.symlink(EGS / "TEMPLATE/llmasr1/utils", conf / "utils")
    (conf / "python").write_text(PYTHON.format(python=sys.executable))
    (conf / "python").chmod(stat.S_IRWXU)
    for name in ("train", "valid", "test"):
        (conf / "data" / name).mkdir(parents=True)
        (conf / "data" / name / "text").write_text("")
    for name in ("train", "tts"):
        (conf / "dump" / name).mkdir(parents=True)
        (conf / "dump" / name / "text").write_text("u1 One two.\n")

    def run(*options, error=None):
        (conf / "calls").write_text("")
        done = subprocess.run(
            ["./llmasr.sh", "--python", "./python", "--conf_dir", ".", "--nj", "1", "--test_sets", "test:id",
             "--skip_stages", "1 3 4 6 7", "--stop_stage", "11", *options],
            cwd=conf, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == (error is not None), done.stderr
        if error:
            assert re.search(error, done.stderr), done.stderr
        calls = (conf / "calls").read_text().replace("espnet_llmvq ", "").splitlines()
        return [call for call in calls if not call.startswith(("data validate", "train --check"))]

    return run


def calls_of(command, calls):
    return [call[len(command) + 1 :] for call in calls if call.startswith(command + " ")]


def test_stages_of_mixtures(recipe, conf):
    (conf / "domain.txt").write_text("A text.\n")
    options = ["--systems", "plain mixed both", "--texts", "domain=domain.txt", "--tts_text", "tts.txt",
               "--tts_voices", "en-us en-gb", "--tts_command", "say {text} {wav}", "--reserved_tokens", "<N> <A>",
               "--lm_train_text", "lm.txt", "--tokenizer_text", "some.txt",
               "--mixture_positions", "900"]  # fmt: skip
    calls = recipe(*options, "--cache_encoder", "false")
    (speak,) = calls_of("data synthesise", calls)
    assert speak == ("--text tts.txt --voices en-us en-gb --seed 1 --nj 1 --out data/tts --command say {text} {wav}")
    (tokenizer,) = calls_of("lm tokenizer", calls)
    assert tokenizer.startswith("--text some.txt ") and tokenizer.endswith("--out exp/tokenizer --reserved <N> <A>")
    (align,) = calls_of("align make", calls)  # of the sets that are interleaved: tts is not
    assert "--set dump/train/sequences.jsonl=exp/align/train.ctm" in align and align.count("--set") == 1
    made = {call.split("--out ")[1].split()[0]: call for call in calls_of("sequences make", calls)}
    assert set(made) == {f"dump/{name}/sequences.jsonl" for name in ("train", "valid", "test", "tts")} | {
        "dump/train/word.jsonl", "dump/domain/plain.jsonl", "dump/tts/plain.jsonl",
    }  # fmt: skip
    # A data directory that has them is still one: none is a table of utterances by its name.
    assert not any(level(p.name) for p in (conf / "dump").rglob("*") if p.name not in ("utt2num_samples", "utt2spk"))
    assert not any(level(Path(name).name) for name in made)
    assert made["dump/train/word.jsonl"] == (
        "--builder interleaved --data_dir dump/train --ctm exp/align/train.ctm --config ./interleave/word.yaml "
        "--encoder_config exp/encoder/config.yaml --context llm --llm exp/llm --bridge_stack 1 "
        "--out dump/train/word.jsonl"
    )
    assert made["dump/domain/plain.jsonl"].startswith("--builder text --text domain.txt ")
    assert made["dump/tts/plain.jsonl"].startswith("--builder text --text dump/tts/plain.txt ")
    assert (conf / "dump/tts/plain.txt").read_text() == "One two.\n"
    counted = calls_of("sequences positions", calls)[-1]
    assert all(f"{name} exp/stats/{shape}_shape" in counted for name, shape in (
        ("dump/train/word.jsonl", "train_word"), ("dump/domain/plain.jsonl", "domain_text"),
        ("dump/tts/sequences.jsonl", "tts_asr"), ("dump/tts/plain.jsonl", "tts_text"),
    ))  # fmt: skip
    assert calls_of("sequences mix", calls) == [
        "--out exp/mixtures/mixed.jsonl --shape exp/mixtures/mixed_shape --seed 1 --positions 900 "
        "train_asr=2:dump/train/sequences.jsonl:exp/stats/train_asr_shape "
        "train_word=1:dump/train/word.jsonl:exp/stats/train_word_shape",
        "--out exp/mixtures/both.jsonl --shape exp/mixtures/both_shape --seed 1 --positions 900 "
        "train_asr=1:dump/train/sequences.jsonl:exp/stats/train_asr_shape "
        "tts_text=0.5:dump/tts/plain.jsonl:exp/stats/tts_text_shape "
        "domain_text=1:dump/domain/plain.jsonl:exp/stats/domain_text_shape "
        "tts_asr=1:dump/tts/sequences.jsonl:exp/stats/tts_asr_shape",
    ]
    (trained,) = calls_of("train", calls[-1:])
    assert "--systems plain mixed both " in trained and trained.endswith("--mixture_dir exp/mixtures")
    (conf / "dump/train/word.jsonl").unlink()
    again = recipe(*options, "--stage", "8", "--stop_stage", "9", "--ctms", "train=dump/train/words.ctm")
    # All else is up to date, and word times are there.
    assert [call.split()[0] for call in again] == ["sequences"]
    assert "--builder interleaved " in again[0] and "--ctm dump/train/words.ctm " in again[0]


def test_another_prompt_or_size_is_made_anew(recipe, conf):
    options = ["--systems", "mixed", "--cache_encoder", "false", "--mixture_positions", "900"]
    recipe(*options)
    # The stand-in writes no positions, which are made anew each time.
    for name in ("train_shape", "valid_shape", "train_asr_shape", "train_word_shape"):
        (conf / "exp/stats").mkdir(exist_ok=True)
        (conf / "exp/stats" / name).touch()
    (conf / "exp/mixtures/mixed_shape").touch()
    assert [call.split()[0] for call in recipe(*options, "--stage", "9")] == ["train"]
    (mixed,) = calls_of("sequences mix", recipe(*options, "--stage", "9", "--mixture_positions", "500"))
    assert "--positions 500" in mixed
    again = [*options, "--stage", "9", "--interleave_overrides", "silence=0 ratio=[1,2]"]
    (made,) = calls_of("sequences make", recipe(*again))
    assert "--config ./interleave/word.yaml --override silence=0 --override ratio=[1,2] " in made
    assert not calls_of("sequences make", recipe(*again))
    (made,) = calls_of("sequences make", recipe(*options, "--stage", "9"))
    assert "--override" not in made
    assert recipe("--systems", "mixed", "--interleave_overrides", "silense=0", error="did you mean 'silence'") == []
    made = calls_of("sequences make", recipe(*options, "--stage", "9", "--prompt", "{speech} {text}"))
    assert len(made) == 3 and all("--prompt {speech} {text}" in call for call in made)
    again = [*options, "--stage", "9", "--prompt", "chat: {speech}"]
    # Another LLM has another context too, so interleaved sequences are made anew with it.
    assert len(calls_of("sequences make", recipe(*again, "--llm", "one"))) == 4
    assert not calls_of("sequences make", recipe(*again, "--llm", "one"))
    assert len(calls_of("sequences make", recipe(*again, "--llm", "other"))) == 4


def test_other_files_of_the_same_names_are_noticed(recipe, conf):
    for name in ("first.txt", "older.txt"):
        (conf / name).write_text("A text.\n")
    os.utime(conf / "older.txt", (1, 1))
    (conf / "dump/train/older.ctm").write_text("")
    os.utime(conf / "dump/train/older.ctm", (1, 1))
    options = ["--systems", "mixed both", "--tts_text", "tts.txt", "--cache_encoder", "false", "--stop_stage", "9"]
    recipe(*options, "--texts", "domain=first.txt")
    assert not calls_of("sequences make", recipe(*options, "--texts", "domain=first.txt"))
    (made,) = calls_of("sequences make", recipe(*options, "--texts", "domain=older.txt"))
    assert "--text older.txt " in made
    options += ["--texts", "domain=older.txt", "--ctms", "train=dump/train/older.ctm"]
    (made,) = calls_of("sequences make", recipe(*options))
    assert "--ctm dump/train/older.ctm " in made
    assert not calls_of("sequences make", recipe(*options))


def test_frames_with_other_noise_are_made_anew(recipe, conf):
    def encoded(*options):
        """Sets that are encoded, and whether with noise; the stand-in leaves no frames, so they are put there."""
        found = []
        for call in calls_of("encode", recipe("--systems", "plain", "--stage", "9", "--stop_stage", "10", *options)):
            found += [(name, "--augment" in call) for name in ("train", "valid", "test") if f"/frames/{name}" in call]
        for name, _ in found:
            (conf / "exp/encoder/frames" / name / "frames.scp").touch()
        return found

    for name in ("train", "valid", "test"):
        (conf / "exp/encoder/frames" / name).mkdir(parents=True)
    assert encoded() == [("train", False), ("valid", False), ("test", False)]
    assert encoded() == []
    assert encoded("--augment_cache", "true") == [("train", True)]
    assert encoded("--augment_cache", "true") == []
    assert encoded() == [("train", False)]


def test_a_mistyped_baseline_is_an_error(recipe):
    recipe("--systems", "plain", "--baseline", "mixed", "--stop_stage", "5")  # of another run
    assert recipe("--systems", "plain", "--baseline", "mixd", error="did you mean 'mixed'") == []


def test_configs_are_checked_for_other_systems(recipe, conf):
    # Without the filter of `recipe`: the stand-in notes every call.
    def checks(*options):
        recipe("--stop_stage", "11", "--cache_encoder", "false", *options)
        return (conf / "calls").read_text().count("espnet_llmvq train --check")

    assert checks("--systems", "plain") == 1 and checks("--systems", "plain") == 0
    assert checks("--systems", "plain mixed") == 1
    assert checks("--systems", "plain mixed", "--train_overrides", "max_epoch=1") == 1


def test_systems_without_mixtures_run_as_before(recipe):
    calls = recipe("--systems", "plain", "--cache_encoder", "false")
    assert [call.split()[0] for call in calls] == ("lm sequences sequences sequences sequences train").split()
    (tokenizer,) = calls_of("lm tokenizer", calls)
    assert tokenizer.startswith("--text data/lm/train.txt ") and "--reserved" not in tokenizer


@pytest.mark.parametrize(
    "options, message",
    [
        (("--systems", "both"), "unknown set in .*both.yaml, tts/text: 'tts'"),
        (("--systems", "mixed", "--texts", "domain"), "--texts domain: expected NAME=FILE"),
        (("--systems", "mixed", "--ctms", "trian=x"), "--ctms trian=x: trian is none of train"),
        (("--systems", "mixed", "--ctms", "train"), "--ctms train: expected SET=FILE"),
    ],
)
def test_wrong_options_of_mixtures(recipe, options, message):
    assert recipe(*options, error=message) == []


def test_llmasr1_says_where_the_rows_of_jstip_are():
    for options in (["--systems", "paper_b"], ["--systems=paper_b"], ["--systems", "ctc paper_b"]):
        done = subprocess.run(["./run.sh", *options], cwd=EGS / "mini_tts/llmasr1", capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert done.returncode == 2 and "they are in ../jstip1" in done.stderr
