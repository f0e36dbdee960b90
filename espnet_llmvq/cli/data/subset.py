"""Write a subset of a data directory, as Kaldi's subset_data_dir.sh does.

Without an option the N utterances are spread evenly over the directory.
"""

import os
import random

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser


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
    step = max(1, len(items) // count)
    return items[: count * step : step]


def some_speakers(spk2utt, count, seed):
    """Return the utterances of speakers drawn one by one until there are at least `count`."""
    order, keys = list(spk2utt), []
    random.Random(seed).shuffle(order)
    for spk in order:
        if len(keys) >= count:
            break
        keys += spk2utt[spk]
    return keys


def read_list(path, known, where):
    """Return the first fields of a list; UserError for one that is not in `known`, or for none."""
    from espnet_llmvq.data.tables import scan

    rows, problems = scan(path)
    for problem in problems:
        if "UTF-8" in problem.message:
            raise UserError(str(problem))
    for row in rows:
        if row.key not in known:
            raise UserError(f"{path}:{row.line}: {row.key}: not in {where} (remove it from the list)")
    if not rows:
        raise UserError(f"{path}: holds no id (add some)")
    return [row.key for row in rows]


def main(argv=None):
    usage = "%(prog)s [--first|--last|--shortest|--speakers|--per_spk] SRC N DEST"
    parser = Parser(description=__doc__, usage=f"{usage} | --utt_list|--spk_list FILE SRC DEST")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--first", action="store_true", help="the first N utterances")
    how.add_argument("--last", action="store_true", help="the last N utterances")
    how.add_argument("--shortest", action="store_true", help="the shortest N utterances")
    how.add_argument("--speakers", action="store_true", help="all of random speakers, until there are N or more")
    how.add_argument("--per_spk", action="store_true", help="N utterances of every speaker")
    how.add_argument("--utt_list", help="file whose first fields are the utterances; no N then")
    how.add_argument("--spk_list", help="file whose first fields are the speakers; no N then")
    parser.add_argument("--seed", type=int, default=0, help="of --speakers")
    parser.add_argument("args", nargs="+", metavar="SRC [N] DEST", help="directories, count")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.datadir import DataDir
    from espnet_llmvq.data.durations import durations

    listed = args.utt_list or args.spk_list
    if len(args.args) != (2 if listed else 3):
        parser.error("give SRC DEST" if listed else "give SRC N DEST")
    source, dest = args.args[0], args.args[-1]
    if os.path.realpath(source) == os.path.realpath(dest):
        raise UserError(f"{dest}: is the source itself (give another DEST)")
    data = DataDir.load(source)
    if args.utt_list:
        keys = read_list(args.utt_list, data.text, f"{source}/text")
    elif args.spk_list:
        spks = read_list(args.spk_list, data.spk2utt, f"{source}/spk2utt")
        keys = [utt for spk in spks for utt in data.spk2utt[spk]]
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
        elif args.shortest:
            seconds = durations(data)
            keys = sorted(utts, key=lambda utt: (seconds[utt], utt))[:count]
        elif args.speakers:
            keys = some_speakers(data.spk2utt, count, args.seed)
        else:
            keys = spread(utts, count)
    found = data.subset(keys)
    found.write(dest)
    print(f"{dest}: {len(found.text)} of {len(data.text)} utterances")
    return 0
