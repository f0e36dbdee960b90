"""Make an out-of-domain version of a test set: other tempo, a room, noise, in this order.

What was drawn for each utterance is written to DEST/perturbation.tsv, the audio to DEST/audio as
16-bit WAV. Each utterance draws from its own random generator, so --nj changes nothing.
"""

import sys
from functools import partial

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.data import perturb

COLUMNS = ("utt", "source", "tempo", "rt60_s", "noise", "snr_db")


def make_copies(src, options, suffix, seed):
    copies = []
    for utt in src.utts:
        rng = perturb.utterance_rng(seed, utt)
        drawn = {}
        if options["tempo"]:
            drawn["tempo"] = options["tempo"][int(rng.integers(len(options["tempo"])))]
        if options["rt60"]:
            drawn["rt60_s"] = round(float(rng.uniform(*options["rt60"])), 3)
        if options["noise"]:
            drawn["noise"] = options["noise"][int(rng.integers(len(options["noise"])))]
            drawn["snr_db"] = round(float(rng.uniform(*options["snr"])), 2)
        copies.append(perturb.Copy(utt, utt + suffix, src.utt2spk[utt], **drawn))
    rows = [COLUMNS]
    for copy in sorted(copies, key=lambda c: c.utt):
        row = copy.utt, copy.source, copy.tempo, copy.rt60_s, copy.noise, copy.snr_db
        rows.append(["-" if value is None else str(value) for value in row])
    return copies, {"perturbation.tsv": "".join("\t".join(row) + "\n" for row in rows)}


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("src", metavar="SRC", help="data directory")
    parser.add_argument("dest", metavar="DEST", help="data directory to write")
    parser.add_argument("--noise", default="", help=f'kinds to draw from, e.g. "pink babble"; of {perturb.NOISE_KINDS}')
    parser.add_argument("--snr", type=float, nargs=2, default=[5.0, 15.0], metavar=("LOW", "HIGH"), help="dB")
    parser.add_argument("--rt60", type=float, nargs=2, metavar=("LOW", "HIGH"), help="seconds")
    parser.add_argument("--tempo", type=float, nargs=2, metavar=("SLOW", "FAST"), help="each utterance gets one")
    parser.add_argument("--suffix", default="", help="put behind utterance ids")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    return parser


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    # argparse takes the value in "--suffix -noise" for an option unless it is joined by "=".
    if "--suffix" in argv[:-1]:
        at = argv.index("--suffix")
        argv[at : at + 2] = [f"--suffix={argv[at + 1]}"]
    args = get_parser().parse_args(argv)
    kinds = args.noise.replace(",", " ").split()
    for kind in kinds:
        check_name("noise", kind, perturb.NOISE_KINDS)
    options = {
        "noise": kinds,
        "snr": args.snr if kinds else None,
        "rt60": args.rt60,
        "tempo": args.tempo,
        "suffix": args.suffix,
    }
    if not (kinds or args.rt60 or args.tempo):
        raise UserError("nothing to do: give at least one of --noise, --rt60, --tempo")
    for name in ("snr", "rt60"):
        if options[name] and options[name][0] > options[name][1]:
            raise UserError(f"--{name} takes LOW HIGH, not {options[name]}")
    for value in (args.rt60 or []) + (args.tempo or []):
        if not 0.01 <= value <= 10:
            raise UserError(f"--rt60 and --tempo take values within 0.01 to 10, not {value:g}")
    copies = partial(make_copies, options=options, suffix=args.suffix, seed=args.seed)
    if not perturb.write_perturbed(args.src, args.dest, copies, options, args.seed, args.nj):
        print(f"{args.dest} is there already, made with the same options")
