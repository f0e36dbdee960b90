"""Transcribe sound files with a packed system: text, JSON with word times, SRT or VTT.

Files that cannot be read are reported; the others are transcribed, and the exit status is 1.
"""

import contextlib
import os
import sys
import time

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_outputs, write_text
from espnet_llmvq.cli.parser import Parser, add_overwrite

FORMATS = ("text", "json", "srt", "vtt")


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("model", help="packed system (stage 16)")
    parser.add_argument("audio", nargs="+", help="sound files that libsndfile reads; channels are averaged")
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the output")
    parser.add_argument("--out_dir", help="write a file for each sound file here; not given: print")
    parser.add_argument("--num_beams", type=int, help="beam; not given: as packed")
    parser.add_argument("--ctc_weight", type=float, help="of the CTC score in choosing, 0 to 1; not given: as packed")
    parser.add_argument("--draft", choices=("none", "ctc"), help="what the LLM begins with; not given: as packed")
    parser.add_argument(
        "--draft_accept",
        type=float,
        help="so many times as probable as the LLM's best a token of the draft must be to stand; not given: as packed",
    )
    parser.add_argument(
        "--max_segment", type=float, help="seconds; longer recordings are cut at pauses; not given: as packed"
    )
    parser.add_argument("--min_pause", type=float, default=0.4, help="seconds of a pause to cut at")
    parser.add_argument(
        "--margin", type=float, default=0.02, help="seconds of a pause that stay beside speech; as in training is best"
    )
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio decoded at once, padding included")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to use a GPU")
    add_overwrite(parser)
    return parser


def output_files(paths, out_dir, suffix):
    """{sound file: file to write}. Raises UserError when two would write the same one."""
    taken = {}
    for path in paths:
        target = os.path.join(out_dir, os.path.splitext(os.path.basename(path))[0] + suffix)
        if target in taken:
            raise UserError(f"{taken[target]} and {path} would both be written to {target}; give them one by one")
        taken[target] = path
    return {path: target for target, path in taken.items()}


def check(args):
    """Raise UserError for options out of range."""
    if args.out_dir and os.path.exists(args.out_dir) and not os.path.isdir(args.out_dir):
        raise UserError(f"--out_dir {args.out_dir} is not a directory")
    if args.format in ("srt", "vtt") and len(args.audio) > 1 and not args.out_dir:
        raise UserError(f"--format {args.format} of several files needs --out_dir")
    for name in ("ctc_weight", "draft_accept"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} {value}: expected a number from 0 to 1")
    least = {"num_beams": 1, "max_segment": 1.0, "min_pause": 0.02, "margin": 0.0, "batch_seconds": 0.0}
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and not value >= lowest:
            raise UserError(f"--{name} {value}: expected at least {lowest}")


def header_seconds(paths):
    """Seconds of audio as headers tell; unreadable files count nothing."""
    from espnet_llmvq.data.audio import AudioError, info

    total = 0.0
    for path in paths:
        with contextlib.suppress(AudioError):
            total += info(path).duration
    return total


def main(argv=None):
    args = get_parser().parse_args(argv)
    check(args)
    from espnet_llmvq.transcribe.transcript import FORMATS as WRITERS

    suffix, write = WRITERS[args.format]
    paths = list(dict.fromkeys(args.audio))
    targets = output_files(paths, args.out_dir, suffix) if args.out_dir else {}
    check_outputs(targets.values(), paths)
    import torch
    from tqdm import tqdm

    from espnet_llmvq.score.files import some
    from espnet_llmvq.transcribe import Recogniser

    torch.set_num_threads(args.threads)
    # Libraries may print when they are loaded; standard output is for transcripts.
    with contextlib.redirect_stdout(sys.stderr):
        recogniser = Recogniser(
            args.model, "cuda" if args.ngpu else "cpu", args.num_beams, args.ctc_weight, args.max_segment,
            args.min_pause, args.margin, args.batch_seconds, args.draft, args.draft_accept,
        )  # fmt: skip
    start, failed = time.perf_counter(), 0
    shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=header_seconds(paths), desc="transcribe", bar_format=shape, mininterval=1) as bar:

        def progress(seconds):
            bar.update(seconds)
            if bar.n > 0:
                bar.set_postfix(RTF=f"{(time.perf_counter() - start) / bar.n:.3f}", refresh=False)

        timed = args.format != "text" and recogniser.model.ctc is not None
        for path, result in recogniser.transcribe(paths, timed, progress):
            if isinstance(result, UserError):
                failed += 1
                bar.write(f"error: {result}", file=sys.stderr)
                continue
            cut_off = [f"{s.start:.1f} to {s.end:.1f} s" for s in result.segments if s.at_limit]
            if cut_off:
                reached = f"{len(cut_off)} segments reached the length limit: {some(cut_off)}"
                bar.write(f"warning: {path}: {reached}", file=sys.stderr)
            if args.out_dir:
                try:
                    write_text(targets[path], write(result))
                except OSError as err:
                    raise UserError(f"{targets[path]}: cannot be written: {err.strerror}") from None
            elif args.format == "text" and len(paths) > 1:
                bar.write(f"{path}\t{result.text}", file=sys.stdout)
            else:
                bar.write(write(result), file=sys.stdout, end="")
    if failed:
        raise UserError(f"{failed} of {len(paths)} sound files could not be transcribed")
