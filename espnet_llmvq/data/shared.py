"""Audio that two utterances have in common: of one set it counts twice, of two it makes a result worth nothing."""

import bisect
import functools
import math
import os
from pathlib import Path

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import END_TOLERANCE
from espnet_llmvq.data.suspects import twice_there
from espnet_llmvq.data.tables import parse_segment, read_lines

MOST = 0.5  # of the shorter of two utterances: with more in common they are not apart
REMEDY = "give each utterance its own audio, or say that it may be so with --repeated_audio true"
real = functools.lru_cache(1 << 16)(os.path.realpath)


def places(data):
    """{utt: (file, start, end)} of a `DataDir`: what each is heard from, in seconds; the end of a file is infinite."""
    found = {}
    for utt in data.utts:
        path, start, end = data.location(utt)
        found[utt] = real(path), start, math.inf if end is None else end
    return found


def by_file(places):
    """{file: [(start, end, latest end so far)]} of `places`, sorted."""
    found = {}
    for path, start, end in sorted(places.values()):
        rows = found.setdefault(path, [])
        rows.append((start, end, max(end, rows[-1][2]) if rows else end))
    return found


def in_common(one, other, share=0.0):
    """Whether two (start, end) have more than END_TOLERANCE in common, and more than `share` of the shorter one."""
    common = min(one[1], other[1]) - max(one[0], other[0])
    shorter = min(one[1] - one[0], other[1] - other[0])
    return common > END_TOLERANCE and (common > share * shorter or common == shorter)


def overlaps(place, parts, share=0.0):
    """Whether one of `places` has audio `in_common` with one of `parts`, as `by_file` has them."""
    path, start, end = place
    rows = parts.get(path, ())
    for i in reversed(range(bisect.bisect_left(rows, (end,)))):
        a, b, latest = rows[i]
        if latest <= start:
            break
        if in_common((start, end), (a, b), share):
            return True
    return False


def overlapping(places, share=MOST):
    """[(utterance, other)] of `places`: those that have more than `share` of the shorter one's audio in common.

    Of others with the very same audio one is named, so that many copies are as many pairs.
    """
    found, rows = [], {}
    for utt, (path, start, end) in sorted(places.items(), key=lambda item: item[1][1]):
        before = [(part, other) for part, other in rows.get(path, ()) if part[1] > start]
        found += [(utt, other) for part, other in before if in_common((start, end), part, share)]
        same = any(part == (start, end) for part, _ in before)
        rows[path] = before if same else [*before, ((start, end), utt)]
    return found


def repeated(places):
    """[(utterance, other)] of `places`: those that have all of their audio in common with one before."""
    found, seen = [], {}
    for utt, (path, start, end) in places.items():
        rows = seen.setdefault(path, [])  # (start, end, utterance), sorted
        for a, b, other in rows[bisect.bisect_left(rows, (start - END_TOLERANCE,)) :]:
            if a > start + END_TOLERANCE:
                break
            if b == end or abs(b - end) <= END_TOLERANCE:
                found.append((utt, other))
                break
        else:
            bisect.insort(rows, (start, end, utt))
    return found


def check_repeated(data, name, limit=5):
    """Raise UserError for a DataDir, called `name`, of which utterances have the same audio."""
    if found := repeated(places(data)):
        some = ", ".join(f"{utt} and {other}" for utt, other in found[:limit]) + ", ..." * (len(found) > limit)
        raise UserError(f"{name}: {len(found)} utterances have the audio of another one: {some}; {REMEDY}")


def check_apart(sets, tests=()):
    """Raise UserError where utterances of two of the sets, {name: DataDir}, have more than MOST of the audio of the
    shorter one in common. Turns of a conversation may overlap by less. tests: names of sets that may share theirs.
    """
    check_places_apart({name: (places(data), len(data.utts)) for name, data in sets.items()}, tests)


def check_places_apart(sets, tests=()):
    """`check_apart` of {name: (places of utterances, number of all utterances)}."""
    before = {}
    for name, (here, count) in sets.items():
        for other, there in before.items():
            if name in tests and other in tests:
                continue
            found = [utt for utt, place in here.items() if overlaps(place, there, MOST)]
            if found:
                raise UserError(
                    f"{name}: {len(found)} of {count} utterances, such as {found[0]}, have the audio of "
                    f"utterances of {other}; leave them out of one of the two"
                )
        before[name] = by_file(here)


def check_directories_apart(directories, tests=()):
    """`check_apart` of data directories, {name: path}, that are valid. Memory is 8 bytes an utterance and what those
    take whose files are in two sets."""
    files = {
        name: np.fromiter((hash(path) for _, (path, *_) in placed(home)), np.int64)
        for name, home in directories.items()
    }
    shared = set(twice_there(np.concatenate([np.unique(of_set) for of_set in files.values()])).tolist())
    check_places_apart(
        {
            name: ({utt: place for utt, place in placed(home) if hash(place[0]) in shared}, len(files[name]))
            for name, home in directories.items()
        },
        tests,
    )


def placed(directory):
    """Yield (utterance, (file, start, end)) of a valid data directory, as `places` has them, in the order of lines."""
    directory = Path(directory)
    if not (directory / "segments").exists():
        for row, *_ in read_lines(directory / "wav.scp"):
            yield row.key, (real(row.value), 0.0, math.inf)
        return
    recordings = {row.key: row.value for row, *_ in read_lines(directory / "wav.scp")}
    for row, *_ in read_lines(directory / "segments"):
        rec, start, end = parse_segment(row.value)
        yield row.key, (real(recordings[rec]), start, end)
