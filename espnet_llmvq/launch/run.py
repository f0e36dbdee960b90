"""Running all jobs of a call on a back end."""

import importlib
import sys

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.launch.call import tail
from espnet_llmvq.launch.follow import following


def make_back_end(name, config, array_limit, machines):
    """The back end of a name. config, array_limit: of queueing systems, as `Queueing` takes them; machines: of ssh."""
    back_end = getattr(importlib.import_module(f"espnet_llmvq.launch.{name}"), name.capitalize())
    if name == "local":
        return back_end()
    return back_end(machines) if name == "ssh" else back_end(config, array_limit=array_limit)


def run_call(back_end, call, retries=0, follow=False):
    """Run all jobs of a call, those that fail up to `retries` times more.

    Raises UserError that names the first job that failed, with the end of its log.
    """
    back_end.prepare(call)
    attempt, left = 1, call.numbers
    with following(call.log_of(call.numbers[0]) if follow and len(call.numbers) == 1 else None):
        while True:
            failed = back_end.run(call, left, attempt)
            if not failed or attempt > retries:
                break
            left = sorted(failed)
            first = left[0]
            print(f"{call.title(first)} {failed[first]}; {len(left)} to run again", file=sys.stderr, flush=True)
            attempt += 1
    if not failed:
        call.clean()
        return
    first, number = min(failed), len(failed)
    often = f" in attempt {attempt}" if attempt > 1 else ""
    others = ", ".join(map(str, sorted(failed)[1:11])) + (", ..." if number > 11 else "")
    more = f"\n{number} of {len(call.numbers)} jobs failed, also {others}" if number > 1 else ""
    log = call.log_of(first)
    raise UserError(f"{call.title(first)} {failed[first]}{often}; the end of {log}:\n{tail(log)}{more}".rstrip("\n"))
