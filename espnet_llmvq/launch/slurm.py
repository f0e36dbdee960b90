"""Back end `slurm`: sbatch, squeue, sacct, scancel."""

import os
import re

from espnet_llmvq.launch.queueing import Queueing, ask


class Slurm(Queueing):
    CONFIG = """
        command sbatch --export=ALL
        option mem=* --mem=$0
        option num_threads=* --cpus-per-task=$0
        option time=* --time=$0
        option gpu=* --gres=gpu:$0
        option num_nodes=* --nodes=$0 --ntasks-per-node=1
        option max_jobs_run=*  # becomes a part of --array
    """
    INDEX = "SLURM_ARRAY_TASK_ID"

    def array_limit(self):
        """MaxArraySize bounds the index, which begins at 0; Slurm's default of it is 1001."""
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]).stdout, re.MULTILINE)
        return max(1, int(found[1]) - 1) if found else 1000

    def array_flags(self, count, at_once):
        if count == 1:
            return []
        return [f"--array=1-{count}" + (f"%{at_once}" if at_once else "")]

    def name_flags(self, name, work):
        output = os.path.join(work.replace("%", "%%"), "slurm.%j.out")  # %X of a directory's name would be replaced
        return ["--parsable", f"--job-name={name}", f"--output={output}", "--open-mode=append"]

    def job_id(self, output):
        # --parsable prints "ID" or "ID;CLUSTER"
        found = re.search(r"^(\d+)(;|$)", output.strip())
        return found[1] if found else None

    def active(self, ids):
        done = ask(["squeue", "--noheader", "--array", "--jobs", ",".join(ids), "--format=%F %K"])
        if done.returncode:
            # Said of a job that ended minutes ago; with several ids, only if all did.
            return set() if "Invalid job id" in done.stderr else None
        found = set()
        for line in done.stdout.splitlines():
            job, index = line.split()
            found.add((job, int(index) if index.isdecimal() else 1))
        return found

    def reason(self, job, index):
        columns = "--format=JobID,State,ExitCode"
        done = ask(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", columns])
        for line in done.stdout.splitlines() if done.returncode == 0 else ():
            task, _, rest = line.partition("|")
            if task in (f"{job}_{index}", job):
                state, _, code = rest.partition("|")
                return f"{state}, exit code {code}"
        return ""

    def cancel(self, ids):
        ask(["scancel", *ids])
