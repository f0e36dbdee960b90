"""Back end `ssh`: machines that share this file system, listed in a file, one a line with its number of jobs."""

import os
import re
import shlex
import signal
import subprocess

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.processes import exit_reason
from espnet_llmvq.launch.call import quote
from espnet_llmvq.launch.pool import Pool, bash

# Of the machine or the login, not of the work.
_OWN = re.compile(r"(HOME|HOST|HOSTNAME|LOGNAME|OLDPWD|PWD|SHELL|SHLVL|TMPDIR|TERM|USER|DISPLAY|_|BASH_FUNC_.*)")
_OWN_PREFIX = ("SSH_", "XDG_", "DBUS_")


def exports(environment):
    """Lines of bash that export the variables of {name: value} which are not the machine's own."""
    return "".join(
        f"export {name}={shlex.quote(value)}\n"
        for name, value in environment.items()
        if re.fullmatch(r"[A-Za-z_]\w*", name) and not _OWN.fullmatch(name) and not name.startswith(_OWN_PREFIX)
    )


def read_machines(path):
    """[(host, jobs at once)] of a file with lines ``HOST [JOBS]``; "#" starts a comment."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
    except OSError as err:
        raise UserError(f"{path}: cannot be read: {err.strerror} (list the machines there, one a line)") from None
    machines = []
    for number, line in enumerate(lines, 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        if len(fields) > 2 or not (fields[1:] or ["1"])[0].isdecimal() or fields[0].startswith("-"):
            raise UserError(f"{path}:{number}: expected HOST [JOBS], found {line.strip()!r}")
        machines.append((fields[0], int(fields[1]) if fields[1:] else 1))
    if not sum(jobs for _, jobs in machines):
        raise UserError(f"{path}: lists no machine (add some, one a line)")
    return machines


class Ssh(Pool):
    def __init__(self, machines):
        self.machines = read_machines(machines)

    def places(self, resources):
        """A place is the name of a host; the first job of each comes before any second."""
        most = max(jobs for _, jobs in self.machines)
        return [host for i in range(most) for host, jobs in self.machines if i < jobs]

    def _process_file(self, call, number):
        return os.path.join(call.work, f"process.{number}")

    def start(self, call, number, attempt, host):
        # The environment travels on standard input: on the command line or in a file others could read it.
        with open(call.script, encoding="utf-8", errors="surrogateescape") as f:
            script = f.read()
        note = f'echo "$$" >{quote(self._process_file(call, number))}\n'
        remote = f"setsid --wait bash -s {number} {attempt}"
        process = bash(
            ["-c", 'exec ssh -o BatchMode=yes "$@"', "ssh", host, remote],
            stdin=subprocess.PIPE,
            errors="surrogateescape",
        )
        try:
            # In braces, bash reads all of it before it runs any.
            process.stdin.write("{\n" + exports(os.environ) + note + script + "}\n")
            process.stdin.close()
        except BrokenPipeError:
            pass  # ssh has ended; its exit code tells
        return process

    def reason(self, code, host):
        if code == 255:
            return f"ended with exit code 255 on {host}: ssh could not reach it, or lost it"
        return f"{exit_reason(code)} on {host}"

    def stop(self, process, call, number, host):
        try:
            with open(self._process_file(call, number), encoding="utf-8") as f:
                group = int(f.read())
            command = ["ssh", "-o", "BatchMode=yes", host, f"kill -TERM -- -{group}"]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            pass  # not started yet, or out of reach
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
