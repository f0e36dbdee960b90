"""A full disk, killed workers, damaged files: told with the remedy or made again, and a rerun gives what it should."""

import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import soundfile
from conftest import alive, wait_for

from espnet_llmvq.base.errors import UserError, message_of
from espnet_llmvq.base.processes import run_forked, run_jobs
from espnet_llmvq.cli.data import format as format_command
from espnet_llmvq.cli.parser import run
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.copies import perturb_speed
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.filter import filter_data
from espnet_llmvq.data.format import format_audio
from espnet_llmvq.decode.nbest import Partial
from espnet_llmvq.experiment.fork import read_record
from espnet_llmvq.llm.directory import load_llm, load_tokenizer
from espnet_llmvq.model.build import load_model
from espnet_llmvq.sequence.sequence import Sequence, SequenceReader, Span, write_sequences


@pytest.fixture
def full_disk():
    """Function: from here on no file may grow beyond 20 kB, which writers meet as they meet a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def wavs_of(root):
    return root.with_name(f"wavs_of_{root.name}")


def make_data(root, utts=4, seconds=1.0, rate=8000):
    """A data directory of noise that llmvq data format has to resample."""
    rng, names, wavs = np.random.default_rng(0), [f"u{i}" for i in range(utts)], wavs_of(root)
    wavs.mkdir()
    for name in names:
        soundfile.write(wavs / f"{name}.wav", rng.standard_normal(round(seconds * rate)) * 0.1, rate)
    wav_scp = {name: str(wavs / f"{name}.wav") for name in names}
    DataDir(wav_scp, {n: "one two" for n in names}, {n: "s" for n in names}).write(root)
    return root


def test_full_disk_in_formatting_is_told_and_a_rerun_recovers(tmp_path, full_disk, capsys):
    data, dump = make_data(tmp_path / "data"), tmp_path / "dump"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    full_disk()
    with pytest.raises(SystemExit) as stop:
        run(format_command.main, ["--nj=1", str(data), str(dump)])
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert stop.value.code == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and "u0.wav: cannot be written" in message and "free some space" in message
    assert "llmvq data fix" not in message  # which would drop utterances that are sound
    assert not dump.exists()
    assert format_audio(str(data), str(dump), nj=1)
    assert validate(dump) == []


def test_full_disk_is_told_whatever_library_writes(tmp_path, full_disk):
    import kaldiio
    import safetensors.numpy
    import torch

    x, path = np.zeros(10_000, np.float32), str(tmp_path / "x")
    writers = {
        "open": lambda: (tmp_path / "x").write_bytes(x.tobytes()),
        "numpy": lambda: np.save(path + ".npy", x),
        "kaldiio": lambda: kaldiio.save_ark(path, {str(i): x[:1000].reshape(10, -1) for i in range(10)}),
        "safetensors": lambda: safetensors.numpy.save_file({"x": x}, path),
        "torch": lambda: torch.save(torch.from_numpy(x), path),
    }
    full_disk()
    for name, write in writers.items():
        with pytest.raises(Exception) as error:  # noqa: B017 each library has its own
            write()
        message = message_of(error.value)
        assert message and "free some disk space and run again" in message, name
    assert message_of(RuntimeError("size mismatch")) is None
    assert message_of(FileNotFoundError(2, "No such file")) is None


def test_a_path_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for use in (
        lambda: (tmp_path / "file" / "x").mkdir(),
        lambda: (tmp_path / "file").mkdir(),
        lambda: tmp_path.write_text(""),
        lambda: os.rename(tmp_path / "folder", tmp_path / "file"),
        lambda: (tmp_path / ("x" * 300)).mkdir(),
    ):
        with pytest.raises(OSError) as error:
            use()
        message = message_of(error.value)
        assert str(tmp_path) in message and "give another path" in message
    with pytest.raises(OSError) as error:
        (tmp_path / "none").read_text()
    assert message_of(error.value) is None


def test_full_disk_leaves_old_files_as_they_were(tmp_path, full_disk):
    data = DataDir.load(make_data(tmp_path / "data"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    full_disk()
    data.text = {utt: "word " * 9000 for utt in data.text}
    with pytest.raises(OSError):
        data.write(tmp_path / "data")
    after = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir() if p.suffix != ".tmp"}
    assert after == before


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_while_a_directory_is_replaced_loses_nothing(tmp_path, monkeypatch, at):
    """Neither the old directory nor what others put into it; the same command then ends as it should."""
    root, rename, calls = make_data(tmp_path / "data"), os.rename, []
    (root / "notes").write_text("mine")
    data = DataDir.load(root).subset(["u0"])

    def kill(source, target):
        calls.append(target)
        if len(calls) == at:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", kill)
    with pytest.raises(KeyboardInterrupt):
        data.write(root)
    monkeypatch.undo()
    assert data.write(root) and not data.write(root)
    assert DataDir.load(root).utts == ["u0"] and (root / "notes").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["data", "wavs_of_data"]


def double_or_die(x):
    if x == 25:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


def test_run_jobs_keeps_the_order(capsys):
    assert list(run_jobs(double_or_die, range(20), nj=2, desc="d", chunksize=3)) == list(range(0, 40, 2))
    assert list(run_jobs(max, [1, 5], [3, 2], nj=1, desc="d")) == [3, 5]


def test_a_killed_worker_is_told(capsys):
    with pytest.raises(UserError, match=r"d: one of 2 worker processes was killed after \d+ of 40 utt.*--nj"):
        list(run_jobs(double_or_die, range(40), nj=2, desc="d", chunksize=1))


def note_or_fail(directory, name, how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "user":
        raise UserError("set.jsonl: wrong")
    if how == "sleep":
        time.sleep(60)
    (directory / name).touch()


def work_long(path, how):
    """For a minute, within a call that does not give other threads their turn, or that does."""
    path.write_text(str(os.getpid()))
    sum(itertools.repeat(0, 5_000_000_000)) if how == "busy" else time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_forked_jobs_end_with_their_parent(tmp_path, number):
    jobs = {how: (tmp_path / how, how) for how in ("busy", "asleep")}
    parent = multiprocessing.get_context("fork").Process(target=run_forked, args=(work_long, jobs, 2, "job"))
    parent.start()
    wait_for(lambda: all(path.exists() and path.read_text() for path, _ in jobs.values()))
    os.kill(parent.pid, number)
    parent.join()
    wait_for(lambda: not any(alive(int(path.read_text())) for path, _ in jobs.values()))


def test_a_phase_ends_with_its_training(tmp_path, monkeypatch):
    from espnet_llmvq.espnet import run

    fork, note = multiprocessing.get_context("fork"), tmp_path / "pid"

    def start():
        phase = fork.Process(target=run._child, args=(str(tmp_path), {}, 1, None))
        phase.start()
        phase.join()

    monkeypatch.setattr(run, "train_phase", lambda *_: work_long(note, "asleep"))
    parent = fork.Process(target=start)
    parent.start()
    wait_for(lambda: note.exists() and note.read_text())
    parent.kill()
    parent.join()
    wait_for(lambda: not alive(int(note.read_text())))


def test_forked_jobs_all_run(tmp_path):
    run_forked(note_or_fail, {str(i): (tmp_path, str(i), "") for i in range(7)}, 2, "job")
    assert {p.name for p in tmp_path.iterdir()} == set("0123456")


def test_forked_jobs_return_what_work_returned():
    """In the order of the jobs, whichever ends first; more than a pipe holds too."""
    delays = {"slow": (0.5, 10), "large": (0.0, 3_000_000), "nothing": (0.0, 0)}
    found = run_forked(lambda seconds, n: time.sleep(seconds) or b"x" * n or None, delays, 2, "job")
    assert list(found) == ["slow", "large", "nothing"]
    assert [found[name] and len(found[name]) for name in found] == [10, 3_000_000, None]


@pytest.mark.parametrize(
    "how, message",
    [("kill", "decoding with b was killed by signal 9"), ("user", "decoding with b ended with exit code 1")],
)
def test_a_forked_job_that_fails_is_named_and_ends_the_others(tmp_path, how, message, capfd):
    jobs = {"a": (tmp_path, "a", "sleep"), "b": (tmp_path, "b", how), "c": (tmp_path, "c", "")}
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        run_forked(note_or_fail, jobs, 2, "decoding with")
    assert time.monotonic() - start < 30  # not the minute that `a` would take
    assert not list(tmp_path.iterdir())
    assert ("error: set.jsonl: wrong" in capfd.readouterr().err) == (how == "user")


@pytest.mark.parametrize("name", ["text", "wav.scp", "utt2spk", "utt2num_samples"])
@pytest.mark.parametrize("cut", [1, 9])
def test_cut_tables_of_dump_are_made_again(tmp_path, capsys, name, cut):
    """Also where the cut leaves whole lines, or only shortens the last one."""
    data, raw, dump = make_data(tmp_path / "data"), tmp_path / "raw", tmp_path / "dump"
    for damaged in (None, raw, dump):
        if damaged is not None:
            whole = (damaged / name).read_bytes()
            (damaged / name).write_bytes(whole[:-cut])
        format_audio(str(data), str(raw))
        filter_data(str(raw), str(dump))
        assert damaged is None or (damaged / name).read_bytes() == whole
        assert validate(raw) == validate(dump) == []
    (dump / "words.ctm").write_text("u0 1 0.0 0.1 one\n")  # of the user
    before = {p.name: p.stat().st_mtime_ns for p in dump.iterdir()}
    capsys.readouterr()
    filter_data(str(raw), str(dump))
    assert "is filtered, nothing to do" in capsys.readouterr().out
    assert {p.name: p.stat().st_mtime_ns for p in dump.iterdir()} == before


def test_new_audio_and_dropped_utterances_reach_filtered_sets(tmp_path, capsys):
    """With as many samples as before, so that tables stay the same: what is made of the set looks at their age."""
    data, raw, dump = make_data(tmp_path / "data"), tmp_path / "raw", tmp_path / "dump"

    def stages():
        format_audio(str(data), str(raw))
        filter_data(str(raw), str(dump))
        return (dump / "utt2num_samples").stat().st_mtime_ns

    before = stages()
    assert stages() == before
    soundfile.write(wavs_of(data) / "u1.wav", np.zeros(8000), 8000)
    assert stages() > before
    for name in ("wav.scp", "text", "utt2spk"):
        path = data / name
        path.write_text(
            path.read_text() + f"u9 {wavs_of(data)}/u9.wav\n" if name == "wav.scp" else path.read_text() + "u9 s\n"
        )
    (data / "spk2utt").write_text("s u0 u1 u2 u3 u9\n")
    soundfile.write(wavs_of(data) / "u9.wav", np.zeros(80), 8000)
    stages()
    assert (dump / "dropped.tsv").read_text() == "u9\t0.010 s is shorter than 0.1 s\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_llm_is_named(tmp_path, llm_dir, name):
    room = tmp_path / "llm"
    shutil.copytree(llm_dir, room)
    whole = (room / name).read_bytes()
    (room / name).write_bytes(b"" if name == "config.json" else whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"llm: cannot be read .*; if damaged, remove it and make it again"):
        load_tokenizer(str(room)), load_llm(str(room))


def test_damaged_records_are_named_or_made_again(tmp_path):
    (tmp_path / "phase").mkdir()
    (tmp_path / "phase" / "model.pth").touch()
    (tmp_path / "phase" / "config.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="config.yaml: cannot be read .*; if damaged, remove .*phase and run stage 11"):
        load_model(str(tmp_path / "phase"))
    data, slow = make_data(tmp_path / "data"), tmp_path / "slow"
    perturb_speed(str(data), str(slow), [0.5], nj=1)
    (slow / "made.json").write_text('{"opt')
    perturb_speed(str(data), str(slow), [0.5], nj=1)
    assert json.loads((slow / "made.json").read_text())["options"]["seed"] is not None
    for content in ("[]", '{"source": 3}', "{"):
        (tmp_path / ".fork").mkdir(exist_ok=True)
        (tmp_path / ".fork" / "fork.json").write_text(content)
        with pytest.raises(UserError, match="is no fork: .*fork.json cannot be read"):
            read_record(tmp_path)


def test_a_damaged_index_of_sequences_is_made_again(tmp_path):
    path = str(tmp_path / "s.jsonl")
    write_sequences(path, [Sequence(f"u{i}", (Span(text=f"text {i}", loss=True),)) for i in range(9)])
    whole = open(f"{path}.idx", "rb").read()
    for damaged in (b"", b"\x00" * len(whole), whole[:50], whole[:-8]):
        with open(f"{path}.idx", "wb") as f:
            f.write(damaged)
        reader = SequenceReader(path)
        assert [json.loads(reader[f"u{i}"])["id"] for i in range(9)] == [f"u{i}" for i in range(9)]
        assert open(f"{path}.idx", "rb").read() == whole


@pytest.mark.parametrize("end", [b'{"id": "u2", "nb', b"\x00" * 40, b"\x00" * 40 + b"\n", b"[]\n", b"\xff\xfe\n"])
def test_decoding_goes_on_from_the_sound_part_of_a_partial_file(tmp_path, end):
    lines = {f"u{i}": json.dumps({"id": f"u{i}", "nbest": []}) + "\n" for i in range(2)}
    first = Partial(str(tmp_path / "nbest.jsonl"), {"beam": 4})
    first.add(lines)
    first.file.close()
    with open(first.path, "ab") as f:
        f.write(end)
    second = Partial(str(tmp_path / "nbest.jsonl"), {"beam": 4})
    assert second.done == lines
    second.add({"u2": '{"id": "u2", "nbest": []}\n'})
    assert not (tmp_path / "nbest.jsonl").exists()
    second.finish(str(tmp_path / "nbest.jsonl"), ["u2", "u0", "u1"])
    assert sorted(os.listdir(tmp_path)) == [".llmvq-written", "nbest.jsonl"]
    assert [json.loads(x)["id"] for x in open(tmp_path / "nbest.jsonl")] == ["u2", "u0", "u1"]
    Partial(str(tmp_path / "nbest.jsonl"), {"beam": 4}).add(lines)
    assert Partial(str(tmp_path / "nbest.jsonl"), {"beam": 8}).done == {}


@pytest.mark.filterwarnings("ignore:An error happend when loading")  # kaldiio's, beside what it raises
def test_damaged_encoder_frames_are_told_with_the_remedy(tmp_path):
    import kaldiio

    from espnet_llmvq.model.batch import FrameCache

    target = tmp_path / "frames"
    target.mkdir()
    rng = np.random.default_rng(0)
    frames = {f"u{i}": rng.standard_normal((5 + i, 4)).astype(np.float32) for i in range(6)}
    with kaldiio.WriteHelper(f"ark,scp:{target}/frames.ark,{target}/frames.scp") as writer:
        for utt, x in frames.items():
            writer(utt, x)
    ark, scp = target / "frames.ark", target / "frames.scp"
    whole, told = ark.read_bytes(), 0
    for _ in range(100):
        size = int(rng.integers(len(whole)))
        ark.write_bytes(whole[:size])
        cache = FrameCache(str(scp))
        for utt, x in frames.items():
            try:
                assert np.array_equal(cache[utt], x)
            except UserError as err:
                assert f"frames of {utt} are damaged" in str(err) and f"remove {target} and run stage 10" in str(err)
                told += 1
    assert told > 100
    ark.unlink()
    with pytest.raises(UserError, match="u0 are damaged"):
        FrameCache(str(scp))["u0"]
    scp.write_text("u0\n")
    with pytest.raises(UserError, match="run stage 10"):
        FrameCache(str(scp))["u0"]


def test_truncated_audio_in_training_names_the_utterance_and_the_stage(tmp_path, tokenizer):
    from espnet_llmvq.model.batch import SequenceArrays

    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(1600), 16000, subtype="PCM_16")
    seq = Sequence("u1", (Span(audio=str(path), samples=1600), Span(text="one", loss=True)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"u1: .*a\.wav: audio file is truncated.*made again from stage 3"):
        SequenceArrays(tokenizer)(seq)


def test_damaged_and_unwritable_checkpoints(tmp_path, full_disk):
    import torch

    from espnet_llmvq.espnet.trainer import atomic_checkpoints
    from espnet_llmvq.model.checkpoint import load_weights

    path = tmp_path / "checkpoint.pth"
    with atomic_checkpoints():
        torch.save({"x": torch.ones(1000)}, path)
    whole = path.read_bytes()
    assert torch.equal(load_weights(path, "cpu", "now")["x"], torch.ones(1000))
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"noise" * 99):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint\.pth: is damaged .*; remove it now"):
            load_weights(path, "cpu", "now")
    path.write_bytes(whole)
    full_disk()
    with atomic_checkpoints(), pytest.raises(UserError, match=r"checkpoint\.pth: cannot be written .*last checkpoint"):
        torch.save({"x": torch.ones(100_000)}, path)
    assert path.read_bytes() == whole and os.listdir(tmp_path) == ["checkpoint.pth"]
