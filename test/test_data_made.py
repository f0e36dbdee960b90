"""Directories that commands make: what is replaced, what stays, and two of them at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from conftest import alive, wait_for

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import beside, locked
from espnet_llmvq.data import importer
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.combine import combine_data
from espnet_llmvq.data.copies import perturb_data, perturb_speed
from espnet_llmvq.data.copy import copy_data
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.durations import write_durations
from espnet_llmvq.data.filter import filter_data
from espnet_llmvq.data.format import format_audio
from espnet_llmvq.data.subset import cut, subset_data
from espnet_llmvq.data.synthesise import synthesise

# Names that a data directory takes for its own tables, and others; all hold what a person wrote.
STRANGERS = ("text.txt", "text.docx", "gold.ctm", "utt2notes.md", "entities", "text", "wav.scp", "notes", "audio/a.txt")


@pytest.fixture
def source(tmp_path):
    """A formatted data directory of four utterances, at 8 kHz, with the audio elsewhere."""
    names, wavs = [f"u{i}" for i in range(4)], tmp_path / "wavs"
    wavs.mkdir()
    for i, name in enumerate(names):
        soundfile.write(wavs / f"{name}.wav", 0.1 * np.random.default_rng(i).standard_normal(4000), 8000)
    same = {name: name for name in names}
    counts = {"utt2num_samples": {name: ["4000"] for name in names}}
    DataDir({n: str(wavs / f"{n}.wav") for n in names}, same, same, None, counts).write(tmp_path / "src")
    return tmp_path / "src"


def import_csv(source, dest):
    rows = [f"{path},{utt}" for utt, path in DataDir.load(source).wav_scp.items()]
    (source.parent / "list.csv").write_text("\n".join(["audio,text", *rows]) + "\n")
    importer.read(source.parent / "list.csv")[1].write(dest)


MAKERS = {
    "import": import_csv,
    "subset": lambda source, dest: subset_data(str(source), str(dest), 2),
    "combine": lambda source, dest: combine_data([str(source)], str(dest)),
    "copy": lambda source, dest: copy_data(str(source), str(dest)),
    "filter": lambda source, dest: filter_data(source, dest, rate=8000),
    "format": lambda source, dest: format_audio(source, dest, nj=1),
    "speed": lambda source, dest: perturb_speed(source, dest, [0.9], nj=1),
    "perturb": lambda source, dest: perturb_data(source, dest, noise=["white"], nj=1),
    "synthesise": lambda source, dest: synthesise([("u", "Hello.")], dest, voices=["en-us"], nj=1),
}


def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def put(root, name):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{name}: mine\n")


@pytest.mark.parametrize("maker", MAKERS)
def test_what_a_person_wrote_is_neither_removed_nor_replaced(source, tmp_path, maker, capsys):
    """Where nothing was made before: an error that names the directory. What a person calls X.tmp stays too."""
    dest = tmp_path / "dest"
    for name in STRANGERS:
        put(dest, name)
    put(tmp_path, "dest.tmp")
    before = tree(dest)
    with pytest.raises(UserError, match=f"{dest} would be replaced, but holds other files and no made.json"):
        MAKERS[maker](source, dest)
    assert tree(dest) == before and (tmp_path / "dest.tmp").exists()


@pytest.mark.parametrize("maker", MAKERS)
def test_what_a_person_put_into_a_made_directory_stays(source, tmp_path, maker, capsys):
    """Also when it is made again; a table that would be taken for one of the directory's is an error that names it."""
    dest = tmp_path / "dest"
    MAKERS[maker](source, dest)
    for name in ("notes", "audio/mine.txt", "wav/mine.txt", ".backup/text"):
        put(dest, name)
    (dest / "text").unlink()
    MAKERS[maker](source, dest)
    assert (dest / "text").exists()
    assert all((dest / name).read_text() == f"{name}: mine\n" for name in ("notes", "audio/mine.txt", ".backup/text"))
    MAKERS[maker](source, dest)
    put(dest, "text.txt")
    (dest / "text").unlink()
    before = tree(dest)
    with pytest.raises(UserError, match=r"dest/text.txt was not made with .*dest, which .*; move it away"):
        MAKERS[maker](source, dest)
    assert tree(dest) == before
    assert not [name for name in os.listdir(tmp_path) if "llmvq" in name]


@pytest.mark.parametrize("maker", ["format", "speed", "perturb", "filter"])
def test_other_audio_is_noticed(source, tmp_path, maker, capsys):
    """Of the same name and length too."""
    MAKERS[maker](source, tmp_path / "dest")
    before = (tmp_path / "dest" / "made.json").read_text()
    soundfile.write(tmp_path / "wavs" / "u1.wav", np.zeros(4000), 8000)
    MAKERS[maker](source, tmp_path / "dest")
    assert (tmp_path / "dest" / "made.json").read_text() != before


@pytest.mark.parametrize("maker", ["format", "speed", "perturb", "synthesise"])
@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, path.stat().st_size - 2)])
def test_lost_and_cut_audio_is_made_again(source, tmp_path, maker, damage, capsys):
    dest = tmp_path / "dest"
    MAKERS[maker](source, dest)
    before, path = tree(dest), sorted(dest.glob("*/*.wav"))[0]
    damage(path)
    MAKERS[maker](source, dest)
    after = tree(dest)
    assert after.pop("made.json") and before.pop("made.json") and after == before


