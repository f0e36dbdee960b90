"""The launcher: arguments arrive exactly, no job is lost, failures are told; queueing systems by stand-ins."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import alive, wait_for

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.launch.call import Resources, parse_call
from espnet_llmvq.launch.config import load_config, read_config, submit_command
from espnet_llmvq.launch.local import Local
from espnet_llmvq.launch.pbs import Pbs
from espnet_llmvq.launch.run import run_call
from espnet_llmvq.launch.sge import Sge
from espnet_llmvq.launch.slurm import Slurm
from espnet_llmvq.launch.ssh import Ssh, read_machines

NASTY = [
    "", "a b", "it's", '"', "*", "$HOME", "`id`", "\\n", "a\nb", "é",
    "xJOBy", "JOB", "-x", "{}", "%s", "!", "#", "~", "|",
]  # fmt: skip
DUMP = "import json, sys; print(json.dumps(sys.argv[1:]))"
SYSTEMS = {"slurm": Slurm, "sge": Sge, "pbs": Pbs}


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty current directory with blanks and a quote in its name."""
    path = tmp_path / "a b'c"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def call(*arguments, **resources):
    return parse_call(list(arguments), Resources(**resources))


def body(log):
    """A log without the launcher's lines."""
    return [x for x in Path(log).read_text().splitlines() if not x.startswith("# ")]


def check_arguments(back_end):
    """Every job gets the arguments as they were given, with its number for JOB."""
    run_call(back_end, call("JOB=2:4", "log/x.JOB.log", sys.executable, "-c", DUMP, *NASTY))
    for number in (2, 3, 4):
        (line,) = body(f"log/x.{number}.log")
        assert json.loads(line) == [a.replace("JOB", str(number)) for a in NASTY]
    assert not Path("log/q").exists()  # nothing of the launcher stays after success


def test_arguments_arrive_exactly(room):
    check_arguments(Local())


def test_arguments_need_not_be_utf8(room):
    run_call(Local(), call("log/b.log", "bash", "-c", 'printf %s "$0"', os.fsdecode(b"caf\xe9")))
    assert b"caf\xe9" in Path("log/b.log").read_bytes()


def test_calls_beside_each_other_keep_out_of_each_others_way(room):
    """As scripts in Kaldi's style start them: ranges of one log, and logs whose names begin alike."""
    calls = [
        call("JOB=1:6", "log/p.JOB.log", "sleep", "0.3", max_jobs_run=2),
        call("JOB=7:8", "log/p.JOB.log", "sleep", "0.1"),
        call("log/p.log", "sleep", "0.2"), call("log/p.txt", "sleep", "0.1"),
        call("JOB=1:2", "log/JOB/a/x.log", "sleep", "0.2"), call("JOB=1:2", "log/JOB/b/x.log", "sleep", "0.1"),
    ]  # fmt: skip
    assert len({c.work for c in calls}) == 6
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda c: run_call(Local(), c), calls))
    assert sorted(os.listdir("log")) == sorted([*(f"p.{i}.log" for i in range(1, 9)), "p.log", "p.txt", "1", "2"])


def test_without_a_range_nothing_is_replaced(room):
    run_call(Local(), call("log/one.log", sys.executable, "-c", DUMP, "JOB"))
    assert body("log/one.log") == ['["JOB"]']


def test_a_thousand_jobs_lose_none(room):
    count = room / "count"
    one = f"echo JOB >>'{str(count).replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}'"
    run_call(Local(), call("N=1:1000", "log/N.log", "bash", "-c", one.replace("JOB", "N"), max_jobs_run=2))
    assert sorted(map(int, count.read_text().split())) == list(range(1, 1001))
    assert len(list(Path("log").glob("*.log"))) == 1000
    assert all("Ended with exit code 0" in p.read_text() for p in Path("log").glob("*.log"))


def test_no_more_jobs_at_once_than_allowed(room):
    # Each job counts those that run beside it.
    script = "touch run.JOB; ls | grep -c run; sleep 0.05; rm run.JOB"
    run_call(Local(), call("JOB=1:8", "log/JOB.log", "bash", "-c", script, max_jobs_run=3))
    seen = [int(body(f"log/{i}.log")[0]) for i in range(1, 9)]
    assert 1 <= max(seen) <= 3


