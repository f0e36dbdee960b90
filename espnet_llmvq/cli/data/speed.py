"""Copy a data directory at other speeds, as Kaldi's perturb_data_dir_speed.sh does.

Utterances and speakers of factor 0.9 get the prefix "sp0.9-"; those of factor 1.0 keep their names.
utt2uniq leads back to the original utterance. Audio is written to DEST/audio as 16-bit WAV.
"""

from functools import partial

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.data import perturb


def make_copies(src, factors):
    copies = []
    for factor in factors:
        prefix = "" if factor == 1.0 else f"sp{factor:g}-"
        for utt in src.utts:
            spk = prefix + src.utt2spk[utt]
            copies.append(perturb.Copy(utt, prefix + utt, spk, speed=factor))
    return copies, {}


def get_parser():
    usage = "%(prog)s [--nj N] SRC FACTOR [FACTOR ...] DEST, or as in Kaldi: FACTOR SRC DEST"
    parser = Parser(description=__doc__, usage=usage)
    parser.add_argument("args", nargs="+", metavar="SRC FACTOR DEST", help="0.9 is slower")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    return parser


def split(words):
    """Return (factors, paths): what reads as a number is a factor; a directory `0.9` is written ./0.9."""
    factors, paths = [], []
    for word in words:
        try:
            factors.append(float(word))
        except ValueError:
            paths.append(word)
    return factors, paths


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    factors, paths = split(args.args)
    if len(paths) != 2 or not factors:
        parser.error("give SRC FACTOR... DEST")
    src, dest = paths
    for factor in factors:
        if not 0.1 <= factor <= 10:
            raise UserError(f"speed factor {factor:g} is not within 0.1 to 10")
    if len(set(factors)) < len(factors):
        raise UserError(f"a speed factor is given twice: {factors}")
    copies = partial(make_copies, factors=factors)
    options = {"speed": factors}
    if not perturb.write_perturbed(src, dest, copies, options, nj=args.nj):
        print(f"{dest} is there already, made with the same options")
