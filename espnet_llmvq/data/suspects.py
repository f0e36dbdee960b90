"""Which rows of a data directory may be wrong together: found from numbers, so that the others need not be kept.

The checks of ids and speakers look at rows of several tables. Of a large directory they are given only the rows of ids
that are lacking somewhere, repeated, unknown or listed wrongly. That is told from hashes of ids, 64 bits: of ten
million ids two have the same hash in one of some 300,000 directories, and then one defect may stay unseen.
"""

import array
import dataclasses
import itertools
import re

import numpy as np

from espnet_llmvq.data.tables import Style, level, may_repeat, read_lines, repeats, too_long

NOTHING = hash("\n")  # of no id


def fields(value):
    """The ids in the value of a line."""
    return re.findall(r"[^ \t]+", value)


class Columns:
    """Numbers of the lines of a table, and what is wrong with single lines.

    keys: (N,) int64, hashes of ids, those of a file of word times once for words in a row; rising: whether each id
    sorts behind the one before. others: (N,) hashes of the speaker (utt2spk) or recording (segments) of a line.
    listed: (M, 2) hashes of utterance and speaker (spk2utt). odd: hashes of ids whose form may be wrong. repeated: of
    those that are there twice. unsorted: of speakers whose utterances are not sorted, or none.
    """

    def __init__(self, path):
        self.name, self.count, self.rising = path.name, 0, True
        self.style, self.of_lines, self.odd, self.unsorted = Style(), [], set(), set()
        keys, others, listed, last = array.array("q"), array.array("q"), array.array("q"), None
        for row, marks, problems in read_lines(path):
            self.style.note(row, marks)
            if not row.raw:
                continue
            self.of_lines += problems
            self.count += 1
            if row.key == last and may_repeat(self.name):
                continue
            self.rising = self.rising and (last is None or row.key > last)
            last = row.key
            keys.append(hash(row.key))
            if too_long(row.key) or row.key.split() != [row.key]:
                self.odd.add(hash(row.key))
            if self.name == "utt2spk":
                others.append(hash(row.value))
            elif self.name == "segments":
                others.append(hash(row.value.split()[0]) if row.value else NOTHING)
            elif self.name == "spk2utt":
                utts = fields(row.value)
                listed.extend(itertools.chain.from_iterable((hash(utt), hash(row.key)) for utt in utts))
                if not utts or utts != sorted(utts):
                    self.unsorted.add(hash(row.key))
        self.keys, self.others, self.listed = np.asarray(keys), np.asarray(others), np.asarray(listed).reshape(-1, 2)
        self.repeated = set() if self.rising or may_repeat(self.name) else set(twice_there(self.keys).tolist())

    def problems(self, rows):
        """Problems of the form of the table, as of `scan`. rows: those of ids that may be repeated, or more."""
        found, seen = list(self.of_lines), {}
        for row in rows if self.repeated else ():
            first = seen.setdefault(row.key, row)
            if first is not row:
                found.append(repeats(first, row))
        return [*sorted(found, key=lambda problem: problem.line), *self.style.problems()]


def twice_there(numbers):
    """The numbers that an array holds more than once, sorted."""
    numbers = np.sort(numbers)
    return np.unique(numbers[1:][numbers[1:] == numbers[:-1]])


def lacking(numbers, known):
    """Those of `numbers` that are not in `known`, as a set."""
    return set() if np.array_equal(numbers, known) else set(numbers[~np.isin(numbers, known)].tolist())


def union(arrays):
    """The numbers that are in any of the arrays, in any order."""
    first = arrays[0] if arrays else np.empty(0, np.int64)
    return first if all(np.array_equal(first, other) for other in arrays) else np.unique(np.concatenate(arrays))


def listed_wrongly(utt2spk, spk2utt):
    """Hashes of utterances that one of two `Columns` lacks, or that are listed twice or under another speaker."""
    utts, speakers = utt2spk.keys, utt2spk.others
    listed, under = spk2utt.listed.T
    if np.array_equal(utts, listed) and np.array_equal(speakers, under):
        return set()
    wrong = lacking(listed, utts) | lacking(utts, listed) | set(twice_there(listed).tolist())
    order = np.argsort(utts, kind="stable")
    at = np.minimum(np.searchsorted(utts[order], listed), len(utts) - 1)
    other = (utts[order][at] == listed) & (speakers[order][at] != under)
    return wrong | set(listed[other].tolist())


