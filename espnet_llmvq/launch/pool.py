"""Jobs as processes of this one: each takes a free place, runs, and gives it back. For `local` and `ssh`."""

import queue
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from espnet_llmvq.base.processes import exit_reason


class Pool:
    """Back end with a number of places. A subclass gives `places` and `start`, and may stop what it started.

    places(resources): list of places, one for each job that may run at once.
    start(call, number, attempt, place): a Popen of one job.
    stop(process, call, number, place): end a running job.
    """

    def prepare(self, call):
        call.write_script()

    def run(self, call, numbers, attempt):
        """Run the jobs of `call` with these numbers; return {number: why it failed}."""
        places = self.places(call.resources)
        if call.resources.max_jobs_run:
            places = places[: call.resources.max_jobs_run]
        free, running, lock, stopping = queue.SimpleQueue(), {}, threading.Lock(), threading.Event()
        for place in places:
            free.put(place)

        def job(number):
            place = free.get()
            try:
                with lock:
                    if stopping.is_set():
                        return "was not started"
                    process = self.start(call, number, attempt, place)
                    running[number] = (process, place)
                code = process.wait()
                with lock:
                    del running[number]
                # Popen tells a signal by a negative code, bash by 128 more.
                return self.reason(code if code >= 0 else 128 - code, place) if code else None
            except OSError as err:
                return f"could not be started: {err.strerror}"
            finally:
                free.put(place)

        pool = ThreadPoolExecutor(min(len(places), len(numbers)))
        try:
            results = list(pool.map(job, numbers))
        except BaseException:
            with lock:
                stopping.set()
                for number, (process, place) in running.items():
                    self.stop(process, call, number, place)
            raise
        finally:
            pool.shutdown()
        return {number: why for number, why in zip(numbers, results) if why}

    def reason(self, code, place):
        return exit_reason(code)


def bash(arguments, **options):
    """A Popen of bash in a session of its own, so that it can be stopped with all it started.

    Files stay open: what outlives a killed run still holds the lock of its experiment.
    """
    return subprocess.Popen(["bash", *arguments], start_new_session=True, close_fds=False, **options)
