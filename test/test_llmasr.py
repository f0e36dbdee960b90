"""The stage script: which commands it runs, in which order, with which options; nothing of them is run here."""

import contextlib
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from conftest import alive, wait_for

EGS = Path(__file__).resolve().parent.parent / "egs"
TEMPLATE = EGS / "TEMPLATE" / "llmasr1"
# Notes each command with its arguments, one a line; a plan is a file, and a failure, or to sleep, is asked for by name.
PYTHON = """\
#!/usr/bin/env bash
printf '%q ' "${@:3}" | sed 's/ $//' >>calls && echo >>calls
[ "$3 $4" != "${FAIL:-}" ] || { # after what sleeps beside it
    while [ -n "${SLEEP:-}" ] && [ ! -e sleeper ]; do sleep 0.05; done
    echo "it failed" >&2
    exit 1
}
[ "$3 $4" != "${SLEEP:-}" ] || { sleep 60 & echo $! >sleeper.new; mv sleeper.new sleeper; wait; }
[ "$3" != plan ] || {
    while [ "$1" != --out ]; do shift; done
    printf '{"trainings": [], "llm": "%s"}' "${GIVEN:-}" >"$2"
}
"""
DATA_SH = '#!/usr/bin/env bash\necho "data.sh $*" >>calls\n'


