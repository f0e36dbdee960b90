"""Back end `pbs`: OpenPBS and PBS Professional: qsub, qstat, qdel."""

import re
from dataclasses import replace

from espnet_llmvq.launch.queueing import Queueing, ask


class Pbs(Queueing):
    CONFIG = """
        command qsub -V -S /bin/bash -j oe
        option mem=* -l mem=$0
        option num_threads=* -l ncpus=$0
        option time=* -l walltime=$0
        option gpu=* -l ngpus=$0
        option max_jobs_run=*  # becomes a part of -J
    """
    INDEX = "PBS_ARRAY_INDEX"

    def run(self, call, numbers, attempt):
        # PBS writes 4G as 4gb.
        mem = re.sub(r"(?i)^(\d+)([kmgt])b?$", lambda m: f"{m[1]}{m[2].lower()}b", call.resources.mem or "")
        return super().run(replace(call, resources=replace(call.resources, mem=mem or None)), numbers, attempt)

    def array_limit(self):
        found = re.search(r"max_array_size = (\d+)", ask(["qstat", "-Bf"]).stdout)
        return int(found[1]) if found else 10000  # the default of PBS

    def array_flags(self, count, at_once):
        return [] if count == 1 else ["-J", f"1-{count}" + (f"%{at_once}" if at_once else "")]

    def name_flags(self, name, work):
        return ["-N", name, "-o", work]

    def job_id(self, output):
        # "12.server", of an array "12[].server"
        found = re.match(r"(\d+(?:\[\])?)", output.strip())
        return found[1] if found else None

    def active(self, ids):
        done = ask(["qstat", "-t"])
        if done.returncode:
            return None
        found = set()
        for line in done.stdout.splitlines():
            match = re.match(r"(\d+)(\[(\d*)\])?\.?\S*\s.*\s([A-Z])\s+\S+\s*$", line)
            if match and match[4] not in "FX" and (match[2] is None or match[3]):
                job = match[1] + ("[]" if match[2] else "")
                if job in ids:
                    found.add((job, int(match[3] or 1)))
        return found

    def reason(self, job, index):
        done = ask(["qstat", "-x", "-f", job.replace("[]", f"[{index}]")])
        facts = dict(re.findall(r"^\s*(Exit_status|comment) = (.*?)\s*$", done.stdout, re.MULTILINE))
        return ", ".join(f"{name} {value}" for name, value in facts.items())

    def cancel(self, ids):
        ask(["qdel", *ids])
