"""Show packed systems on a local page: speak or choose a file, see the text and the tokens the LLM got.

Nothing leaves this machine, and no sound is kept. Ctrl-C ends it.
"""

import contextlib
import sys

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, positive


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("packs", nargs="+", metavar="PACK", help="packed system (stage 16); several can be switched")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer on; another lets other machines in")
    parser.add_argument("--port", type=int, default=7860, help="0: any free one")
    parser.add_argument("--max_mb", type=float, default=20.0, help="megabytes of a sound file")
    parser.add_argument("--max_seconds", type=float, default=60.0, help="of a recording")
    parser.add_argument("--max_visitors", type=positive, default=12, help="recordings that may wait at once")
    parser.add_argument("--word_list", help="file with a word or phrase a line: the page says whether it was heard")
    parser.add_argument("--num_beams", type=int, help="beam; not given: as packed")
    parser.add_argument("--draft", choices=("none", "ctc"), help="what the LLM begins with; not given: as packed")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to use a GPU")
    return parser


def check(args):
    """Raise UserError for options out of range."""
    for name, lowest in {"max_mb": 0.01, "max_seconds": 1.0, "num_beams": 1}.items():
        value = getattr(args, name)
        if value is not None and not lowest <= value < float("inf"):
            raise UserError(f"--{name} {value}: expected at least {lowest}")
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: expected 0 to 65535")


def read_words(path):
    """Words and phrases of a file, a line each. Raises UserError."""
    from espnet_llmvq.score.files import read_lines

    return list(dict.fromkeys(text for _, line in read_lines(path, "utf-8") if (text := " ".join(line.split()))))


def main(argv=None):
    args = get_parser().parse_args(argv)
    check(args)
    words = read_words(args.word_list) if args.word_list else []
    from espnet_llmvq.bundle.files import read_manifest
    from espnet_llmvq.demo.guard import is_local
    from espnet_llmvq.demo.serve import address_of, listen, server_of

    for pack in args.packs:  # before anything is loaded
        read_manifest(pack)
    import starlette  # noqa: F401 (a missing one is told before systems are loaded)
    import uvicorn  # noqa: F401

    with contextlib.closing(listen(args.host, args.port)) as sock:
        import torch

        from espnet_llmvq.demo.app import Limits, make_app
        from espnet_llmvq.demo.system import load_systems

        torch.set_num_threads(args.threads)
        # Libraries may print when they are loaded; standard output is for the address.
        with contextlib.redirect_stdout(sys.stderr):
            print(f"loading {', '.join(args.packs)}", flush=True)
            device = "cuda" if args.ngpu else "cpu"
            systems = load_systems(args.packs, device=device, num_beams=args.num_beams, draft=args.draft)
        if not is_local(args.host):
            print(
                f"warning: with --host {args.host} other machines can use this page, and what they send is not "
                "encrypted; browsers give them no microphone",
                file=sys.stderr,
            )
        app = make_app(systems, Limits(args.max_mb, args.max_seconds, args.max_visitors), words, args.host)
        print(f"open {address_of(sock, args.host)} in a browser; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server_of(app).run(sockets=[sock])
