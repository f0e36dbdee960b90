"""Smoke runs side by side: no more than two, their words apart; the first that fails ends others and is told last."""

import shutil
import subprocess

import pytest
from conftest import alive
from test_install import ROOT

NAMES = [
    "smoke",
    "race",
    *(f"smoke_{name}" for name in ("librispeech_jstip", "librispeech", "mini_librispeech", "fork")),
]
NAMES.append("smoke_mini_librispeech_jstip")


@pytest.fixture
def smoke(tmp_path):
    """Function {name: lines of bash}, options -> (exit status, lines of output, errors): with stand-ins of scripts."""

    def run(scripts, *options):
        home = tmp_path / "test"
        home.mkdir()
        shutil.copy(ROOT / "test" / "smoke_all.sh", home)
        (tmp_path / "egs").symlink_to(ROOT / "egs")
        for name in NAMES:
            script = home / f"{name}.sh"
            script.write_text(f"#!/usr/bin/env bash\nset -eu\ncd {tmp_path}\n{scripts.get(name, 'true')}\n")
            script.chmod(0o755)
        done = subprocess.run([home / "smoke_all.sh", *options], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


def test_two_at_a_time_and_each_in_one_piece(smoke):
    """What two say at the same time is not mixed."""
    said = "touch {0}.runs; sleep 0.2; ls *.runs | wc -l; echo end of {0} $*; rm {0}.runs"
    scripts = {name: said.format(name) for name in NAMES}
    scripts["smoke"] += "; touch second"
    scripts["smoke_librispeech_jstip"] += "; until [ -e second ]; do sleep 0.05; done"
    status, lines, _ = smoke(scripts)
    assert status == 0
    seen = []
    for name in NAMES:
        title = next(line for line in lines if line.startswith(f"=== {name}.sh"))
        at, options = lines.index(title), title.removeprefix(f"=== {name}.sh")
        assert lines[at + 2] == f"end of {name}{options}"
        seen.append(int(lines[at + 1]))
    assert max(seen) <= 2
    assert "=== race.sh --times 1 --stop_stage 4" in lines and lines[-1].startswith("smoke: all passed")


def test_the_first_that_fails_ends_the_others(smoke, tmp_path):
    waits = "sleep 60 & echo $! >pid.new; mv pid.new pid; wait"
    fails = "while [ ! -e pid ]; do sleep 0.05; done; echo this is wrong; exit 3"
    status, lines, error = smoke({"smoke_librispeech_jstip": waits, "smoke": fails, "race": "touch raced"})
    assert (status, error) == (1, "smoke: FAILED: smoke.sh (exit code 3)\n")
    ended = "=== smoke_librispeech_jstip.sh, which was ended; the last of it:"
    assert lines[-4:] == ["smoke: ending smoke_librispeech_jstip.sh", ended, "=== smoke.sh", "this is wrong"]
    assert not alive(int((tmp_path / "pid").read_text())) and not (tmp_path / "raced").exists()


@pytest.mark.parametrize("number", ["0", "x"])
def test_at_once(smoke, number):
    assert smoke({}, "--at_once", number)[::2] == (
        2,
        f"smoke: error: --at_once {number}: give a whole number of 1 or more\n",
    )


def test_some_of_them(smoke):
    status, lines, _ = smoke({"race": "echo options: $*"}, "--only", "race.sh", "--at_once", "1")
    assert status == 0
    assert lines[1:3] == ["=== race.sh --times 1 --stop_stage 4", "options: --times 1 --stop_stage 4"]


def test_an_unknown_one(smoke):
    status, lines, error = smoke({}, "--only", "smoke_an4.sh")
    assert (status, lines) == (
        2,
        [],
    ) and "--only smoke_an4.sh: must be of: smoke_librispeech_jstip.sh smoke.sh " in error