def suspects(tables, columns):
    """{file: [`Row`]} of all rows that the checks of ids and speakers need; {} where nothing can be wrong.

    tables: {file: `Rows`}; columns: {file: `Columns`}. Of an utterance among them the rows of all tables are there, and
    a row of each table, so that one is empty only if it was. A line of spk2utt has no other utterances.
    """
    has = {name for name in tables if tables[name]}
    segmented, listing = "segments" in tables, {"utt2spk", "spk2utt"} <= has
    core = [name for name in ("text", "segments" if segmented else "wav.scp", "utt2spk") if name in has]
    recordings = segmented and {"segments", "wav.scp"} <= has
    keys = {name: columns[name].keys for name in columns}

    utts, recs = set(), set()
    for one, other in itertools.permutations(core, 2):
        utts |= lacking(keys[one], keys[other])
    for name in core:
        utts |= columns[name].odd
    if "text" in core and "utt2num_samples" in tables:
        utts |= lacking(keys["text"], keys["utt2num_samples"])
    if recordings:
        used = columns["segments"].others
        recs = lacking(keys["wav.scp"], used)
        utts |= _where(keys["segments"], used, lacking(used, keys["wav.scp"]))
    if listing:
        utts |= listed_wrongly(columns["utt2spk"], columns["spk2utt"])
    known = {
        "utt": union([keys[name] for name in core]),
        "spk": columns["utt2spk"].others if "utt2spk" in has else union([]),
        "rec": keys["wav.scp"] if "wav.scp" in has else union([]),
    }
    # Of optional files, lines of ids that nothing else has.
    wanted = {name: lacking(keys[name], known[level(name)]) if level(name) else set() for name in tables}
    repeated = {name: columns[name].repeated for name in tables}
    unsorted = columns["spk2utt"].unsorted if listing else set()
    if not any((utts, recs, unsorted, *wanted.values(), *repeated.values())):
        return {}

    # Who stands in a row that is looked at must be known as before.
    of = {"utt": set(), "spk": set(), "rec": set()}
    for name in tables:
        of[level(name) or ("rec" if segmented and name == "wav.scp" else "utt")] |= repeated[name]
    utts |= of["utt"].union(*(keys[name][:1].tolist() for name in core))
    if "utt2spk" in has:
        utts |= _where(keys["utt2spk"], columns["utt2spk"].others, of["spk"])
    if recordings:
        first = set(keys["wav.scp"][:1].tolist())
        recs |= of["rec"] | first
        utts |= _where(keys["segments"], used, of["rec"]) | set(sorted(_where(keys["segments"], used, first))[:1])
    else:
        utts |= of["rec"]
    whole = set(repeated.get("spk2utt", ()))
    if listing:
        whole |= unsorted | set(keys["spk2utt"][:1].tolist())
        utts |= {hash(utt) for row in tables["spk2utt"] if hash(row.key) in whole for utt in fields(row.value)}
    if recordings:
        recs |= _where(used, keys["segments"], utts)
    for name in tables:
        wanted[name] |= repeated[name] | (utts if name in core or level(name) == "utt" else set())
    if segmented and "wav.scp" in tables:
        wanted["wav.scp"] |= recs
    found = {name: [row for row in tables[name] if hash(row.key) in wanted[name]] for name in tables}
    if "spk2utt" in has:
        found["spk2utt"] = list(_short_lines(tables["spk2utt"], whole, utts))
    return found


def _where(numbers, others, wanted):
    """The set of `numbers` (N,) where `others` (N,) is one of the set `wanted`."""
    return set(numbers[np.isin(others, list(wanted))].tolist()) if wanted else set()


def _short_lines(rows, whole, utts):
    """Yield rows of spk2utt: as they are where the speaker is in `whole`, else with those of `utts` that they list."""
    for row in rows:
        if hash(row.key) in whole:
            yield row
        elif some := [utt for utt in fields(row.value) if hash(utt) in utts]:
            yield dataclasses.replace(row, value=" ".join(some))
