"""Copy a data directory at other speeds, as Kaldi's perturb_data_dir_speed.sh does.

Utterances and speakers of factor 0.9 get the prefix "sp0.9-"; those of factor 1.0 keep their names.
utt2uniq leads back to the original utterance. Audio is written to DEST/audio as 16-bit WAV.
"""

from espnet_llmvq.cli.parser import Parser, add_nj


def split(words):
    """(factors, paths): what reads as a number is a factor; a directory `0.9` is written ./0.9."""
    factors, paths = [], []
    for word in words:
        try:
            factors.append(float(word))
        except ValueError:
            paths.append(word)
    return factors, paths


def main(argv=None):
    usage = "%(prog)s [--nj N] SRC FACTOR [FACTOR ...] DEST, or as in Kaldi: FACTOR SRC DEST"
    parser = Parser(description=__doc__, usage=usage)
    parser.add_argument("args", nargs="+", metavar="SRC FACTOR DEST", help="0.9 is slower")
    add_nj(parser)
    args = parser.parse_args(argv)
    factors, paths = split(args.args)
    if len(paths) != 2 or not factors:
        parser.error("give SRC FACTOR... DEST")
    from espnet_llmvq.data.copies import perturb_speed

    perturb_speed(*paths, factors, nj=args.nj)