@pytest.fixture
def begin(tmp_path):
    """Function: starts llmasr.sh with options -> its Popen."""
    for name in ("llmasr.sh", "path.sh", "utils"):
        os.symlink(TEMPLATE / name, tmp_path / name)
    (tmp_path / "local").mkdir()
    for path, text in ((tmp_path / "python", PYTHON), (tmp_path / "local/data.sh", DATA_SH)):
        path.write_text(text)
        path.chmod(stat.S_IRWXU)

    def start(*options, **environment):
        (tmp_path / "calls").write_text("")
        return subprocess.Popen(
            ["./llmasr.sh", "--python", "./python", "--nj", "1", *options], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip

    return start


@pytest.fixture
def script(begin, tmp_path):
    """Function: runs llmasr.sh with options -> (exit status, [command line], standard error)."""

    def run(*options, **environment):
        process = begin(*options, **environment)
        _, error = process.communicate()
        return process.returncode, (tmp_path / "calls").read_text().splitlines(), error

    return run


def without_plan(calls):
    assert calls[0].startswith("plan --out ")
    return calls[1:]


def test_all_stages_in_their_order(script):
    status, calls, error = script("--systems", "lora", "--test_sets", "test:id")
    assert status == 0, error
    assert without_plan(calls) == [
        "train --exp exp --check",
        "data.sh --datadir data --nj 1",
        "stage check --exp exp --nj 1",
        "stage perturb --exp exp --nj 1",
        "stage format --exp exp --nj 1",
        "stage filter --exp exp",
        "stage tokenizer --exp exp",
        "stage lm --exp exp --ngpu 0 --threads 1",
        "stage encoder --exp exp --ngpu 0 --threads 1",
        "train --exp exp --encoder --threads 1",
        "stage align --exp exp --ngpu 0 --threads 1",
        "stage sequences --exp exp",
        "stage encode --exp exp --ngpu 0 --threads 1",
        "stage positions --exp exp",
        "stage mixtures --exp exp",
        "train --exp exp --nj 1 --threads 1",
        "decode --exp exp --nj 1 --ngpu 0",
        "rescore --exp exp",
        "ask --exp exp --nj 1 --ngpu 0",
        "results --exp exp",
        "analyse --exp exp --nj 1 --ngpu 0",
        "report --exp exp",
    ]


def test_stages_are_chosen(script):
    _, calls, _ = script("--stage", "9", "--stop_stage", "10", "--skip_stages", "9")
    assert [call.split(" --")[0] for call in without_plan(calls)] == [
        "train", "stage encode", "stage positions", "stage mixtures",
    ]  # fmt: skip
    for nj, jobs, expected in (
        ("4", "1", "1 --threads 4"),
        ("5", "2", "2 --threads 2"),
        ("1", "2", "1 --threads 1"),
        ("3", "", "3 --threads 1"),
    ):
        _, calls, _ = script("--stage", "11", "--stop_stage", "11", "--nj", nj, "--train_jobs", jobs)
        assert calls[-1] == f"train --exp exp --nj {expected}"
    _, calls, _ = script("--stage", "12", "--stop_stage", "12")
    assert without_plan(calls)[0] == "decode --exp exp --nj 1 --ngpu 0 --redo"
    _, calls, _ = script("--stage", "14", "--stop_stage", "14", "--analyse_opts", "--examples 10")
    assert without_plan(calls) == ["analyse --exp exp --nj 1 --ngpu 0 --redo --examples 10"]
    _, calls, _ = script("--stage", "13", "--stop_stage", "13", "--score_opts=--replicates 20 --empty_ref drop")
    assert without_plan(calls) == ["results --exp exp --replicates 20 --empty_ref drop"]


def test_options_that_are_not_the_scripts_go_to_the_plan_as_they_are(script, tmp_path):
    _, calls, _ = script(
        "--systems", "a b", "--texts=x=a=b:c.txt", "--prompt", "a|b {speech} 'q'", "--other_prompt",
        "--stop_stage", "1", "--seed", "2",
    )  # fmt: skip
    plan = calls[0]
    assert " --systems a\\ b --texts=x=a=b:c.txt --prompt a\\|b\\ \\{speech\\}\\ \\'q\\' --other_prompt " in plan
    assert plan.count("--datadir data --dumpdir dump --expdir exp --seed 2 --smoke false --ngpu 0") == 1
    assert (tmp_path / "exp/seed2/experiment.json").is_file() and calls[-1] == "stage check --exp exp/seed2 --nj 1"
    assert "--systems a\\ b" in (tmp_path / "exp/seed2/commands.log").read_text()


def test_smoke_runs_have_directories_of_their_own(script):
    more = ["--smoke_opts", "--local_data_opts=--smoke=true --vocab_size 9", "--vocab_size", "8"]
    status, calls, error = script("--smoke", "--stop_stage", "1", *more)
    assert status == 0, error
    assert "--datadir data_smoke --dumpdir dump_smoke --expdir exp_smoke --seed 1 --smoke true" in calls[0]
    assert calls[0].index("--vocab_size 8") < calls[0].index("--vocab_size 9")  # the later one counts
    assert calls[1:] == [
        "data.sh --datadir data_smoke --nj 1 --smoke=true", "stage cut --exp exp_smoke",
        "stage check --exp exp_smoke --nj 1",
    ]  # fmt: skip


def test_a_slash_at_the_end_of_a_directory_does_not_count(script):
    _, calls, _ = script("--smoke", "--datadir", "./data/", "--expdir", "exp/", "--stop_stage", "1")
    assert "--datadir ./data_smoke --dumpdir dump_smoke --expdir exp_smoke " in calls[0]


def test_nothing_is_written_where_the_plan_fails(script, tmp_path):
    before = sorted(os.listdir(tmp_path))
    status, calls, error = script("--systems", "none", FAIL="plan --out")
    assert (status, len(calls)) == (1, 1) and "it failed" in error
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "calls"])


def test_dry_runs_and_estimates_write_nothing(script, tmp_path):
    before = sorted(os.listdir(tmp_path))
    status, calls, error = script("--dry_run", "--estimate", "--json", "x.json", "--estimate_opts", "--gpu h100")
    assert status == 0, error
    plan = re.match(r"plan --out (\S+) ", calls[0])[1]
    assert calls[1:] == [
        f"train --exp {plan} --dry_run --json x.json", f"estimate --exp {plan} --json x.json --gpu h100"
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "calls"]) and not os.path.exists(plan)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--stage", "0"], "--stage 0: stages are 1 to 17"),
        (["--skip_stages", "2 x"], "--skip_stages x: stages are 1 to 17"),
        (["--stop_stage", "16"], "stages 16 and 17 need --pack_system"),
        (["--stop_stage", "17", "--pack_system", "lora"], "stage 17 needs --hf_repo"),
        (["--num_nodes", "2"], "--num_nodes 2: name the machines with --hosts"),
        (["--num_nodes", "2", "--hosts", "a,b"], "--hosts says how many machines there are"),
        (["--nj", "0"], "--nj 0: give a whole number of 1 or more"),
        (["--train_jobs", "0"], "--train_jobs 0: give a whole number of 1 or more"),
        (["--nj", "x"], "--nj x: give a whole number of 1 or more"),
        (["--smoke=maybe"], "--smoke must be true or false, not maybe"),
        (["lora"], "unexpected argument lora"),
    ],
)
def test_wrong_options_fail_before_anything_is_run(script, options, message):
    status, calls, error = script(*options)
    assert status != 0 and message in error and calls == []


