"""Back end `local`: processes of this machine, as many at once as it has cores (or GPUs) for them."""

import os
import signal
import subprocess

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.launch.pool import Pool, bash


def gpus():
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES lists them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


class Local(Pool):
    def places(self, resources):
        """A place is the GPUs of a job, None if it takes none. mem and time are not enforced here."""
        if resources.gpu:
            names = gpus()
            if len(names) < resources.gpu:
                raise UserError(f"--gpu {resources.gpu}: this machine offers {len(names)}")
            return [
                ",".join(names[i : i + resources.gpu]) for i in range(0, len(names) - resources.gpu + 1, resources.gpu)
            ]
        # With a limit given, its number counts, as in Kaldi's run.pl.
        cores = len(os.sched_getaffinity(0)) // resources.num_threads
        return [None] * (resources.max_jobs_run or max(1, cores))

    def start(self, call, number, attempt, place):
        env = os.environ if place is None else {**os.environ, "CUDA_VISIBLE_DEVICES": place}
        return bash([call.script, str(number), str(attempt)], env=env)

    def stop(self, process, call, number, place):
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
