"""Jobs of a queueing system: submit arrays, wait, and tell what became of each. For `slurm`, `sge` and `pbs`."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.base.processes import exit_reason
from espnet_llmvq.launch.call import quote
from espnet_llmvq.launch.config import load_config, submit_command

# Runs the job of an array task; its exit code is left in a file, renamed so that a reader sees all of it or nothing.
_TASK = """\
#!/usr/bin/env bash
numbers=({numbers})
number=${{numbers[{index}]}}
status={work}/status.{attempt}.${{number}}
bash {script} "${{number}}" {attempt}
code=$?
echo "${{code}} ${{HOSTNAME}}" >"${{status}}.tmp" && mv "${{status}}.tmp" "${{status}}"
exit "${{code}}"
"""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SUBMITTED = "submitted.json"  # ids of jobs that were not yet seen to end


def ask(command):
    """Run a command of the queueing system; return its CompletedProcess. UserError if it is not there."""
    try:
        # In a session of its own: Ctrl-C is ours to answer.
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", start_new_session=True
        )
    except OSError as err:
        raise UserError(f"{command[0]}: {err.strerror}; is this a machine that submits jobs to the cluster?") from None


@contextlib.contextmanager
def signals_held():
    """Keep a signal that would end this process until the block is over, so that no submitted job is forgotten."""
    held, names = [], [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
    old = {n: signal.signal(n, lambda number, frame: held.append(number)) for n in names}
    try:
        yield
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)
    for number in held[:1]:
        signal.raise_signal(number)


class Queueing:
    """Back end of a queueing system. A subclass knows its commands:

    CONFIG: text of the built-in config. INDEX: bash expression of the array index from 1, or 1 without an array.
    array_limit(): the most tasks of an array.
    array_flags(count, most at once): list of flags, [] for a single job.
    name_flags(name, work): list of flags for the job's name and the place of its output.
    job_id(output): the id in what the submission printed, None if there is none.
    active(ids): {(id, index)} of tasks that wait or run, or None if the system does not answer now.
    reason(id, index): what the system knows of the end of a task, "" if nothing.
    cancel(ids): end jobs.
    """

    def __init__(self, config=None, interval=5.0, grace=60.0, array_limit=None):
        """config: file with the system's flags. array_limit: most tasks of an array; None asks the system.

        interval: seconds between looks, of which the first come sooner. grace: seconds that the file system may
        take to show the exit code of a job that has left the queue.
        """
        self.config = load_config(config, self.CONFIG)
        self.interval, self.grace, self.limit = interval, grace, array_limit

    def prepare(self, call):
        self._refuse_leftovers(call)
        call.write_script()

    def run(self, call, numbers, attempt):
        """Run the jobs of `call` with these numbers; return {number: why it failed}."""
        size = self.limit or self.array_limit()
        chunks = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        # The limit of jobs at once is one of an array, so arrays then follow each other.
        together = [[chunk] for chunk in chunks] if call.resources.max_jobs_run else [chunks]
        failed = {}
        for group in together:
            failed.update(self._run_group(call, group, attempt))
        return failed

    def _run_group(self, call, chunks, attempt):
        jobs, failed = {}, None  # jobs: number -> (id, index)
        try:
            for chunk in chunks:
                with signals_held():
                    job = self._submit(call, chunk, attempt)
                    jobs.update({number: (job, index) for index, number in enumerate(chunk, 1)})
                    self._remember(call, jobs)
            failed = self._wait(call, jobs, attempt)
            return failed
        finally:
            # Also after failures: a task in an error state would stay in the queue.
            if failed != {} and jobs:
                self.cancel(sorted({job for job, _ in jobs.values()}))
            self._remember(call, {})

    def _submit(self, call, chunk, attempt):
        """Submit one array; return its id."""
        script = os.path.join(call.work, f"submit.{attempt}.{chunk[0]}.sh")
        text = _TASK.format(
            numbers=" ".join(map(str, chunk)),
            index=f"{self.INDEX} - 1" if len(chunk) > 1 else "0",
            work=quote(call.work),
            attempt=attempt,
            script=quote(call.script),
        )
        with open(script, "w", encoding="utf-8", errors="surrogateescape") as f:
            f.write(text)
        flags = self.name_flags(call.name, call.work) + self.array_flags(len(chunk), call.resources.max_jobs_run)
        command = [*submit_command(self.config, call.resources), *flags, script]
        done = ask(command)
        job = self.job_id(done.stdout) if done.returncode == 0 else None
        if job is None:
            said = (done.stderr or done.stdout).strip()
            raise UserError(f"`{shlex.join(command)}` failed with exit code {done.returncode}: {said}")
        return job

    def _wait(self, call, jobs, attempt):
        """Wait for every job; return {number: why it failed}."""
        waiting, vanished, failed, pause = dict(jobs), {}, {}, min(0.2, self.interval)
        while waiting:
            # The queue first: what it no longer has, has written its exit code before.
            active = self.active(sorted({job for job, _ in waiting.values()}))
            now = time.monotonic()
            for number, task in list(waiting.items()):
                status = self._status(call, number, attempt)
                if status is not None:
                    code, host = status
                    if code:
                        failed[number] = f"{exit_reason(code)} on {host}"
                    del waiting[number]
                elif active is not None and task not in active:
                    if now - vanished.setdefault(number, now) >= self.grace:
                        failed[number] = self._lost(call, *task)
                        del waiting[number]
                else:
                    vanished.pop(number, None)
            if waiting:
                time.sleep(pause)
                pause = min(self.interval, 1.5 * pause)
        return failed

    @staticmethod
    def _status(call, number, attempt):
        """(exit code, host) that a job left, None if it left none yet."""
        try:
            with open(os.path.join(call.work, f"status.{attempt}.{number}"), encoding="utf-8") as f:
                code, _, host = f.read().strip().partition(" ")
            return int(code), host
        except (OSError, ValueError):
            return None

    def _lost(self, call, job, index):
        known = self.reason(job, index)
        more = f": {known}" if known else ""
        return f"was ended by the queueing system{more} (job {job}, its output is in {call.work})"

    def _remember(self, call, jobs):
        """Keep the ids of running jobs in a file, for a launcher that comes after one that was killed."""
        path = os.path.join(call.work, SUBMITTED)
        if jobs:
            write_text(path, json.dumps(sorted({job for job, _ in jobs.values()})))
        elif os.path.exists(path):
            os.remove(path)

    def _refuse_leftovers(self, call):
        path = os.path.join(call.work, SUBMITTED)
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8") as f:
            ids = json.load(f)
        active = self.active(ids)
        if active is None or active:
            raise UserError(
                f"jobs {' '.join(ids)} of an earlier call, which was killed, may still work for {call.log}: "
                f"wait for them or cancel them; if they are gone, remove {path}"
            )
