"""Write a subset of a data directory: N utterances, or those listed in a file.

Without an option the N utterances are spread evenly over the directory.
"""

import os

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.errors import UserError


def spread(items, count):
    """Return `count` of `items`, evenly spread by halving, as Kaldi's subset_scp.pl does."""
    if count <= 0 or not items:
        return []
    if len(items) == 1:
        return list(items)
    half = len(items) // 2
    return spread(items[:half], count // 2) + spread(items[half:], count - count // 2)


def per_speaker(items, count):
    """Return at most `count` of a speaker's utterances, at even steps, as Kaldi does."""
    step = max(1, (len(items) - 1) // count)
    return items[: count * step : step]


def main(argv=None):
    usage = "%(prog)s [--first|--last|--per_spk] SRC N DEST | %(prog)s --utt_list FILE SRC DEST"
    parser = Parser(description=__doc__, usage=usage)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--first", action="store_true", help="the first N utterances")
    how.add_argument("--last", action="store_true", help="the last N utterances")
    how.add_argument("--per_spk", action="store_true", help="N utterances of every speaker")
    how.add_argument("--utt_list", help="file whose first fields are the utterances; no N then")
    parser.add_argument("args", nargs="+", metavar="SRC [N] DEST", help="directories, count")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.datadir import DataDir, scan

    if len(args.args) != (2 if args.utt_list else 3):
        parser.error("give SRC DEST" if args.utt_list else "give SRC N DEST")
    source, dest = args.args[0], args.args[-1]
    if os.path.realpath(source) == os.path.realpath(dest):
        raise UserError(f"{dest}: is the source itself (give another DEST)")
    data = DataDir.load(source)
    if args.utt_list:
        rows, problems = scan(args.utt_list)
        for problem in problems:
            if "UTF-8" in problem.message:
                raise UserError(str(problem))
        for row in rows:
            if row.key not in data.text:
                where = f"{args.utt_list}:{row.line}: {row.key}"
                raise UserError(f"{where}: not in {source}/text (remove it from the list)")
        keys = [row.key for row in rows]
        if not keys:
            raise UserError(f"{args.utt_list}: holds no utterance id (add some)")
    else:
        count = args.args[1]
        if not count.isdecimal() or int(count) == 0:
            raise UserError(f"N must be a positive whole number, not {count!r}")
        count = int(count)
        utts = data.utts
        if args.per_spk:
            keys = [u for spk in data.spk2utt.values() for u in per_speaker(spk, count)]
        elif count > len(utts):
            raise UserError(f"{source}: has {len(utts)} utterances, not {count} (lower N)")
        elif args.first:
            keys = utts[:count]
        elif args.last:
            keys = utts[-count:]
        else:
            keys = spread(utts, count)
    found = data.subset(keys)
    found.write(dest)
    print(f"{dest}: {len(found.text)} of {len(data.text)} utterances")
    return 0


if __name__ == "__main__":
    run(main)