def test_the_failed_job_is_named_with_the_end_of_its_log(room):
    script = "for i in $(seq 30); do echo line $i of JOB; done; [ JOB -lt 3 ] || exit 7"
    with pytest.raises(UserError) as error:
        run_call(Local(), call("JOB=1:4", "log/JOB.log", "bash", "-c", script))
    message = str(error.value)
    assert message.startswith("job 3 of 1:4 ended with exit code 7; the end of log/3.log:\n")
    assert "line 30 of 3" in message and "line 10 of 3" not in message
    assert message.endswith("2 of 4 jobs failed, also 4")
    assert "line 30 of 4" in body("log/4.log") and "line 30 of 2" in body("log/2.log")


def test_retries_run_the_failed_jobs_only(room, capsys):
    script = "echo JOB >>ran; [ JOB -ne 2 ] || [ $(grep -c 2 ran) -ge 3 ]"
    run_call(Local(), call("JOB=1:3", "log/JOB.log", "bash", "-c", script), retries=2)
    assert sorted(Path("ran").read_text().split()) == ["1", "2", "2", "2", "3"]
    assert "job 2 of 1:3 ended with exit code 1; 1 to run again" in capsys.readouterr().err
    Path("ran").unlink()
    with pytest.raises(UserError, match="job 2 of 1:3 ended with exit code 1 in attempt 2; "):
        run_call(Local(), call("JOB=1:3", "log/JOB.log", "bash", "-c", script), retries=1)


def test_a_killed_job_is_told(room):
    with pytest.raises(UserError, match="job x was killed by signal 9, often for lack of memory"):
        run_call(Local(), call("log/x.log", "bash", "-c", "kill -9 $$"))
    with pytest.raises(UserError, match="(?s)exit code 127.*nosuchcommand: command not found"):
        run_call(Local(), call("log/x.log", "nosuchcommand"))


def test_gpus_are_shared_out(room, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    show = ["bash", "-c", "echo ${CUDA_VISIBLE_DEVICES}; sleep 0.05"]
    run_call(Local(), call("JOB=1:6", "log/JOB.log", *show, gpu=2))
    assert {body(f"log/{i}.log")[0] for i in range(1, 7)} <= {"4,5", "6,7"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(UserError, match="--gpu 2: this machine offers 1"):
        run_call(Local(), call("log/x.log", "true", gpu=2))


def command_line(*arguments):
    return [sys.executable, "-m", "espnet_llmvq", "launch", *arguments]


@pytest.fixture(autouse=True)
def package_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parent.parent))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_local_jobs(room, name):
    script = "echo $$ >pid.JOB.tmp; mv pid.JOB.tmp pid.JOB; sleep 60 & wait"
    launcher = subprocess.Popen(
        command_line("local", "--max-jobs-run", "2", "JOB=1:3", "log/JOB.log", "bash", "-c", script),
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),  # under nohup it is ignored
    )  # fmt: skip
    wait_for(lambda: len(list(room.glob("pid.[0-9]"))) == 2)
    number = getattr(signal, name)
    launcher.send_signal(number)
    assert launcher.wait(20) == 128 + number
    assert f"stopped by signal {number}" in launcher.stderr.read()
    pids = [int(file.read_text()) for file in room.glob("pid.*")]
    wait_for(lambda: not any(map(alive, pids)))


def test_follow_prints_the_log_as_it_grows(room):
    script = "echo first; while [ ! -e go ]; do sleep 0.02; done; echo last"
    launcher = subprocess.Popen(
        command_line("local", "--follow", "log/x.log", "bash", "-c", script), stdout=subprocess.PIPE, text=True
    )
    while launcher.stdout.readline() != "first\n":
        pass
    Path("go").touch()  # the first line was seen before the job went on
    assert "last\n" in launcher.stdout.read() and launcher.wait() == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["JOB=0:3", "log/JOB", "true"], "from 1 on"),
        (["JOB=3:1", "log/JOB", "true"], "not falling"),
        (["JOB=a", "log/JOB", "true"], "JOB=a: is no range of jobs"),
        (["JOB=1:3", "log/x", "true"], "log/x: 3 jobs would write one log; put JOB"),
        (["log/x"], "give"),
    ],
)
def test_impossible_calls(arguments, message):
    with pytest.raises(UserError, match=message):
        call(*arguments)


