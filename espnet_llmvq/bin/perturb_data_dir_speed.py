"""Copy a data directory at other speeds, as Kaldi's perturb_data_dir_speed.sh does.

Utterances and speakers of factor 0.9 get the prefix "sp0.9-"; those of factor 1.0 keep their names.
utt2uniq leads back to the original utterance. Audio is written to DEST/audio as 16-bit WAV.
"""

from functools import partial

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.data import perturb
from espnet_llmvq.errors import UserError


def make_copies(src, factors):
    copies = []
    for factor in factors:
        prefix = "" if factor == 1.0 else f"sp{factor:g}-"
        for utt in src.utts:
            spk = prefix + src.utt2spk[utt]
            copies.append(perturb.Copy(utt, prefix + utt, spk, speed=factor))
    return copies, {}


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("src", metavar="SRC", help="data directory")
    parser.add_argument("factors", metavar="FACTOR", type=float, nargs="+", help="0.9 is slower")
    parser.add_argument("dest", metavar="DEST", help="data directory to write")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    for factor in args.factors:
        if not 0.1 <= factor <= 10:
            raise UserError(f"speed factor {factor:g} is not within 0.1 to 10")
    if len(set(args.factors)) < len(args.factors):
        raise UserError(f"a speed factor is given twice: {args.factors}")
    copies = partial(make_copies, factors=args.factors)
    options = {"speed": args.factors}
    if not perturb.write_perturbed(args.src, args.dest, copies, options, nj=args.nj):
        print(f"{args.dest} is there already, made with the same options")


if __name__ == "__main__":
    run(main)
