"""Forks: what they hold, what they refuse, what changed upstream since; smoke runs' data; options of scripts."""

import csv
import dataclasses
import gzip
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import plan
from espnet_llmvq.cli.recipe import fork as fork_recipe
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.experiment import fork
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.experiment import read_experiment
from espnet_llmvq.experiment.options import Options
from espnet_llmvq.llm.pretrain import load_config

ROOT = Path(__file__).resolve().parent.parent
DIGITS = "zero one two three four five six seven eight nine".split()


def write_manifest(folder, name, count, speakers=2):
    """`name`.csv and its sound files in `folder`; two to four digits an utterance."""
    rng = np.random.default_rng(count)
    (folder / name).mkdir(parents=True)
    lines = ["audio,text,speaker"]
    for i in range(count):
        soundfile.write(folder / name / f"{i:03d}.wav", rng.uniform(-0.1, 0.1, 4000), 16000)
        words = " ".join(rng.choice(DIGITS, rng.integers(2, 5)))
        lines.append(f"{name}/{i:03d}.wav,{words},spk{i % speakers}")
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.csv"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory: empty but for recordings/{metadata,phone}.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAIN_ROOT", raising=False)
    write_manifest(tmp_path / "recordings", "metadata", 60)
    write_manifest(tmp_path / "recordings", "phone", 10)
    return tmp_path


def make(*more):
    return fork_recipe.main(["mini_tts", "mycorpus", *more])


TRAIN = ("--train", "recordings/metadata.csv")
PHONE = ("--test", "phone=recordings/phone.csv:ood")


