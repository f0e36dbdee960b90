"""No command changes or removes a file that was there before and that it did not write.

Each command runs once, so that it is known what it writes; then a person's files have these names, and names near them.
"""

import glob
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import soundfile
import yaml
from conftest import ENCODER, WORDS, link_template, write_cards
from test_cli import COMMANDS, main_of

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import WRITTEN
from espnet_llmvq.data.datadir import DataDir

PROMPT = "USER: {speech} ASSISTANT: {text}"
SCORING = ["--ref", "ref.trn", "--hyp", "hyp.trn", "--hyp", "b.jsonl", "--replicates", "100"]
ASKED = [
    "--override", "shots=0", "--override", "answer=text", "--override",
    'prompt="{speech} one {A} two {B} three {C} four {D} five {text}"',
]  # fmt: skip
PLAN = [
    "--systems", "ctc", "--test_sets", "test:id", "--encoder_file", "given/model.pth", "--vocab_size", "110",
    "--whole_words", "0", "--speed_perturb_factors", "0.9", "--repeated_audio", "true",
]  # fmt: skip
# {command, or with its first argument: arguments}; in the directory of `light`
LIGHT = {
    "align import": ["--data_dir", "data16", "--ctm", "words.ctm", "--out", "align/out.ctm"],
    "align segments": ["--data_dir", "data16", "--ctm", "words.ctm", "--form", "turns", "--out", "align/lengths"],
    "compare": ["hyp.trn", "b.jsonl", "--ref", "ref.trn", "--json", "json", "--replicates", "100"],
    "completion": ["bash"],
    "data combine": ["dest", "src"],
    "data copy": ["src", "dest"],
    "data decontaminate": ["words.txt", "--against", "src", "--words", "2", "--out", "clean.txt"],
    "data durations": ["src"],
    "data filter": ["--rate", "8000", "src", "dest"],
    "data fix": ["src"],
    "data format": ["src", "dest", "--nj", "1"],
    "data import": ["list.csv", "dest", "--held_out", "held"],
    "data perturb": ["src", "dest", "--noise", "white", "--nj", "1"],
    "data segments": ["segmented", "dest", "--nj", "1"],
    "data speed": ["src", "0.9", "dest", "--nj", "1"],
    "data spk2utt": ["src/utt2spk"],
    "data subset": ["src", "2", "dest"],
    "data synth-manifest": ["dest", "--utterances", "20", "--sound_files", "2", "--word_times"],
    "data synthesise": ["--text", "src/text", "--out", "dest", "--nj", "1"],
    "data validate": ["data16"],
    "doctor": [],
    "estimate": ["--exp", "sized", "--json", "json"],
    "models list": [],
    "launch": ["local", "log/a.log", "true"],
    "plan": [*PLAN, "--out", "run/experiment.json"],
    "recipe fork": ["mini_tts", "fork"],
    "recipe seeds": ["seed1", "seed2", "--out_dir", "seeds"],
    "report": ["--exp_dir", "seed1", "--table", "table.yaml"],
    "results": ["--table", "table.yaml", "--out_dir", "results", "--replicates", "100"],
    "score": [*SCORING, "--json", "json", "--out_dir", "scored"],
    "sequences make": ["--data_dir", "data16", "--prompt", PROMPT, "--out", "sequences.jsonl"],
    "sequences show": ["there.jsonl"],
    "show": ["seed1"],
    "stage check": ["--exp", "planned"],
    "stage cut": ["--exp", "planned"],
    "stage filter": ["--exp", "planned"],
    "stage format": ["--exp", "planned"],
    "stage perturb": ["--exp", "planned"],
    "stage positions": ["--exp", "planned"],
    "stage sequences": ["--exp", "planned"],
    "stage tokenizer": ["--exp", "planned"],
    "status": ["--exp", "planned"],
}
# In that of `trained`.
HEAVY = {
    "align make": ["dump/a/sequences.jsonl", "align/a.ctm", "--encoder", "exp/encoder"],
    "analyse": ["--exp", "exp", "--replicates", "100", "--utterances", "5"],
    "ask": ["--exp", "exp", "mc", "--questions", "mc.jsonl", "--override", "shots=0", *ASKED, "--text_only"],
    "curves": ["--exp", "exp", "--systems", "soft", "--at", "1"],
    "decode": ["--exp", "exp", "--systems", "soft ctc"],
    "lm preferred": ["--exp", "exp", "--sets", "valid"],
    "lm trim": ["--llm", "llm", "--texts", "lm.txt", "--out", "trimmed"],
    "pack": ["--exp", "exp", "--system", "soft", "--out", "out"],
    "rescore": ["--exp", "exp", "--ctc_weight", "0"],
    "stage encode": ["--exp", "exp"],
    "train": ["--exp", "exp", "--dry_run", "--json", "json"],
    "transcribe": ["packed", "a.wav", "--out_dir", "texts"],
    "upload": ["packed", "--to", "out"],
}
SLOW = {"doctor", "estimate", "stage positions"}
# Serves and writes nothing; runs what it is told; wants a registry (test_models.py).
OTHERS = {"demo", "espnet", "models get"}
CHANGES = {"data fix": "src/", "stage cut": "data/"}  # {command: what it is for changing}
ONCE = {"recipe fork"}  # refuse what they wrote themselves too
# {command: what is run before}
FORMATTED = ["stage perturb", "stage format", "stage filter"]
BEFORE = {
    "curves": [lambda: plan_training()],
    "lm preferred": [lambda: plan_training(), lambda: call("decode", ["--exp", "exp", "--sets", "valid"]) == 0],
    "rescore": ["decode", lambda: [os.unlink(path) for path in glob.glob("exp/soft/decode_a/hyp.jsonl*")]],
    "stage filter": FORMATTED[:2],
    "stage format": FORMATTED[:1],
    "stage sequences": FORMATTED,
    "stage positions": [*FORMATTED, "stage sequences", "stage tokenizer"],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Small inputs of all commands that need no model."""
    tmp_path = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        make_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def light(inputs, tmp_path, monkeypatch):
    """A copy of `inputs`, which is the working directory."""
    monkeypatch.chdir(shutil.copytree(inputs, tmp_path / "room", symlinks=True))
    return tmp_path / "room"


def make_inputs(tmp_path):
    names = [f"u{i}" for i in range(4)]
    same, words, rng = {name: name for name in names}, {n: f"one two {n}" for n in names}, np.random.default_rng(0)
    for rate, home in ((8000, "src"), (16000, "data16")):
        os.mkdir(f"{home}_wavs")
        wavs = {n: f"{home}_wavs/{n}.wav" for n in names}
        for wav in wavs.values():
            soundfile.write(wav, 0.1 * rng.standard_normal(rate), rate)
        extra = {"utt2num_samples": {n: [str(rate)] for n in names}}
        DataDir(wavs, words, same, None, extra).write_tables(home)
        os.unlink(f"{home}/{WRITTEN}")
    with open("src/utt2spk", "a") as f:  # for fix
        f.write("\n")
    cut = {n: (n, 0.0, 0.5) for n in names}
    DataDir({n: f"src_wavs/{n}.wav" for n in names}, words, same, cut).write_tables("segmented")
    times = [(0.1, "one"), (0.4, "two")]
    ctm = [f"{n} 1 {at} 0.2 {word}\n" for n in names for at, word in [*times, (0.7, n)]]
    files = {
        "words.ctm": "".join(ctm),
        "words.txt": "one two\nsix ten\n",
        "list.csv": "audio,text\n" + "".join(f"src_wavs/{n}.wav,one {n}\n" for n in names),
        "ref.trn": "".join(f"one two {n} ({n})\n" for n in names),
        "hyp.trn": "".join(f"one {n} ({n})\n" for n in names),
        "b.jsonl": "".join(json.dumps({"id": n, "text": "two\n\u2028one"}) + "\n" for n in names),
        "there.jsonl": "".join(json.dumps({"id": n, "spans": [{"text": "a", "loss": True}]}) + "\n" for n in names),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    write_cards("conf", systems={"ctc": {"decode": "ctc"}}, interleave={"turns": {"cut": "silence"}})
    link_template("conf")
    os.mkdir("given")
    for path in ("given/config.yaml", "conf/encoder.yaml"):
        (tmp_path / path).write_text(yaml.safe_dump(ENCODER))
    for name in ("train", "valid", "test"):
        shutil.copytree("data16", f"data/{name}")
        shutil.copytree("data16_wavs", f"{name}_wavs")  # sets share no audio
        scp = tmp_path / f"data/{name}/wav.scp"
        scp.write_text(scp.read_text().replace("data16_wavs", f"{name}_wavs"))
    call("plan", [*PLAN, "--out", "planned/experiment.json"])
    call("plan", ["--systems", "ctc", "--test_sets", "test:id", "--out", "sized/experiment.json"])
    table = {
        "systems": {"a": {"label": "A", "hypotheses": "{set}.trn"}},
        "sets": {"hyp": {"domain": "id", "text": "ref.trn"}},
    }
    (tmp_path / "data/lm").mkdir()
    (tmp_path / "data/lm/train.txt").write_text("".join(f"{a} {b}\n" for a in WORDS for b in WORDS))
    for seed in (1, 2):
        (tmp_path / "table.yaml").write_text(yaml.safe_dump({**table, "seed": seed}))
        call("results", ["--table", "table.yaml", "--out_dir", f"seed{seed}", "--replicates", "100"])


@pytest.fixture
def trained(tmp_path, trained_soft, packed_dir, corpus, llm_dir, experiment_of, monkeypatch):
    """A run with a trained system, decoded once, and its pack."""
    monkeypatch.chdir(tmp_path)
    encoder, phase = trained_soft
    phase = shutil.copytree(phase, "exp/soft")
    sets = {"a": corpus.valid, "valid": corpus.valid, "train": corpus.train}
    experiment_of(str(tmp_path), {"soft": str(tmp_path / phase), "ctc": "ctc"}, sets, encoder=encoder)
    shutil.copytree(packed_dir, "packed")
    shutil.copytree(llm_dir, "llm")
    (tmp_path / "lm.txt").write_text("one two\nsix ten\n")
    shutil.copy(f"{corpus.dir}/train00.wav", "a.wav")
    question = {"id": "q", "question": "Two?", "choices": ["one", "two", "six", "ten"], "answer": 1}
    (tmp_path / "mc.jsonl").write_text(json.dumps(question) + "\n")
    return tmp_path


def plan_training():
    """Put the training of `trained` into its plan, and the texts of its sets where scoring reads them."""
    with open("exp/experiment.json") as f:
        plan = json.load(f)
    plan["trainings"] = [{"tag": "soft", "where": "soft", "config": {"num_iters_per_epoch": 3, "max_epoch": 1}}]
    with open("exp/experiment.json", "w") as f:
        json.dump(plan, f)
    for name in ("train", "valid"):
        with open(f"dump/{name}/sequences.jsonl") as f:
            ids = [json.loads(line)["id"] for line in f]
        for table in ("text", "utt2spk"):
            with open(f"dump/{name}/{table}", "w") as f:
                f.writelines(f"{utt} one\n" for utt in ids)
    return True


def command_of(name):
    """(command, first arguments) of a name."""
    words = name.split()
    known = next(n for n in (2, 1) if " ".join(words[:n]) in COMMANDS)
    return " ".join(words[:known]), words[known:]


def call(name, arguments):
    """Run a command; its exit status."""
    command, first = command_of(name)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}  # launch sets its own
    try:
        return main_of(command)([*first, *arguments]) or 0
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def tree(room):
    found = (os.path.join(r, name) for r, _, files in os.walk(room) for name in files)
    return {os.path.relpath(path, room): open(path, "rb").read() for path in found}


def files(found):
    """Of a `tree` what is not our note of what we wrote."""
    return {name: content for name, content in found.items() if not name.endswith(WRITTEN)}


def restore(room, before):
    """Leave only the files of `before`, as they were."""
    for name in tree(room).keys() - before.keys():
        os.unlink(room / name)
    for folder, folders, files in os.walk(room, topdown=False):
        if not (folders or files or any(name.startswith(f"{os.path.relpath(folder, room)}/") for name in before)):
            if not os.listdir(folder):
                os.rmdir(folder)
    for name, content in before.items():
        put(room / name, content)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def near(name):
    folder, base = os.path.split(name)
    return [os.path.join(folder, other) for other in (f"{base}.tmp", f".{base}.tmp", f"{base}.part", f"{base}.work")]


def check_command(command, arguments, room, most):
    """Strangers of all names that the command writes, then of some of them alone (at most `most`)."""
    for other in BEFORE.get(command, ()):
        assert other() if callable(other) else call(other, {**LIGHT, **HEAVY}[other]) == 0
    start = tree(room)
    assert call(command, arguments) == 0
    before, after = files(start), files(tree(room))
    mine = CHANGES.get(command, "\0")
    assert {k: v for k, v in after.items() if k in before and not k.startswith(mine)} == {
        k: v for k, v in before.items() if not k.startswith(mine)
    }
    assert call(command, arguments) == (command in ONCE)  # over what it wrote itself
    written = sorted(after.keys() - before.keys())
    chosen = written if len(written) <= most else [written[i * len(written) // most] for i in range(most)]
    for names in dict.fromkeys([tuple(written), *((name,) for name in chosen)] if written else ()):
        restore(room, start)
        strangers = [*names, *(other for name in names for other in near(name))]
        there = {name: f"{name}: mine\n".encode() for name in strangers if name not in before} | before
        for name, content in there.items():
            put(room / name, content)
        call(command, arguments)
        left = tree(room)
        for name, content in there.items():
            # What a command is for changing is left as a copy, or was written to be cut.
            kept = left.get(name) == content or (name.startswith(mine) and (content in left.values() or name in before))
            assert kept, f"{command} with {names}: {name} is {'changed' if name in left else 'gone'}"


def test_every_command_is_here():
    assert {*(command_of(name)[0] for name in (*LIGHT, *HEAVY)), *OTHERS} == set(COMMANDS)


@pytest.mark.parametrize("command", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LIGHT])
def test_files_of_others_stay(command, light, capsys):
    check_command(command, LIGHT[command], light, 3)


@pytest.mark.slow
@pytest.mark.parametrize("command", HEAVY)
def test_files_of_others_stay_beside_models(command, trained, capsys):
    check_command(command, HEAVY[command], trained, 2)
