"""Run a command on this machine or on a cluster, once or for each number of a range, in Kaldi's call form.

launch local JOB=1:4 exp/log/align.JOB.log COMMAND --part JOB runs it four times with 1 to 4 in place of JOB. Every
argument reaches the command as it is given; for a pipe or a redirection write bash -c '...'. Options go before the log.
"""

import signal
import sys

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, positive

BACK_ENDS = ("local", "slurm", "sge", "pbs", "ssh")


def get_parser():
    parser = Parser(description=__doc__, usage="%(prog)s BACK_END [options] [JOB=1:n] LOG COMMAND [ARG ...]")
    parser.add_argument("back_end", choices=BACK_ENDS, help="where jobs run")
    parser.add_argument("--mem", help='memory of a job, e.g. "4G" (queueing systems)')
    parser.add_argument("--gpu", type=int, default=0, help="GPUs of a job")
    parser.add_argument("--num_nodes", type=positive, default=1, help="machines of a job (slurm)")
    parser.add_argument("--num_threads", type=positive, default=1, help="cores of a job")
    parser.add_argument("--time", help='longest time of a job, e.g. "4:00:00" (queueing systems)')
    parser.add_argument("--max_jobs_run", type=positive, help="jobs at once; empty: as many as there is room for")
    parser.add_argument("--retries", type=int, default=0, help="how often a job that failed is run again")
    parser.add_argument("--config", help="flags of the queueing system, in the format of Kaldi's queue.conf")
    parser.add_argument("--max_array_size", type=positive, help="most jobs of an array; empty: what the system says")
    parser.add_argument("--machines", default="conf/machines", help="hosts for ssh, one a line: HOST [JOBS]")
    parser.add_argument("--follow", action="store_true", help="print the log of a single job as it grows")
    parser.add_argument("call", nargs="*", help="[JOB=1:n] LOG COMMAND [ARG ...]")
    return parser


def split_options(argv, parser):
    """(our options, the call): options may stand before and behind JOB=1:n, not behind the log."""
    from espnet_llmvq.launch.call import RANGE

    flags = {s for a in parser._actions if a.nargs == 0 for s in a.option_strings}
    own, call, i = list(argv[:1]), [], 1
    while i < len(argv):
        if argv[i].startswith("-"):
            width = 1 if argv[i].replace("-", "_") in {f.replace("-", "_") for f in flags} or "=" in argv[i] else 2
            own += argv[i : i + width]
            i += width
        elif not call and RANGE.fullmatch(argv[i]):
            call.append(argv[i])
            i += 1
        else:
            call += argv[i:]
            break
    return own, call


def _interrupt(signum, frame):
    raise KeyboardInterrupt(signum)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = get_parser()
    own, call = split_options(argv, parser)
    args = parser.parse_args(own)
    from espnet_llmvq.launch.call import Resources, parse_call
    from espnet_llmvq.launch.run import make_back_end, run_call

    if args.gpu < 0 or args.retries < 0:
        raise UserError("--gpu and --retries must not be negative")
    resources = Resources(args.mem, args.gpu, args.num_threads, args.time, args.max_jobs_run, args.num_nodes)
    call = parse_call(call, resources)
    back_end = make_back_end(args.back_end, args.config, args.max_array_size, args.machines)
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) != signal.SIG_IGN:  # nohup
            signal.signal(name, _interrupt)
    try:
        run_call(back_end, call, args.retries, args.follow)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        print(f"error: stopped by signal {int(number)}; its jobs are cancelled", file=sys.stderr)
        return 128 + int(number)
    return 0
