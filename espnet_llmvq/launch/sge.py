"""Back end `sge`: Grid Engine's qsub, qstat, qacct, qdel."""

import re

from espnet_llmvq.launch.queueing import Queueing, ask


class Sge(Queueing):
    CONFIG = """
        command qsub -V -S /bin/bash -cwd -j y
        option mem=* -l mem_free=$0
        option num_threads=* -pe smp $0
        option time=* -l h_rt=$0
        option gpu=* -l gpu=$0
        option max_jobs_run=* -tc $0
    """
    INDEX = "SGE_TASK_ID"

    def array_limit(self):
        found = re.search(r"^max_aj_tasks\s+(\d+)", ask(["qconf", "-sconf"]).stdout, re.MULTILINE)
        return int(found[1]) if found and int(found[1]) else 75000  # the default of Grid Engine; 0 is no limit

    def array_flags(self, count, at_once):
        return [] if count == 1 else ["-t", f"1-{count}"]

    def name_flags(self, name, work):
        # A name must not begin with a digit.
        return ["-N", re.sub(r"^(?=\d)", "j", name), "-o", work]

    def job_id(self, output):
        found = re.search(r"Your job(?:-array)? (\d+)", output)
        return found[1] if found else None

    def active(self, ids):
        done = ask(["qstat", "-u", "*", "-g", "d"])
        if done.returncode:
            return None
        found = set()
        for line in done.stdout.splitlines():
            fields = line.split()
            # One in an error state waits until a person looks at it: it counts as ended.
            if len(fields) > 4 and fields[0] in ids and "E" not in fields[4]:
                # The last column is the array index; without an array it holds the number of slots.
                found.add((fields[0], int(fields[-1]) if self._in_array(fields) else 1))
        return found

    @staticmethod
    def _in_array(fields):
        # job prior name user state date time [queue] slots [index]: the queue's name is no number.
        numbers = [field for field in fields[7:] if field.isdecimal()]
        return len(numbers) == 2

    def reason(self, job, index):
        done = ask(["qacct", "-j", job, "-t", str(index)])
        if done.returncode:
            done = ask(["qacct", "-j", job])
        facts = dict(re.findall(r"^(failed|exit_status|maxvmem)\s+(.*?)\s*$", done.stdout, re.MULTILINE))
        return ", ".join(f"{name} {value}" for name, value in facts.items())

    def cancel(self, ids):
        ask(["qdel", *ids])
