"""Write a subset of a data directory, as Kaldi's subset_data_dir.sh does.

Without an option the N utterances are spread evenly over the directory.
"""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    usage = "%(prog)s [--first|--last|--shortest|--speakers|--per_spk] SRC N DEST"
    parser = Parser(description=__doc__, usage=f"{usage} | --utt_list|--spk_list FILE SRC DEST")
    how = parser.add_mutually_exclusive_group()
    for name, help in (
        ("first", "the first N utterances"),
        ("last", "the last N utterances"),
        ("shortest", "the shortest N utterances"),
        ("speakers", "all of random speakers, until there are N or more"),
        ("per_spk", "N utterances of every speaker"),
    ):
        how.add_argument(f"--{name}", dest="how", action="store_const", const=name, help=help)
    how.add_argument("--utt_list", help="file whose first fields are the utterances; no N then")
    how.add_argument("--spk_list", help="file whose first fields are the speakers; no N then")
    parser.add_argument("--seed", type=int, default=0, help="of --speakers")
    parser.add_argument("args", nargs="+", metavar="SRC [N] DEST", help="directories, count")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.subset import subset_data

    listed = args.utt_list or args.spk_list
    if len(args.args) != (2 if listed else 3):
        parser.error("give SRC DEST" if listed else "give SRC N DEST")
    source, *count, dest = args.args
    if count and (not count[0].isdecimal() or int(count[0]) == 0):
        raise UserError(f"N must be a positive whole number, not {count[0]!r}")
    count = int(count[0]) if count else None
    subset_data(source, dest, count, how=args.how, utt_list=args.utt_list, spk_list=args.spk_list, seed=args.seed)