def everything(folder):
    """{relative path: content} of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_check_counts_and_writes_nothing(here, capsys):
    before = everything(here)
    make(*TRAIN, *PHONE, "--check")
    assert everything(here) == before
    found = capsys.readouterr().out
    # A tenth of 60 is held out; 4,000 samples at 16 kHz are a quarter of a second.
    assert "train: 54 utterances, 2 speakers" in found
    assert "valid: 6 utterances" in found and "held out of train" in found
    rows = (here / "recordings" / "phone.csv").read_text().splitlines()[1:]
    words = sum(len(row.split(",")[1].split()) for row in rows)
    assert f"phone: 10 utterances, 2 speakers, {words} words, 0.00 h; CSV manifest" in found


def test_a_fork_is_complete_and_has_no_links(here):
    make(*TRAIN, *PHONE)
    found = here / "mycorpus"
    assert not [p for p in found.rglob("*") if p.is_symlink()]
    template = ROOT / "egs" / "TEMPLATE" / "llmasr1"
    for name in ("llmasr.sh", "cmd.sh", "path.sh", "utils/parse_options.sh", "local/data.sh"):
        assert (found / name).read_bytes() == (template / name).read_bytes()
    # The cards below its own come along, and are found from there.
    cards, theirs = (read_cards(recipe / "conf") for recipe in (found, ROOT / "egs/mini_tts/llmasr1"))
    for section in ("phases", "systems", "mixtures", "interleave"):
        assert cards.names(section) == theirs.names(section)
        assert all(cards.entry(section, n) == theirs.entry(section, n) for n in cards.names(section))
    assert cards.where("phases", "lora").startswith(f"{found}/conf/template/")
    mine = (found / "conf/encoder.yaml").read_bytes()
    assert mine == (ROOT / "egs/mini_tts/llmasr1/conf/encoder.yaml").read_bytes()
    # Nothing of the source's corpus.
    assert os.listdir(found / "local") == ["data.sh"]
    options = fork.source_options(found)
    assert options["test_sets"] == "phone:ood"
    assert options["systems"] == "ctc ctc_lm slam lora lora_long hard soft_k10"
    assert "align_sets" not in options
    record = json.loads((found / ".fork" / "fork.json").read_text())
    assert record["source"] == "mini_tts" and record["version"] and record["commit"]


def test_nothing_is_overwritten(here):
    make(*TRAIN)
    before = everything(here)
    with pytest.raises(UserError, match="mycorpus is there already"):
        make(*TRAIN)
    assert everything(here) == before
    with pytest.raises(UserError, match="recordings is there already"):
        fork_recipe.main(["mini_tts", "recordings", *TRAIN, "--check"])
    (here / "empty").mkdir()
    (here / "link").symlink_to("empty")
    with pytest.raises(UserError, match="link is there already"):
        fork_recipe.main(["mini_tts", "link", *TRAIN, "--check"])
    os.chdir("empty")
    with pytest.raises(UserError, match="is the current directory"):
        fork_recipe.main(["mini_tts", ".", "--check"])


def test_a_plain_fork_is_the_recipe(here):
    fork_recipe.main(["an4", "deep/er/an4"])
    source = ROOT / "egs" / "an4" / "llmasr1"
    for name in ("run.sh", "db.sh", "local/data.py", "README.md"):
        assert (here / "deep/er/an4" / name).read_bytes() == (source / name).read_bytes()
    assert not (here / "deep/er/an4/RESULTS.md").exists()
    fork_recipe.main(["mini_tts", "deep/mini_tts"])
    assert not list((here / "deep/mini_tts").rglob("RESULTS*"))


# That of librispeech/llmasr1 needs its pretrained models.
PLAIN = [(name, ()) for name in ("mini_tts", "an4", "coffee", "mini_tts/jstip1", "librispeech/jstip1")]
OWN = [(name, own) for name in ("mini_tts", "an4") for own in (TRAIN, (*TRAIN, *PHONE))]


@pytest.mark.parametrize("source, own", PLAIN + OWN)
def test_a_fork_can_be_planned(here, source, own, monkeypatch):
    """Its own fork too, with the same options but for sets; smoke runs as well."""
    fork_recipe.main([source, "first", *own])
    fork_recipe.main(["first", "second", *own])
    plans, known = [], {field.name for field in dataclasses.fields(Options)}
    for name in ("first", "second"):
        monkeypatch.chdir(here / name)
        options = fork.source_options(here / name)
        given = [f"--{key}={value}" for key, value in options.items() if key in known]
        for more in ([], ["--smoke", "--datadir", "data_smoke"]):
            plan.main(["--out", "plan.json", *given, *more])
            plans.append(read_experiment("plan.json"))
            assert load_config(plans[-1].options.lm_config)
        assert set(options) - known <= {"smoke_opts", "local_data_opts"}
    assert [p.test_names for p in plans[:2]] == [p.test_names for p in plans[2:]]
    assert plans[0].systems == plans[2].systems and plans[0].trainings == plans[2].trainings
    texts = ["data/lm/train.txt", "data_smoke/lm/train.txt"] * 2
    assert [p.lm_train_text for p in plans] == [[text] for text in texts]
    monkeypatch.chdir(here)


def test_options_that_belong_to_sets_are_options():
    block = (ROOT / "egs/TEMPLATE/llmasr1/llmasr.sh").read_text().partition("# end options")[0]
    known = {field.name for field in dataclasses.fields(Options)} | set(re.findall(r"(?m)^([a-z_0-9]+)=", block))
    assert set(fork.OF_SETS) | set(fork.MORE_DATA) <= known


WRONG = {
    "recipe": (["mini_tss", "x"], "unknown recipe 'mini_tss' (did you mean 'mini_tts'?); known: an4, "),
    "test without domain": (["an4", "x", *TRAIN, "--test", "a=b.csv"], "must be NAME=DATA:id"),
    "test with another domain": (["an4", "x", *TRAIN, "--test", "a=b.csv:oop"], "must be NAME=DATA:id"),
    "reserved name": (["an4", "x", *TRAIN, "--test", "train=b.csv:id"], "is none of train, valid, lm"),
    "name that stage 2 makes": (["an4", "x", *TRAIN, "--test", "train_sp=b.csv:id"], "does not end with _sp or"),
    "name twice": (["an4", "x", *TRAIN, *PHONE, *PHONE], "the name phone twice"),
    "no train": (["an4", "x", *PHONE], "--test needs --train"),
    "no data": (["an4", "x", "--train", "nowhere"], "train: nowhere: not found; data is"),
    "test is train": (
        ["an4", "x", *TRAIN, "--test", "t=recordings/metadata.csv:id"],
        "t: 54 of 60 utterances, such as spk",
    ),
    "empty text file": (["an4", "x", *TRAIN, "--text", os.devnull], "/dev/null: is empty"),
    "needs text": (["mini_tts/jstip1", "x", *TRAIN], "need more than sets (--tts_text and --texts of run.sh)"),
    "own LLM": (["mini_librispeech", "x", *TRAIN], "makes the LLM (llm/gemma) of its own texts: name one that is"),
    "no fork": (["--changes", "recordings"], "recordings: is no fork"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(here, name):
    arguments, message = WRONG[name]
    before = everything(here)
    with pytest.raises(UserError) as err:
        fork_recipe.main(arguments)
    assert message in str(err.value)
    assert everything(here) == before


def test_part_of_a_training_file_in_another_set(here):
    """A segment that overlaps with training audio is found, whatever its times; one that only touches is not."""
    from espnet_llmvq.data.shared import by_file, overlaps

    parts = by_file({"a": ("/a.wav", 0.0, 2.0), "b": ("/a.wav", 5.0, math.inf)})
    for start, end, shared in ((0.5, 1, True), (2, 5, False), (1.98, 3, True), (1.995, 3, False), (9, 9.5, True)):
        assert overlaps(("/a.wav", start, end), parts) == shared
    assert not overlaps(("/b.wav", 0.0, math.inf), parts)
    lines = Path("recordings/metadata.csv").read_text().splitlines()
    row = next(csv.DictReader(lines))
    room = Path("part")
    room.mkdir()
    audio = Path("recordings", row["audio"]).resolve()
    for name, line in (("wav.scp", f"r {audio}"), ("segments", "u r 0.01 0.2"), ("text", "u new"), ("utt2spk", "u s"),
                       ("spk2utt", "s u")):  # fmt: skip
        (room / name).write_text(line + "\n")
    with pytest.raises(UserError, match="seg: 1 of 1 utterances, such as u, are in the training set too"):
        fork_recipe.main(["an4", "x", *TRAIN, "--test", "seg=part:ood"])
    with pytest.raises(UserError, match="phone: .* have the audio of utterances of valid"):
        fork_recipe.main(["an4", "x", *TRAIN, "--valid", "recordings/phone.csv", *PHONE])


def test_turns_that_overlap_can_be_held_out(here):
    """As in meetings: sets held out of a corpus share none of its utterances."""
    room = Path("meeting")
    room.mkdir()
    soundfile.write(room / "m.wav", np.zeros(16000 * 60), 16000)
    utts = [f"s{i % 20:02d}-{i:03d}" for i in range(100)]
    rows = {
        "wav.scp": [f"m {room.resolve()}/m.wav"], "text": [f"{u} word{i}" for i, u in enumerate(utts)],
        "segments": [f"{u} m {0.5 * i} {0.5 * i + 0.8}" for i, u in enumerate(utts)],
        "utt2spk": [f"{u} {u[:3]}" for u in utts],
    }  # fmt: skip
    for name, lines in rows.items():
        (room / name).write_text("".join(f"{line}\n" for line in sorted(lines)))
    speakers = {f"s{i:02d}": [u for u in utts if u.startswith(f"s{i:02d}")] for i in range(20)}
    (room / "spk2utt").write_text("".join(f"{s} {' '.join(own)}\n" for s, own in speakers.items()))
    fork_recipe.main(["an4", "x", "--train", "meeting", "--check"])


def test_switches_of_a_recipe_are_read_as_llmasr_reads_them(here):
    """--cache_encoder is a switch: it takes no --smoke_opts as its value; nor does the last one need a value."""
    make(*TRAIN)
    run = here / "mycorpus" / "run.sh"
    run.write_text(run.read_text().replace("--baseline", "--cache_encoder\n    --baseline"))
    run.write_text(run.read_text().replace("--title mycorpus", "--augment-cache"))
    options = fork.source_options(here / "mycorpus")
    assert options["cache_encoder"] == options["augment_cache"] == "true"
    assert options["baseline"] == "lora" and options["smoke_opts"].startswith("--vocab_size ")


def test_a_strangers_recipe_is_looked_at_without_running_it(here, capsys):
    make(*TRAIN)
    strange = shutil.copytree(here / "mycorpus", here / "strange")
    run = strange / "run.sh"
    text = run.read_text().replace("\nopts=(", '\ntouch ../ran\nopts=(\n    --expdir "$(touch ../ran)"  # it\'s theirs')
    run.write_text(re.sub("--vocab_size [0-9]+", "--vocab_size 77", text))
    for script in [strange / "path.sh", strange / "llmasr.sh", *strange.glob("local/*"), *strange.glob("utils/*")]:
        with open(script, "r+") as f:
            lines = f.read().partition("\n")
            f.seek(0)
            f.write(f"{lines[0]}\ntouch {here}/ran\n{lines[2]}")
    for name in ("one", "two"):  # which nothing walks through: there are 2 to the power of 40 ways
        (strange / "local" / name).symlink_to(".")
    capsys.readouterr()
    fork_recipe.main(["strange", "x", *TRAIN, "--check"])
    assert not (here / "ran").exists() and not (here / "x").exists()
    assert re.search("tokenizer: [0-9]+ pieces", capsys.readouterr().out)
    # what is written there is what running it would say
    for name in ("mini_tts", "an4", "coffee"):
        recipe = fork.find_recipe(name)[1]
        written, given = fork.written_options(recipe), fork.source_options(recipe)
        assert written == {key: given[key] for key in written} and set(given) - set(written) <= {"test_sets"}
    for size in ("many", "-5", "9" * 20):
        run.write_text(re.sub("--vocab_size 77", f"--vocab_size {size}", text := run.read_text()))
        with pytest.raises(UserError, match=f"strange/run.sh: --vocab_size {size}: give a whole number"):
            fork_recipe.main(["strange", "x", *TRAIN, "--check"])
        run.write_text(text)
    run.write_text("./llmasr.sh --train_set train\n")
    with pytest.raises(UserError, match=r"strange/run.sh: has no lines opts=\( ... \) to read"):
        fork_recipe.main(["strange", "x", *TRAIN, "--check"])


def test_a_fork_of_a_name_with_line_breaks_runs_none_of_it(here):
    make(*TRAIN)
    strange = shutil.copytree(here / "mycorpus", here / "a\ntouch ran\n")
    run = strange / "run.sh"
    run.write_text(run.read_text().replace("\nopts=(", "\nopts=(\n    '--a;touch ran3;' b"))
    fork_recipe.main([f"./{strange.name}", "b\ntouch ran2\n", *TRAIN])
    (folder,) = here.glob("b*")
    assert not [line for line in (folder / "run.sh").read_text().split("\n") if line.startswith("touch")]
    assert "    '--a;touch ran3;' b\n" in (folder / "run.sh").read_text()


def test_changes(here, capsys):
    """Each kind of change, seen from a fork that changed two of the files itself."""
    source = here / "source"
    fork_recipe.main(["mini_tts", "source"])
    fork_recipe.main(["source", "mine", *TRAIN])
    capsys.readouterr()
    fork_recipe.main(["--changes", "mine"])
    assert capsys.readouterr().out.endswith("nothing has changed upstream\n")

    def edit(folder, name, text):
        with open(folder / name, "a") as f:
            f.write(text)

    edit(source, "conf/template/lm.yaml", "# theirs\n")
    edit(source, "conf/encoder.yaml", "# theirs\n")
    edit(here / "mine", "conf/encoder.yaml", "# mine\n")
    edit(source, "conf/systems.yaml", "# both\n")
    edit(here / "mine", "conf/systems.yaml", "# both\n")
    edit(here / "mine", "conf/template/paper_a.yaml", "# mine alone\n")
    edit(source, "local/data.py", "# of their corpus\n")
    (source / "conf/template/paper_b.yaml").unlink()
    shutil.copy(source / "conf/systems.yaml", source / "conf/new.yaml")
    for name in ("exp", "exp2_smoke"):
        (source / name).mkdir()
        edit(source, f"{name}/RESULTS.md", "not a part of the recipe")
    before = everything(here)
    fork_recipe.main(["--changes", "mine"])
    assert everything(here) == before
    lines = capsys.readouterr().out.splitlines()
    said = dict(line.split(": ", 1) for line in lines if " upstream; " in line)
    assert said == {
        "conf/template/lm.yaml": f"changed upstream; not changed in the fork: copy {source / 'conf/template/lm.yaml'}",
        "conf/encoder.yaml": "changed upstream; the fork has its own: merge by hand",
        "conf/systems.yaml": "changed upstream; the fork has it already",
        "conf/template/paper_b.yaml": "removed upstream; not changed in the fork: delete it",
        "conf/new.yaml": f"new upstream; not changed in the fork: copy {source / 'conf/new.yaml'}",
    }
    assert lines.count("+# theirs") == 2
    assert lines[-1] == "5 files differ upstream"


def call(*command, cwd, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_stage_1_of_a_smoke_run(here):
    """Held-out and noisy sets, LM text, and no more than a handful of each; real data is not touched."""
    text = b"\xef\xbb\xbfextra line\r\n" + b"ten eleven\n" * 700
    (here / "more.txt.gz").write_bytes(gzip.compress(text))
    make(*TRAIN, "--text", "more.txt.gz")
    # As of an installed package: without a checkout around it.
    (here / "site").mkdir()
    (here / "site" / "espnet_llmvq").symlink_to(ROOT / "espnet_llmvq")
    run = ("./run.sh", "--smoke", "--stop_stage", "1", "--nj", "1")
    done = call(*run, cwd=here / "mycorpus", MAIN_ROOT=str(here / "site"))
    assert done.returncode == 0, done.stderr
    data = here / "mycorpus" / "data_smoke"
    sets = {name: DataDir.load(data / name) for name in ("train", "valid", "test", "test_noise")}
    # 60 utterances, 6 of them in each held-out set, 48 left, of which 40 are kept.
    assert {name: len(found.text) for name, found in sets.items()} == {
        "train": 40, "valid": 6, "test": 6, "test_noise": 6,
    }  # fmt: skip
    assert {utt.removesuffix("-noise") for utt in sets["test_noise"].text} == set(sets["test"].text)
    lm = lines_of(data / "lm" / "train.txt")
    assert len(lm) == 600 and lm[48] == "extra line" and set(lm[49:]) == {"ten eleven"}
    assert set(sets["train"].text.values()) <= set(lm[:48])
    assert lines_of(data / "lm" / "valid.txt") == [sets["valid"].text[utt] for utt in sets["valid"].utts]
    assert not (here / "mycorpus" / "data").exists()
    assert "data_smoke/lm/train.txt" not in done.stderr


def test_a_fork_and_its_data_can_be_moved_together(here):
    (here / "a").mkdir()
    shutil.move("recordings", "a/recordings")
    fork_recipe.main(
        ["mini_tts", "a/mine", "--train", "a/recordings/metadata.csv", "--test", "t=a/recordings/phone.csv:id"]
    )
    shutil.move("a", "b")
    done = call("./local/data.sh", cwd=here / "b" / "mine")
    assert done.returncode == 0, done.stderr
    data = DataDir.load(here / "b" / "mine" / "data" / "t")
    assert set(map(os.path.dirname, data.wav_scp.values())) == {
        str(here / "b" / "mine" / ".." / "recordings" / "phone")
    }


def test_the_toolkit_is_found(here):
    """As toolkit.sh has it; as MAIN_ROOT has it; as installed; and clearly not."""
    make(*TRAIN)
    recipe = here / "mycorpus"
    show = ["bash", "-c", ". ./path.sh && echo ${MAIN_ROOT}"]
    assert call(*show, cwd=recipe).stdout.strip() == str(ROOT)
    (here / "other" / "espnet_llmvq").mkdir(parents=True)
    other = str(here / "other")
    assert call(*show, cwd=recipe, MAIN_ROOT=other).stdout.strip() == other
    done = call(*show, cwd=recipe, MAIN_ROOT="/elsewhere")
    assert done.returncode and "MAIN_ROOT=/elsewhere holds no espnet_llmvq" in done.stderr
    (recipe / "toolkit.sh").unlink()
    assert call(*show, cwd=recipe).stdout.strip() == str(ROOT)
    (here / "bin").mkdir()
    (here / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")
    (here / "bin" / "python3").chmod(0o755)
    done = call(*show, cwd=recipe, PATH=f"{here / 'bin'}:{os.environ['PATH']}")
    assert done.returncode and "the toolkit is not installed here" in done.stderr


def test_the_how_to_has_three_commands_that_work(here):
    """The first of them for real, as the others take minutes; test/smoke_fork.sh runs those of the tutorial."""
    text = (ROOT / "docs" / "fork.md").read_text(encoding="utf-8")
    section = re.search(r"^## Three commands\n(.*?)^## ", text, re.M | re.S)[1]
    commands = re.search(r"^```sh\n(.*?)^```", section, re.M | re.S)[1].splitlines()
    assert commands[1:] == ["cd mycorpus", "./run.sh"]
    words = commands[0].split()
    assert words[:3] == ["llmvq", "recipe", "fork"]
    done = call(sys.executable, "-m", "espnet_llmvq", *words[1:], cwd=here)
    assert done.returncode == 0, done.stderr
    assert os.access(here / "mycorpus" / "run.sh", os.X_OK)


SCRIPT = """#!/usr/bin/env bash
set -euo pipefail
# begin options
smoke=false   # a switch
cache=true    # another
name=x        # no switch
# end options
. {utils}/parse_options.sh
echo "${{smoke}} ${{cache}} ${{name}}"
"""


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("", "false true x"),
        ("--smoke", "true true x"),
        ("--smoke true", "true true x"),
        ("--smoke=true --cache=false", "true false x"),
        ("--smoke --name y", "true true y"),
        ("--smoke false --name --smoke", "false true --smoke"),
        ("--cache --smoke", "true true x"),
        ("--smoke yes", "--smoke must be true or false, not yes"),
        ("--smoke=", "--smoke must be true or false, not empty"),
        ("--name", "option --name needs a value"),
        ("--smok", "unknown option --smok (did you mean --smoke?)"),
    ],
)
def test_switches(tmp_path, arguments, expected):
    script = tmp_path / "script.sh"
    script.write_text(SCRIPT.format(utils=ROOT / "egs" / "TEMPLATE" / "llmasr1" / "utils"))
    done = subprocess.run(["bash", str(script), *arguments.split()], capture_output=True, text=True)
    if expected.count(" ") == 2:
        assert done.stdout.strip() == expected
    else:
        assert done.returncode == 2 and expected in done.stderr


def test_audio_that_comes_twice_and_tags_of_recognisers(here, capsys):
    lines = Path("recordings/metadata.csv").read_text().splitlines()
    row = next(csv.DictReader(lines))
    Path("recordings/twice.jsonl").write_text(
        "".join(
            json.dumps({"audio": r["audio"], "text": f"<|en|>{r['text']}", "id": f"u{i}"}) + "\n"
            for i, r in enumerate([*csv.DictReader(lines), row])
        )
    )
    twice = ["mini_tts", "other", "--train", "recordings/twice.jsonl"]
    with pytest.raises(UserError, match="train: 1 utterances have the audio of another one"):
        fork_recipe.main([*twice, "--check"])
    capsys.readouterr()
    fork_recipe.main([*twice, "--repeated_audio", "--strip_tags"])
    options = fork.source_options(here / "other")
    assert options["repeated_audio"] == "true" and options["local_data_opts"] == "--strip_tags true"
