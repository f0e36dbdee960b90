"""Two systems, utterance by utterance: how often one has fewer errors than the other, and what both wrote.

The page holds each set once, as its references and the errors of each system in them, compressed. Its script unpacks
the sets that are looked at, and shows a few utterances at a time.
"""

import base64
import gzip
import json
from itertools import permutations

import numpy as np

from espnet_llmvq.report.utterances import make_diff
from espnet_llmvq.score.table import Cell, Column, Row, Table

REST = "\N{HORIZONTAL ELLIPSIS}"  # the op behind which an alignment is not told


def count_wins(scores):
    """{system: {other: utterances in which the system has fewer word errors}} of one set.

    scores: {system: UtteranceScores}, of the same utterances in the same order.
    """
    errors = {system: np.array([score.errors for score in of_system]) for system, of_system in scores.items()}
    wins = {system: {} for system in scores}
    for one, other in permutations(scores, 2):
        wins[one][other] = int((errors[one] < errors[other]).sum())
    return wins


def wins_table(scored, labels):
    """Table of the wins of rows against columns, all ScoredSets together; None for fewer than two systems."""
    systems = list(dict.fromkeys(system for s in scored for system in s.scores))
    if len(systems) < 2:
        return None
    together = {}
    for s in scored:
        for one, others in count_wins(s.scores).items():
            for other, wins in others.items():
                together[one, other] = together.get((one, other), 0) + wins
    rows = []
    for one in systems:
        cells = [Cell(together.get((one, other)), form=",d", none="" if one == other else "-") for other in systems]
        rows.append(Row(labels.get(one, one), cells, one))
    columns = [Column(labels.get(name, name), name=name) for name in systems]
    return Table("Utterances with fewer word errors", columns, rows)


def summary(scored, labels):
    """What the script needs before it unpacks anything, as a dict: labels, and of each set its counts."""
    sets = []
    for s in scored:
        utterances = len(next(iter(s.scores.values())))
        errors = {system: sum(score.errors for score in scores) for system, scores in s.scores.items()}
        sets.append({"name": s.name, "utterances": utterances, "wins": count_wins(s.scores), "errors": errors})
    return {"labels": {system: labels.get(system, system) for s in scored for system in s.scores}, "sets": sets}


def errors_of(score):
    """The errors of an UtteranceScore as JSON: 0, or [their number, then for each shown: word of the reference that it
    is at, op, word of the hypothesis].

    op: as of the score ("D" has an empty word); "+" stands for so many more words put in, REST for so many more pairs.
    """
    if not score.errors:
        return 0
    diff, told, at = make_diff(score), [score.errors], 0
    for op, _, hyp in diff.pairs:
        if op != "=":
            told += [at, op, hyp]
        at += op in "=SD"
    return [*told, at, REST, diff.cut] if diff.cut else told


def utterances(scored):
    """The utterances of a ScoredSet for the script: base64 of gzipped JSON, the same bytes for the same scores.

    {"utts": [id], "refs": [words as normalised], "errors": {system: [`errors_of` each]}}
    """
    first = next(iter(scored.scores.values()))
    content = {
        "utts": [score.utt for score in first],
        "refs": [" ".join(ref for op, ref, _ in score.pairs if op != "I") for score in first],
        "errors": {system: list(map(errors_of, scores)) for system, scores in scored.scores.items()},
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode("ascii")


def as_script(value):
    """A value as JSON that can stand in a script element: "<" is written otherwise."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