def test_packing_and_upload(script, tmp_path):
    options = ["--stage", "16", "--stop_stage", "17", "--pack_system", "lora"]
    _, calls, _ = script(*options, "--hf_repo", "me/lora")
    assert without_plan(calls) == [
        "pack --exp exp --system lora --out exp/packed/lora", "upload exp/packed/lora --repo me/lora",
    ]  # fmt: skip
    _, calls, _ = script(*options, "--hf_repo", "./shelf")
    assert calls[-1] == "upload exp/packed/lora --to ./shelf"
    options += ["--hf_repo", "./shelf", "--pack_dir", "exp/pack", "--pack_opts", "--max_mb 500"]
    (tmp_path / "conf/licences").mkdir(parents=True)
    for name in ("card.md", "licences/LICENSE", "licences/NOTICE.md"):
        (tmp_path / "conf" / name).write_text("x")
    _, calls, _ = script(*options)
    given = "--card conf/card.md --licence conf/licences/LICENSE conf/licences/NOTICE.md --max_mb 500"
    assert calls[-2:] == [f"pack --exp exp --system lora --out exp/pack {given}", "upload exp/pack --to ./shelf"]


def test_make_real_leaves_a_pack_of_a_row_that_it_trains(script):
    makefile = (EGS.parent / "Makefile").read_text()
    options = shlex.split(re.search(r"^\t\./run\.sh (--stop_stage 16 .+)$", makefile, re.MULTILINE)[1])
    status, calls, error = script("--stage", "16", *options)
    assert status == 0, error
    assert calls[-1] == "pack --exp exp --system soft_k10 --out exp/pack --max_mb 500"
    run = (EGS / "mini_librispeech/llmasr1/run.sh").read_text()
    assert "soft_k10" in re.search(r'--systems "(.*)"', run)[1].split()


def test_a_failure_beside_other_work_ends_the_run(script):
    status, calls, error = script("--nj", "2", FAIL="stage lm")
    assert status == 1 and "it failed\nllmasr.sh: error: stage 6 failed" in error
    assert "train --exp exp --encoder --threads 1" in calls and "stage align" not in " ".join(calls)


def test_a_given_llm_is_measured_before_encoding(script):
    status, calls, _ = script("--nj", "2", FAIL="stage lm", GIVEN="llm/gemma")
    assert status == 1 and "stage encoder" not in " ".join(calls)


def test_threads_of_the_encoder(script):
    """All that there are, unless a language model trains beside it."""
    for options, given, threads in ((("--nj", "2"), "", 1), (("--nj", "2"), "llm/gemma", 2), (("--nj", "1"), "", 1)):
        _, calls, _ = script(*options, "--stop_stage", "7", **({"GIVEN": given} if given else {}))
        assert calls[-1 - ("stage lm" in calls[-1])] == f"train --exp exp --encoder --threads {threads}"
    _, calls, _ = script("--nj", "3", "--stage", "7", "--stop_stage", "7")
    assert calls[-1] == "train --exp exp --encoder --threads 3"