def test_other_durations_are_noticed(source, tmp_path, capsys):
    dest = tmp_path / "dest"
    assert filter_data(source, dest, rate=8000) and not filter_data(source, dest, rate=8000)
    with pytest.raises(UserError, match="no utterance would be left"):
        filter_data(source, dest, rate=8000, min_duration=0.6)
    assert filter_data(source, dest, rate=8000, max_duration=0.5)


def test_durations_of_a_person_stay(source, capsys):
    write_durations(source)
    write_durations(source)
    assert validate(source) == []
    (source / "utt2dur").write_text((source / "utt2dur").read_text() + "\n")
    with pytest.raises(UserError, match="utt2dur: is there, and not made here; move it away"):
        write_durations(source)


def test_a_cut_for_smoke_runs_is_undone_by_the_next_making(source, tmp_path, capsys):
    MAKERS["speed"](source, tmp_path / "dest")
    cut(tmp_path / "dest", 2)
    assert len(DataDir.load(tmp_path / "dest").text) == 2 and validate(tmp_path / "dest", audio=False) == []
    MAKERS["speed"](source, tmp_path / "dest")
    assert len(DataDir.load(tmp_path / "dest").text) == 4


RUN = "import sys\nfrom espnet_llmvq.__main__ import main\nmain(sys.argv[1:])"


def start(*arguments, cwd):
    """A command in a process group of its own."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def slow_corpus(tmp_path, utts=24, seconds=10):
    """A data directory whose perturbation takes a second or more."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(seconds * 16000), 16000)
    same = {f"u{i:03d}": f"u{i:03d}" for i in range(utts)}
    DataDir(dict.fromkeys(same, str(tmp_path / "a.wav")), same, same).write(tmp_path / "src")


def test_two_at_once_make_one_whole_directory(tmp_path):
    """The second waits, says for whom, and finds all of it; both end well."""
    slow_corpus(tmp_path)
    command = ("data", "perturb", "--nj", 1, "--tempo", 0.9, 1.1, tmp_path / "src", tmp_path / "dest")
    first = start(*command, cwd=tmp_path)
    while not beside(tmp_path / "dest", "new").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # until the second has begun, which takes long on a busy machine
    try:
        second = start(*command, cwd=tmp_path)
        end = threading.Timer(90, second.kill)  # were its words others, they would be waited for without an end
        end.start()
        waits = any(f"waiting for {tmp_path}/dest: process {first.pid} on " in line for line in second.stderr)
    finally:
        end.cancel()
        first.send_signal(signal.SIGCONT)
    said = [process.communicate(timeout=120) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert waits and "is there already" in said[1][0]
    assert validate(tmp_path / "dest") == [] and len(DataDir.load(tmp_path / "dest").text) == 24
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "dest", "src"]


def children(pid):
    """Processes that `pid` started, and those that they started."""
    out = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in out.splitlines()]
    found = [child for child, parent in parents if parent == pid]
    return found + [grandchild for child in found for grandchild in children(child)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_and_the_same_command_goes_on(tmp_path, number):
    slow_corpus(tmp_path)
    command = ("data", "perturb", "--nj", 2, "--tempo", 0.9, 1.1, tmp_path / "src", tmp_path / "dest")
    process = start(*command, cwd=tmp_path)
    while not list(tmp_path.glob(".dest.llmvq-new/audio/*.wav")):
        assert process.poll() is None
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(number)
    process.communicate(timeout=60)
    wait_for(lambda: not any(map(alive, workers)))
    assert not (tmp_path / "dest").exists()
    again = start(*command, cwd=tmp_path)
    assert again.wait(timeout=120) == 0, again.communicate()
    assert validate(tmp_path / "dest") == [] and len(DataDir.load(tmp_path / "dest").text) == 24
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "dest", "src"]


def test_what_a_kill_left_beside_a_finished_directory_is_removed(source, tmp_path, capsys):
    MAKERS["speed"](source, tmp_path / "dest")
    names, before = sorted(os.listdir(tmp_path)), tree(tmp_path / "dest")
    beside(tmp_path / "dest", "lock").write_text("process 1 on x, since 2026,")
    beside(tmp_path / "dest", "old").mkdir()
    MAKERS["speed"](source, tmp_path / "dest")
    assert sorted(os.listdir(tmp_path)) == names and tree(tmp_path / "dest") == before


def test_a_directory_that_lacks_audio_does_not_appear(source, tmp_path):
    """It was removed while the directory was made, or would go with the one that is replaced."""
    dest = tmp_path / "dest"
    MAKERS["speed"](source, dest)
    before = tree(dest)
    with pytest.raises(UserError, match=r"dest: 2 of 2 sound files were not written, or removed since, such as audio/"):
        DataDir.load(dest).subset(DataDir.load(dest).utts[:2]).write(dest)
    assert tree(dest) == before


def test_a_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "x"):
        assert beside(tmp_path / "x", "lock").read_text().startswith(f"process {os.getpid()} on ")
        1 / 0  # noqa: B018
    with locked(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []
