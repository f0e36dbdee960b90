"""Work in several processes. One that is killed ends in an error that says so, never in a wait without end."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait

from espnet_llmvq.base.errors import UserError, exit_with

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def exit_reason(code):
    """What the exit code of a process means: killed by a signal above 128, as bash has it, or below 0."""
    code = 128 - code if code < 0 else code
    if code > 128:
        more = ", often for lack of memory" if code == 137 else ""
        return f"was killed by signal {code - 128}{more}"
    return f"ended with exit code {code}"


def end_with_parent():
    """End this worker, by SIGTERM, when the process that started it is gone: it would work on for nobody."""
    with contextlib.suppress(AttributeError):  # Linux does it at once, also within a long call of a library
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    sentinel = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (wait([sentinel]), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()


def run_jobs(work, *jobs, nj, desc, chunksize=8):
    """Yield work(*job) in order, in `nj` spawned processes, with a progress bar on stderr.

    jobs: as `map` takes them, sequences of equal length. Raises UserError if a process is killed.
    """
    from tqdm import tqdm

    total, done = len(jobs[0]), 0
    bar = partial(tqdm, total=total, desc=desc, unit="utt", mininterval=1)
    if nj <= 1:
        yield from bar(map(work, *jobs))
        return
    # spawn: forking a process that has threads (tqdm, torch) can hang
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(nj, mp_context=spawn, initializer=end_with_parent) as pool:
            for result in bar(pool.map(work, *jobs, chunksize=chunksize)):
                yield result
                done += 1
    except BrokenProcessPool:
        raise UserError(
            f"{desc}: one of {nj} worker processes was killed after {done} of {total} utterances, often for lack of "
            "memory; run again with a smaller --nj"
        ) from None


def _call(work, arguments, sender):
    """Entry of a forked process: a UserError is one line."""
    end_with_parent()
    try:
        sender.send(work(*arguments))
    except Exception as err:
        exit_with(err)


def run_forked(work, jobs, nj, what):
    """{name: work(*arguments)} of {name: arguments}, each in a process forked from this one, at most `nj` at once.

    what: how messages call a job. Raises UserError that names the first job that fails; the others are ended.
    """
    fork, waiting, running, found = multiprocessing.get_context("fork"), list(jobs.items()), {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < nj:
                name, arguments = waiting.pop(0)
                receiver, sender = fork.Pipe(False)
                process = fork.Process(target=_call, args=(work, arguments, sender))
                process.start()
                sender.close()  # so that the end of the process is the end of what can be received
                running[receiver] = (name, process)
            for receiver in wait(list(running)):
                name, process = running.pop(receiver)
                try:
                    found[name] = receiver.recv()
                except EOFError:
                    pass  # its exit code says why
                receiver.close()
                process.join()
                if process.exitcode != 0:
                    raise UserError(
                        f"{what} {name} {exit_reason(process.exitcode)}; run again: what is finished is kept"
                    )
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()
    return {name: found[name] for name in jobs}
