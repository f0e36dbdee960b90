"""Builders over whole files: they yield what can be used and note why the rest cannot.

Characters that cannot be seen are left out of all texts: tokenizers have no token for them, or many.
"""

import array
import itertools
import os

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.datadir import formatted_rows
from espnet_llmvq.data.normalise import visible
from espnet_llmvq.sequence.units import Dropped

NO_ALIGNMENT = "no alignment"


def utterances(path, dropped, step=1):
    """Yield (utterance, audio path, samples, transcript) of a formatted data directory in the order of ids.

    step: samples of an encoder step. dropped: {id: Dropped}, to which shorter utterances are added.
    """
    for utt, audio, samples, written in formatted_rows(path):
        if samples < step:
            dropped[utt] = Dropped("audio shorter than an encoder step", f"{samples} of {step} samples")
        else:
            text = visible(written)
            if text != written:  # what stood between spaces leaves two
                text = " ".join(text.split())
            yield utt, os.path.abspath(audio), samples, text


def joined(path, table, lacking, dropped, step=1):
    """`utterances` with what a table has of each: yield (utterance, audio path, samples, transcript, value).

    table: {utterance: value}, such as word times. What only one of the two has is added to `dropped`; lacking: the
    reason where it is the directory.
    """
    seen = array.array("q")  # hashes: of millions, ids would fill the memory
    for utt, *rest in utterances(path, dropped, step):
        seen.append(hash(utt))
        try:
            value = table[utt]
        except KeyError:
            dropped[utt] = Dropped(lacking)
            continue
        yield utt, *rest, value
    others = ~np.isin(np.fromiter(map(hash, table), np.int64), np.asarray(seen))
    for utt in sorted(itertools.compress(table, others)):
        dropped.setdefault(utt, Dropped("not in the data directory"))


def documents(path, dropped):
    """Yield (id, text) of each line of a text file; ids are line numbers. Empty lines are added to `dropped`."""
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                key, text = f"line{number:08d}", " ".join(visible(line).split())
                if text:
                    yield key, text
                else:
                    dropped[key] = Dropped("empty line")
    except OSError as err:
        raise UserError(f"{path}: {err.strerror}") from None
    except UnicodeDecodeError as err:
        raise UserError(f"{path} is not UTF-8 ({err}); convert it with iconv") from None


def within(sequences, positions, upper_bound, context, dropped, refuse=False):
    """Yield sequences of at most `context` LLM positions; the others are added to `dropped`.

    refuse: raise UserError at the end, that names them.

    positions: function from a sequence to its positions. upper_bound: to no fewer, or None; what fits by it is not
    counted.
    """
    long = []
    for seq in sequences:
        n = upper_bound(seq)
        if n is None or n > context:
            n = positions(seq)
        if n > context:
            dropped[seq.id] = Dropped("longer than the context", f"{n} positions, {context} fit")
            long.append(f"{seq.id} ({n})")
        else:
            yield seq
    if long and refuse:
        some = ", ".join(long[:10]) + f" and {len(long) - 10} more" * (len(long) > 10)
        raise UserError(
            f"{len(long)} sequences have more LLM positions than the {context} of the context: {some}; shorten or "
            "remove them, or leave them out with --too_long drop"
        )