def test_a_log_that_cannot_be_written(room):
    Path("file").touch()
    with pytest.raises(UserError, match="file/x.log: no log can be written there"):
        run_call(Local(), call("file/x.log", "true"))


def test_command_line(room):
    """Options before and behind the range are the launcher's, behind the log the command's."""
    line = ["--mem", "4G", "JOB=1:2", "--max-jobs-run", "1", "--time=1:00:00", "log/JOB", "echo", "--mem", "JOB"]
    assert subprocess.run(command_line("local", *line)).returncode == 0
    assert body("log/2") == ["--mem 2"]
    done = subprocess.run(command_line("local", "log/x", "false"), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: job x ended with exit code 1; the end of log/x:")
    assert "Traceback" not in done.stderr


# What submits: notes its arguments, and runs the tasks one after another in the background. A file `lose.N` makes
# the N-th task disappear without a trace but in the accounts. $state: directory of the stand-ins.
SUBMIT = """#!/usr/bin/env bash
state=@STATE@
printf '%s\\n' "$*" >>"$state/submitted"
[ ! -e "$state/reject" ] || { echo "invalid account" >&2; exit 1; }
script=${@: -1} count=1 array=false
while [ $# -gt 0 ]; do
    case $1 in
    --array=*) array=true range=${1#*=} ;;
    -t | -J) array=true range=$2 ;;
    esac
    shift
done
if $array; then range=${range%%%*} count=${range#*-}; fi
[ "$count" -le 5 ] || { echo "array too large" >&2; exit 1; }
id=$(($(cat "$state/id") + 1))
echo "$id" >"$state/id"
for i in $(seq "$count"); do echo "$array" >"$state/queue/$id.$i"; done
export id state script count array
setsid bash -c '
    echo $$ >"$state/pid.$id"
    for i in $(seq "$count"); do
        if [ -e "$state/lose.$i" ]; then
            echo "$id $i 137" >>"$state/accounts"
        else
            if $array; then export @INDEX@=$i; fi
            bash "$script" >>"$state/output" 2>&1
            echo "$id $i $?" >>"$state/accounts"
        fi
        rm "$state/queue/$id.$i"
    done' </dev/null >/dev/null 2>&1 &
"""
TASKS = 'for f in "$state"/queue/*; do [ -e "$f" ] || continue; t=${f##*/}; id=${t%.*} i=${t#*.}; array=$(cat "$f")\n'
HEAD = "#!/usr/bin/env bash\nstate=@STATE@\n"
CANCEL = (
    HEAD
    + """echo "$*" >>"$state/cancelled"
for id in "$@"; do kill -- "-$(cat "$state/pid.${id%%[*}")"; rm "$state/queue/${id%%[*}".*; done
"""
)
STAND_INS = {
    "slurm": {
        "sbatch": SUBMIT + 'echo "$id;cluster"\n',
        "squeue": HEAD + "found=false\n" + TASKS + """found=true
$array || i=N/A; echo "$id $i"; done
$found || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
""",
        "sacct": HEAD + """while read -r id i code; do
    state=FAILED; [ "$code" -ne 137 ] || state=OUT_OF_MEMORY; echo "${id}_$i|$state|0:$code"; done <"$state/accounts"
""",
        "scontrol": HEAD + 'echo "MaxArraySize            = 6"\n',
        "scancel": CANCEL,
    },
    "sge": {
        "qsub": SUBMIT + """if $array; then echo "Your job-array $id.$range:1 (\\"x\\") has been submitted"
else echo "Your job $id (\\"x\\") has been submitted"; fi
""",
        "qstat": HEAD + """echo 'job-ID  prior   name       user  state submit/start at     queue     slots ja-task-ID'
echo '-------------------------------------------------------------------------------------------'
""" + TASKS + """$array || i=
echo "    $id 0.55500 x          me    r     11/24/2026 12:00:00 all.q@node1.cluster 1 $i"
echo "    77$id 0.55500 x          me    qw     11/24/2026 12:00:00 4 $i"; done
""",
        "qacct": HEAD + """while read -r id i code; do
    [ "$id $i" != "$2 ${4:-1}" ] || printf 'jobnumber    %s\\nfailed       0\\nexit_status  %s\\n' "$id" "$code"
done <"$state/accounts"
""",
        "qconf": HEAD + "echo 'max_aj_tasks                 5'\n",
        "qdel": CANCEL,
    },
    "pbs": {
        "qsub": SUBMIT + 'if $array; then echo "$id[].server"; else echo "$id.server"; fi\n',
        "qstat": HEAD + """case $1 in
-Bf) echo '    max_array_size = 5'; exit ;;
-x) t=${3#*[}; grep "^${3%%[*} ${t%]} " "$state/accounts" | while read -r id i code; do
    echo "    Exit_status = $code"; done; exit ;;
esac
echo 'Job id            Name             User              Time Use S Queue'
echo '----------------  ---------------- ----------------  -------- - -----'
""" + TASKS + """if $array; then
echo "$id[].server      x                me                       0 B workq"
echo "$id[$i].server     x                me                00:00:00 R workq"
else echo "$id.server        x                me                00:00:00 R workq"; fi; done
""",
        "qdel": CANCEL,
    },
}  # fmt: skip
INDEX = {"slurm": "SLURM_ARRAY_TASK_ID", "sge": "SGE_TASK_ID", "pbs": "PBS_ARRAY_INDEX"}


class Cluster:
    """Stand-ins of the commands of one system, first in PATH; arrays have at most five tasks."""

    def __init__(self, kind, state):
        self.kind, self.state = kind, state
        (state / "bin").mkdir()
        (state / "queue").mkdir()
        (state / "id").write_text("100")
        (state / "accounts").touch()
        for name, text in STAND_INS[kind].items():
            path = state / "bin" / name
            path.write_text(text.replace("@STATE@", str(state)).replace("@INDEX@", INDEX[kind]))
            path.chmod(0o755)

    def back_end(self, **options):
        return SYSTEMS[self.kind](**{"interval": 0.05, "grace": 0.3, **options})

    def submitted(self):
        return (self.state / "submitted").read_text().splitlines()


@pytest.fixture(params=list(SYSTEMS))
def cluster(request, tmp_path_factory, monkeypatch):
    state = tmp_path_factory.mktemp(request.param)
    made = Cluster(request.param, state)
    monkeypatch.setenv("PATH", f"{state / 'bin'}:{os.environ['PATH']}")
    return made


def test_arguments_arrive_exactly_through_a_queue(room, cluster):
    check_arguments(cluster.back_end())


HOSTILE = "a\n touch ran1\n#$ -q x\n'b\"\n`touch ran2`\\'$(touch ran3)\xe9"


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The current directory, of a name that would be commands, or options of Grid Engine, outside of quotes."""
    path = tmp_path / HOSTILE
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def check_hostile(back_end):
    wanted = call("JOB=1:2", f"log/{HOSTILE}/x.JOB.log", sys.executable, "-c", DUMP, HOSTILE)
    wanted.write_script()
    with open(wanted.script) as f:
        assert not [line for line in f if line.startswith(("#$", " touch", "`"))]
    run_call(back_end, wanted)
    for number in (1, 2):
        assert json.loads(body(f"log/{HOSTILE}/x.{number}.log")[0]) == [HOSTILE]
    assert not list(Path().rglob("ran*"))


def test_names_are_no_commands(hostile):
    check_hostile(Local())


def test_names_are_no_commands_in_a_queue(hostile, cluster, monkeypatch):
    seen, opened = [], subprocess.run

    def look(command, **options):
        if command[-1].endswith(".sh"):
            seen.append(Path(command[-1]).read_text())
        return opened(command, **options)

    monkeypatch.setattr("espnet_llmvq.launch.queueing.subprocess.run", look)
    check_hostile(cluster.back_end())
    assert seen and not [line for text in seen for line in text.split("\n") if line.startswith(("#$", " touch", "`"))]


def test_arrays_keep_to_the_limit_of_the_system(room, cluster, monkeypatch):
    monkeypatch.setenv("MY_SETTING", "a 'b'")
    run_call(cluster.back_end(), call("JOB=3:14", "log/JOB.log", "bash", "-c", 'echo JOB "$MY_SETTING"'))
    assert [body(f"log/{i}.log") for i in range(3, 15)] == [[f"{i} a 'b'"] for i in range(3, 15)]
    flag = {"slurm": "--array={}", "sge": "-t {}", "pbs": "-J {}"}[cluster.kind]
    lines = cluster.submitted()
    assert [flag.format(f"1-{n}") in line for n, line in zip((5, 5, 2), lines, strict=True)] == [True] * 3


def test_a_single_job_is_no_array(room, cluster):
    run_call(cluster.back_end(), call("log/x.log", "echo", "hello"))
    assert body("log/x.log") == ["hello"]
    (line,) = cluster.submitted()
    assert not {"--array", "-t", "-J"} & {word.partition("=")[0] for word in line.split()}


REQUESTS = {
    "slurm": ["--mem=4G", "--cpus-per-task=2", "--time=1:00:00", "--gres=gpu:1", "--array=1-2%1", "--export=ALL"],
    "sge": ["-l mem_free=4G", "-pe smp 2", "-l h_rt=1:00:00", "-l gpu=1", "-tc 1", "-V"],
    "pbs": ["-l mem=4gb", "-l ncpus=2", "-l walltime=1:00:00", "-l ngpus=1", "-J 1-2%1", "-V"],
}


def test_requests_become_flags(room, cluster):
    wanted = call("JOB=1:2", "log/JOB.log", "true", mem="4G", num_threads=2, time="1:00:00", gpu=1, max_jobs_run=1)
    run_call(cluster.back_end(), wanted)
    (line,) = cluster.submitted()
    for flags in REQUESTS[cluster.kind]:
        assert f" {flags} " in f" {line} "


def test_arrays_follow_each_other_under_a_limit_of_jobs(room, cluster):
    script = "touch run.JOB; ls | grep -c run; sleep 0.02; rm run.JOB"
    run_call(cluster.back_end(), call("JOB=1:12", "log/JOB.log", "bash", "-c", script, max_jobs_run=1))
    # The stand-in runs the tasks of an array one by one, so more than one at once would be of two arrays.
    assert {body(f"log/{i}.log")[0] for i in range(1, 13)} == {"1"}


def test_a_failed_task_is_named_and_run_again_alone(room, cluster, capsys):
    script = "echo JOB >>ran; if [ JOB -eq 7 ]; then echo bad luck; exit 3; fi"
    with pytest.raises(UserError) as error:
        run_call(cluster.back_end(), call("JOB=1:8", "log/JOB.log", "bash", "-c", script), retries=1)
    message = str(error.value)
    assert message.startswith(
        f"job 7 of 1:8 ended with exit code 3 on {os.uname().nodename} in attempt 2; the end of log/7.log:"
    )
    assert "bad luck" in message
    assert sorted(Path("ran").read_text().split()) == [*"1234567", "7", "8"]
    assert len(cluster.submitted()) == 3  # 5 tasks, 3 tasks, and the one again


def test_exit_codes_of_an_earlier_call_count_for_nothing(room, cluster):
    script = "[ -e mended ] || exit 3; sleep 0.3; echo done"
    arguments = ["JOB=1:2", "log/JOB.log", "bash", "-c", script]
    with pytest.raises(UserError, match="2 of 2 jobs failed"):
        run_call(cluster.back_end(), call(*arguments))
    Path("mended").touch()
    run_call(cluster.back_end(), call(*arguments))
    assert body("log/1.log") == body("log/2.log") == ["done"]


TOLD = {"slurm": "OUT_OF_MEMORY, exit code 0:137", "sge": "failed 0, exit_status 137", "pbs": "Exit_status 137"}


def test_a_task_that_the_system_ended_is_told(room, cluster):
    (cluster.state / "lose.2").touch()
    with pytest.raises(UserError) as error:
        run_call(cluster.back_end(), call("JOB=1:3", "log/JOB.log", "echo", "done"))
    expected = f"job 2 of 1:3 was ended by the queueing system: {TOLD[cluster.kind]} (job 101"
    assert str(error.value).startswith(expected)
    assert body("log/1.log") == body("log/3.log") == ["done"]


def test_a_rejected_submission_is_told_and_the_rest_cancelled(room, cluster):
    (cluster.state / "reject").touch()
    with pytest.raises(UserError, match="failed with exit code 1: invalid account"):
        run_call(cluster.back_end(), call("log/x.log", "true"))
    (cluster.state / "reject").unlink()
    with pytest.raises(UserError, match="array too large"):
        run_call(cluster.back_end(array_limit=6), call("JOB=1:6", "log/JOB.log", "true"))


def test_a_silent_queue_is_waited_for(room, cluster):
    """While the system does not answer, jobs are not taken for lost."""
    name = "squeue" if cluster.kind == "slurm" else "qstat"
    path = cluster.state / "bin" / name
    text = path.read_text()
    path.write_text(text.replace("\nstate=", f"\n[ -e {cluster.state}/answers ] || exit 1\nstate=", 1))
    script = f"sleep 0.6; touch {cluster.state}/answers"
    run_call(cluster.back_end(grace=0.1, array_limit=5), call("log/x.log", "bash", "-c", script))


def test_a_signal_cancels_submitted_jobs(room, cluster):
    script = "echo $$ >pid.tmp; mv pid.tmp pid; sleep 60 & wait"
    launcher = subprocess.Popen(
        command_line(cluster.kind, "JOB=1:3", "log/JOB.log", "bash", "-c", script),
        stderr=subprocess.PIPE, text=True,
        # Tests that run in the background of a shell ignore the signal, and so would the launcher.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_for((room / "pid").exists)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(20) == 130, launcher.stderr.read()
    assert (cluster.state / "cancelled").read_text().split() == ["101[]" if cluster.kind == "pbs" else "101"]
    wait_for(lambda: not alive(int((room / "pid").read_text())))


def test_jobs_that_outlive_a_killed_launcher_are_not_run_twice(room, cluster):
    script = "while [ ! -e go ]; do sleep 0.02; done"
    arguments = ["log/x.log", "bash", "-c", script]
    launcher = subprocess.Popen(command_line(cluster.kind, *arguments))
    wait_for(lambda: Path("log/x.log").exists())
    launcher.kill()
    launcher.wait()
    with pytest.raises(UserError, match="jobs 101 of an earlier call, which was killed, may still work"):
        run_call(cluster.back_end(), call(*arguments))
    Path("go").touch()
    wait_for(lambda: not list((cluster.state / "queue").iterdir()))
    run_call(cluster.back_end(), call(*arguments))


def test_without_the_system_its_absence_is_told(room, monkeypatch):
    monkeypatch.setenv("PATH", str(room))
    for kind, command in (("slurm", "scontrol"), ("sge", "qconf"), ("pbs", "qstat")):
        with pytest.raises(UserError, match=f"{command}: No such file.*submits jobs"):
            run_call(SYSTEMS[kind](), call("log/x.log", "true"))


CONFIG = """# of a site
command sbatch -A 'my project'
default mem=2G
option mem=* --mem=$0
option mem=0  # none
option gpu=* -p gpu --gres=gpu:$0
option num-threads=1
"""


def test_config_of_a_site():
    """Worked out by hand after Kaldi's rules: an exact value before "*", defaults for what is not given."""
    config = read_config(CONFIG, "c")
    assert submit_command(config, Resources()) == ["sbatch", "-A", "my project", "--mem=2G"]
    asked = Resources(mem="0", gpu=2)
    assert submit_command(config, asked) == ["sbatch", "-A", "my project", "-p", "gpu", "--gres=gpu:2"]
    with pytest.raises(UserError, match="--time 1:00: .* no line `option time="):
        submit_command(config, Resources(time="1:00"))


@pytest.mark.parametrize(
    "line, message",
    [
        ("optoin mem=* -l m", "c:2: unknown keyword 'optoin' .did you mean 'option'"),
        ("option mme=* -l m", "c:2: unknown option 'mme' .did you mean 'mem'"),
        ("option mem", "c:2: 'option mem' is not `option NAME=VALUE FLAGS`"),
        ("default mem=1G -l", "c:2: .*`default NAME=VALUE`"),
        ("option mem=* 'x", "c:2: No closing quotation"),
    ],
)
def test_config_errors(line, message):
    with pytest.raises(UserError, match=message):
        read_config(f"command x\n{line}\n", "c")
    with pytest.raises(UserError, match="c: has no line `command"):
        read_config("option mem=* x\n", "c")


def test_config_that_is_no_utf8(tmp_path):
    (tmp_path / "c").write_bytes(b"# f\xfcr\ncommand sbatch\nopti\xf6n mem=* -l m\n")
    with pytest.raises(UserError, match="c:3: unknown keyword"):
        load_config(str(tmp_path / "c"), "")


# Runs the remote command here, in a clean environment. The host `dead` cannot be reached.
SSH = """#!/usr/bin/env bash
[ "$1 $2" = "-o BatchMode=yes" ] || exit 99
echo "$3" >>%(state)s/hosts
[ "$3" != dead ] || exit 255
shift 3
exec env -i PATH="$PATH" HOME=/remote bash -c "$*"
"""


@pytest.fixture
def ssh(room, tmp_path_factory, monkeypatch):
    state = tmp_path_factory.mktemp("ssh")
    (state / "ssh").write_text(SSH % {"state": state})
    (state / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{state}:{os.environ['PATH']}")
    Path("machines").write_text("# ours\nnode1 2\n\nnode2\n")
    return state


def test_arguments_arrive_exactly_through_ssh(ssh):
    check_arguments(Ssh("machines"))


def test_ssh_passes_the_environment_and_uses_all_hosts(ssh, monkeypatch):
    monkeypatch.setenv("MY_SETTING", "a 'b'\n$HOME")
    show = ["bash", "-c", 'printf "%s|%s\\n" "$MY_SETTING" "$HOME"; sleep 0.2']
    run_call(Ssh("machines"), call("JOB=1:3", "log/JOB.log", *show))
    assert {tuple(body(f"log/{i}.log")) for i in (1, 2, 3)} == {("a 'b'", "$HOME|/remote")}
    assert sorted((ssh / "hosts").read_text().split()) == ["node1", "node1", "node2"]
    assert sorted(os.listdir("log")) == ["1.log", "2.log", "3.log"]


def test_ssh_failures_name_the_host(ssh):
    with pytest.raises(UserError, match="job x ended with exit code 5 on node1; "):
        run_call(Ssh("machines"), call("log/x.log", "bash", "-c", "exit 5"))
    Path("machines").write_text("dead\n")
    with pytest.raises(UserError, match="exit code 255 on dead: ssh could not reach it"):
        run_call(Ssh("machines"), call("log/x.log", "true"))


def test_a_signal_ends_remote_jobs(ssh, room):
    script = "echo $$ >pid.tmp; mv pid.tmp pid; sleep 60 & wait"
    launcher = subprocess.Popen(
        command_line("ssh", "--machines", "machines", "log/x.log", "bash", "-c", script),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for((room / "pid").exists)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 143
    wait_for(lambda: not alive(int((room / "pid").read_text())))


@pytest.mark.parametrize("line", ["node1 x", "node1 2 3", "-oProxyCommand=x"])
def test_machines_file_errors(tmp_path, line):
    (tmp_path / "machines").write_text(f"good\n{line}\n")
    with pytest.raises(UserError, match="machines:2: expected HOST"):
        read_machines(tmp_path / "machines")
    (tmp_path / "machines").write_bytes(b"n\xe4chster rechner\n")
    with pytest.raises(UserError, match="machines:1: expected HOST"):
        read_machines(tmp_path / "machines")
    (tmp_path / "machines").write_text("# none\n")
    with pytest.raises(UserError, match="lists no machine"):
        read_machines(tmp_path / "machines")
    with pytest.raises(UserError, match="cannot be read"):
        read_machines(tmp_path / "nowhere")


def test_directories_with_percent_signs_are_not_patterns_of_slurm():
    assert "--output=/100%%j of/q/slurm.%j.out" in Slurm().name_flags("x", "/100%j of/q")