def test_a_failure_ends_what_runs_beside_it(script, tmp_path):
    status, _, _ = script("--nj", "2", SLEEP="stage lm", FAIL="stage encoder")
    assert status == 1 and not alive(int((tmp_path / "sleeper").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["stage check", "stage lm"])
def test_all_that_a_run_starts_ends_with_it(begin, script, tmp_path, number, stage):
    """Also what a command started, in the background and not; the same command then goes on."""
    process = begin("--nj", "2", SLEEP=stage)
    wait_for((tmp_path / "sleeper").exists)
    held = (tmp_path / "exp/.lock").read_text()
    assert held.startswith(f"process {process.pid} on {socket.gethostname()}, since 20")
    process.send_signal(number)
    assert process.wait(timeout=20) == (-number if number == signal.SIGKILL else 128 + number)
    status, calls, error = script()
    assert status == 0 and calls[-1] == "report --exp exp", error
    assert not alive(int((tmp_path / "sleeper").read_text()))
    assert sorted(os.listdir(tmp_path / "exp")) == [".lock", "commands.log", "experiment.json", "llm.log"]


TOGETHER = str(TEMPLATE / "utils" / "together.sh")
TICKS = "echo $$ >pid; for i in {1..9}; do echo >>ticks; sleep 0.1; done"


def test_a_run_that_is_paused_goes_on(tmp_path):
    """Its own command, as a queueing system or a person suspends it, or with Ctrl-Z: it pauses, and is not ended."""

    def ticks():
        return os.path.getsize(tmp_path / "ticks")

    for own in (True, False):
        (tmp_path / "ticks").unlink(missing_ok=True)
        process = subprocess.Popen([TOGETHER, "bash", "-c", TICKS], cwd=tmp_path, process_group=0)
        wait_for(lambda: (tmp_path / "ticks").exists() and ticks() > 1)
        paused = int((tmp_path / "pid").read_text()) if own else process.pid
        os.kill(paused, signal.SIGSTOP if own else signal.SIGTSTP)
        time.sleep(0.3)
        before = ticks()
        time.sleep(0.3)
        assert ticks() == before < 9 and process.poll() is None
        os.kill(paused, signal.SIGCONT)
        assert process.wait(timeout=20) == 0 and ticks() == 9
    process = subprocess.Popen([TOGETHER, "sleep", "60"], process_group=0)
    time.sleep(0.3)
    for number in (signal.SIGTSTP, signal.SIGTERM, signal.SIGCONT):
        os.kill(process.pid, number)
    assert process.wait(timeout=5) == 128 + signal.SIGTERM


def test_a_run_in_a_terminal_is_not_stopped_by_it(tmp_path):
    """Neither by what it writes after `stty tostop`, nor by a command that asks for a password at the terminal."""
    import pty

    asked = "read -r </dev/tty || echo not asked; echo written; echo $? >status"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execvp("bash", ["bash", "-c", f"stty tostop; {TOGETHER} bash -c '{asked}'; echo ended with $?"])
    said = b""
    with contextlib.suppress(OSError):
        while new := os.read(terminal, 4096):
            said += new
    os.waitpid(child, 0)
    assert b"not asked\r\nwritten\r\nended with 0" in said and (tmp_path / "status").read_text() == "0\n"


def test_a_second_run_is_told_who_works_there(begin, script, tmp_path):
    first = begin(SLEEP="stage check")
    wait_for((tmp_path / "sleeper").exists)
    status, calls, error = script()
    assert status == 1 and len(calls) == 1
    holder = f"another run works in exp: process {first.pid} on {socket.gethostname()}, since 20"
    assert holder in error and "remove exp/.lock and run again" in error
    first.terminate()
    first.communicate()


def test_runs_with_other_experiments_wait_for_the_data(begin, tmp_path):
    """They make them one after the other, and everything else side by side."""
    hold = "while [ ! -e go ]; do sleep 0.05; done"
    script = f"#!/usr/bin/env bash\nmkdir making && {{ {hold}; }} && rmdir making && touch made\n"
    (tmp_path / "local/data.sh").write_text(script)
    runs = [begin("--expdir", "a", "--stop_stage", "1")]
    wait_for((tmp_path / "making").exists)
    runs.append(begin("--expdir", "b", "--stop_stage", "1"))
    assert any(f"waiting for data: process {runs[0].pid} on" in line for line in runs[1].stdout)
    (tmp_path / "go").touch()
    said = [process.communicate() for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said


def test_the_script_can_be_read_in_one_sitting():
    assert len((TEMPLATE / "llmasr.sh").read_text().splitlines()) <= 300
