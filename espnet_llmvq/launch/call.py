"""One call in Kaldi's form, ``[JOB=1:n] LOG COMMAND [ARG...]``, and the script that runs one of its jobs."""

import collections
import contextlib
import os
import re
import shlex
import shutil
from dataclasses import dataclass, field

from espnet_llmvq.base.errors import UserError

RANGE = re.compile(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?")

# $1: number of the job, $2: number of the attempt. Only the name of the log and the arguments are put in.
LOG_BEGINS = "# Attempt "
_SCRIPT = """\
#!/usr/bin/env bash
# Written by espnet_llmvq.cli.launch: runs one job. bash job.sh NUMBER ATTEMPT
JOB=$1
log={log}
cd {cwd} || exit 1
exec </dev/null >>"${{log}}" 2>&1
printf '{begins}%s on %s, started at %(%F %T)T, process %s\\n# ' "$2" "${{HOSTNAME}}" -1 "$$"
printf '%q ' {command}
printf '\\n'
export PYTHONUNBUFFERED=1
{command}
code=$?
printf '# Ended with exit code %s after %s s\\n' "${{code}}" "${{SECONDS}}"
exit "${{code}}"
"""


def quote(text):
    """`text` as one word of bash, on one line: Grid Engine takes lines of a script that begin with #$ for options."""
    if "\n" not in text:
        return shlex.quote(text)
    return "$'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


@dataclass(frozen=True)
class Resources:
    """What each job may use; None leaves it to the queueing system. mem as "4G", time as "4:00:00".

    gpu and num_threads are those of each of its nodes.
    """

    mem: str | None = None
    gpu: int = 0
    num_threads: int = 1
    time: str | None = None
    max_jobs_run: int | None = None
    num_nodes: int = 1


@dataclass(frozen=True)
class Call:
    """A command to run once for every number; `variable` stands for the number in `log` and `command`."""

    log: str
    command: list
    variable: str | None = None
    numbers: list = field(default_factory=lambda: [1])
    resources: Resources = Resources()

    @property
    def name(self):
        """Name of the log without the number and the suffix."""
        name = os.path.splitext(os.path.basename(self.log))[0]
        name = name.replace(self.variable, "") if self.variable else name
        return re.sub(r"[^\w.-]+", "_", name).strip("._-") or "job"

    @property
    def work(self):
        """Directory of what the launcher itself writes, beside the logs: that of no other call with other logs."""
        directory, numbers = os.path.dirname(self.log), f"{self.numbers[0]}-{self.numbers[-1]}"
        if self.variable and self.variable in directory:
            directory = directory[: directory.index(self.variable)].rpartition("/")[0]
        name = re.sub(r"[^\w.-]+", "_", os.path.relpath(self.log, directory or "."))
        return os.path.abspath(os.path.join(directory, "q", name + (f".{numbers}" if self.variable else "")))

    @property
    def script(self):
        return os.path.join(self.work, "job.sh")

    def log_of(self, number):
        return self.log.replace(self.variable, str(number)) if self.variable else self.log

    def title(self, number):
        """How messages call one job."""
        if not self.variable:
            return f"job {self.name}"
        return f"job {number} of {self.numbers[0]}:{self.numbers[-1]}"

    def quoted(self, argument):
        """An argument as bash reads it back exactly, the number in place of the variable."""
        if not self.variable or self.variable not in argument:
            return quote(argument)
        return '"${JOB}"'.join(quote(p) if p else "" for p in argument.split(self.variable))

    def write_script(self):
        """Write the script of a job; logs and exit codes of an earlier call, which would mislead, go.

        Raises UserError for a log, or what would be its directory of ours, that no call wrote.
        """
        logs = list(map(self.log_of, self.numbers))
        begins = [(log, LOG_BEGINS) for log in logs if os.path.lexists(log)]
        if os.path.lexists(self.work) and (not os.path.isdir(self.work) or os.listdir(self.work)):
            begins.append((self.script, _SCRIPT.partition(".")[0]))
        for path, beginning in begins:
            if not begins_with(path, beginning):
                raise UserError(f"{path}: is there, and not written by a job; move it away or name another log")
        shutil.rmtree(self.work, ignore_errors=True)
        try:
            for directory in (*{os.path.dirname(log) or "." for log in logs}, self.work, self.work):
                # A call beside this one may remove the directory of both, once, as it ends.
                with contextlib.suppress(FileNotFoundError):
                    os.makedirs(directory, exist_ok=True)
            for log in filter(os.path.exists, logs):
                os.remove(log)
        except OSError as err:
            raise UserError(f"{self.log}: no log can be written there: {err.strerror}") from None
        command, here = " ".join(map(self.quoted, self.command)), quote(os.getcwd())
        text = _SCRIPT.format(log=self.quoted(self.log), begins=LOG_BEGINS, cwd=here, command=command)
        # Arguments and paths are bytes, which need not be UTF-8.
        with open(self.script + ".tmp", "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(text)
        os.replace(f.name, self.script)

    def clean(self):
        """Remove the launcher's own files after success."""
        shutil.rmtree(self.work, ignore_errors=True)
        with contextlib.suppress(OSError):  # another call has files there
            os.rmdir(os.path.dirname(self.work))


def begins_with(path, text):
    """Whether a file begins with `text`, or is empty."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read(len(text)) in ("", text)
    except OSError:
        return False


def parse_call(arguments, resources):
    """The Call of ``[JOB=1:n] LOG COMMAND [ARG...]``. Raises UserError for what is missing or impossible."""
    arguments, variable, numbers = list(arguments), None, [1]
    if arguments and (match := RANGE.fullmatch(arguments[0])):
        variable, first, last = match[1], int(match[2]), int(match[3] or match[2])
        if not 1 <= first <= last:
            raise UserError(f"{arguments[0]}: give a range such as {variable}=1:4, from 1 on and not falling")
        numbers = list(range(first, last + 1))
        del arguments[0]
    elif arguments and re.fullmatch(r"[A-Za-z_]\w*=.*", arguments[0]):
        raise UserError(f"{arguments[0]}: is no range of jobs; it has the form JOB=1:4")
    if len(arguments) < 2:
        raise UserError("give [JOB=1:n] LOG COMMAND [ARG...]: the log, and the command to run")
    log, *command = arguments
    if len(numbers) > 1 and variable not in log:
        raise UserError(f"{log}: {len(numbers)} jobs would write one log; put {variable} into its name")
    return Call(log, command, variable, numbers, resources)


def tail(path, lines=15):
    """The last lines of a log; a carriage return starts a line again, as on a terminal."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as f:
            last = collections.deque(f, lines)
    except OSError as err:
        return f"(no log: {err.strerror})\n"
    return "".join(line.rstrip("\r\n").rpartition("\r")[2] + "\n" for line in last)
