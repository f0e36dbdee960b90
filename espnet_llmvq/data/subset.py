"""Parts of data directories, as Kaldi's subset_data_dir.sh chooses them."""

import random

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.durations import durations
from espnet_llmvq.data.made import check_apart
from espnet_llmvq.data.tables import scan


def spread(items, count):
    """`count` of `items`, evenly spread by halving, as Kaldi's subset_scp.pl does."""
    if count <= 0 or not items:
        return []
    if len(items) == 1:
        return list(items)
    half = len(items) // 2
    return spread(items[:half], count // 2) + spread(items[half:], count - count // 2)


def per_speaker(items, count):
    """At most `count` of a speaker's utterances, at even steps, as Kaldi does."""
    step = max(1, len(items) // count)
    return items[: count * step : step]


def read_list(path, known, where):
    """The first fields of a list; UserError for one that is not in `known`, or for none."""
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


def chosen(data, source, count, how, seed):
    """Ids of utterances of a DataDir read from `source`.

    how: None: spread; or first, last, shortest, speakers (whole ones, drawn by `seed`, until there are `count`),
    per_spk (of each speaker). Raises UserError if there are fewer.
    """
    utts = data.utts
    if how == "per_spk":
        return [utt for spk in data.spk2utt.values() for utt in per_speaker(spk, count)]
    if count > len(utts):
        raise UserError(f"{source}: has {len(utts)} utterances, not {count} (lower N)")
    if how == "first":
        return utts[:count]
    if how == "last":
        return utts[-count:]
    if how == "shortest":
        seconds = durations(data)
        return sorted(utts, key=lambda utt: (seconds[utt], utt))[:count]
    if how == "speakers":
        speakers, keys = list(data.spk2utt.values()), []
        random.Random(seed).shuffle(speakers)
        while len(keys) < count:
            keys += speakers.pop(0)
        return keys
    return spread(utts, count)


def subset_data(source, dest, count=None, *, how=None, utt_list=None, spk_list=None, seed=0):
    """Write `count` utterances of a data directory to `dest`, as `chosen` says; or those of a list, or its speakers."""
    check_apart(dest, source)
    data = DataDir.load(source)
    if utt_list:
        keys = read_list(utt_list, data.text, f"{source}/text")
    elif spk_list:
        speakers = read_list(spk_list, data.spk2utt, f"{source}/spk2utt")
        keys = [utt for spk in speakers for utt in data.spk2utt[spk]]
    else:
        keys = chosen(data, source, count, how, seed)
    subset = data.subset(keys)
    subset.write(dest)
    print(f"{dest}: {len(subset.text)} of {len(data.text)} utterances")


def cut(path, most):
    """Leave at most `most` utterances, spread evenly, in the tables of a data directory, for a smoke run."""
    data = DataDir.load(path)
    if len(data.text) > most:
        data.subset(spread(data.utts, most)).write_tables(path)
