"""Accuracy of answers to questions in writing and spoken, and the gap between the two.

Answers are JSON lines, as decode.questions writes them. Multiple choice: the best choice is the right one. Open
questions: a right answer is all that was said (exact), or a run of whole words of it (contained), both normalised.
"""

import json
from dataclasses import dataclass

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.normalise import described, get_normaliser
from espnet_llmvq.data.questions import MULTIPLE_CHOICE, OPEN
from espnet_llmvq.score import stats
from espnet_llmvq.score.files import read_facts, read_lines
from espnet_llmvq.score.measure import ratio
from espnet_llmvq.score.rows import SET, bounded

ANSWERS = "answers.jsonl"
TEXT, SPEECH, GAP = "text", "speech", "gap"
# prefix of the metrics, what they are of, {metric: what stands before the headings of its columns}
QUESTIONS = (
    ("mc", "multiple choice of four, chance is 25 %", {"mc": ""}),
    ("sqa", "open questions", {"sqa_exact": "exact: ", "sqa_contained": "contained: "}),
)
QUESTION_METRICS = [f"{metric}_{form}" for *_, m in QUESTIONS for metric in m for form in (TEXT, SPEECH, GAP)]


@dataclass(frozen=True)
class Answers:
    """Answers of one system to one set. right: {metric: {form: (N,) of 0 and 1}}; asked: {id: right answer}."""

    right: dict
    asked: dict
    options: dict


def contains(words, run):
    """Whether the list `run` stands in the list `words`, word by word."""
    return any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1))


def read_answers(path, normaliser="basic"):
    """The Answers of a file ANSWERS in a directory KIND_NAME. UserError with file and line."""
    kind, normalise = path.parent.name.partition("_")[0], get_normaliser(normaliser)
    right, asked = {}, {}
    for line_number, line in read_lines(path):
        try:
            entry = json.loads(line)
            forms = [form for form in (TEXT, SPEECH) if form in entry]
            if kind == MULTIPLE_CHOICE:
                is_right = {("mc", form): entry[form]["choice"] == entry["answer"] for form in forms}
            else:
                accepted = [normalise(answer).split() for answer in entry["answer"]]
                is_right = {}
                for form in forms:
                    said = normalise(entry[form]).split()
                    is_right["sqa_exact", form] = said in accepted
                    is_right["sqa_contained", form] = any(contains(said, answer) for answer in accepted)
            key = entry["id"]
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise UserError(f"{path}:{line_number}: not an answer ({err}); ask again") from None
        if kind == OPEN and not all(accepted):
            raise UserError(
                f"{path}:{line_number}: {key}: an answer has no words with the normaliser {normaliser}: "
                f"{entry['answer']}; correct the questions, or take another normaliser"
            )
        asked[key] = entry["answer"]
        for name, value in is_right.items():
            right.setdefault(name, []).append(value)
    if not asked or any(len(values) != len(asked) for values in right.values()):
        raise UserError(f"{path}: not complete; ask again")
    table = {}
    for (metric, form), values in right.items():
        table.setdefault(metric, {})[form] = np.array(values, dtype=np.float64)
    return Answers(table, asked, read_facts(path).get("options", {}))


def find_answers(directories, normaliser="basic"):
    """Read the answers of systems: {(kind, set name): {system name: Answers}}.

    directories: {system name: directory that holds KIND_NAME/ANSWERS, if any}. UserError if systems were asked other
    questions under one name, or in another way.
    """
    by_set = {}
    for system, directory in directories.items():
        for kind in (MULTIPLE_CHOICE, OPEN):
            for path in sorted(directory.glob(f"{kind}_*/{ANSWERS}")):
                answers = read_answers(path, normaliser)
                others = by_set.setdefault((kind, path.parent.name.partition("_")[2]), {})
                for other, known in others.items():
                    if known.asked != answers.asked or known.options != answers.options:
                        what = "questions" if known.asked != answers.asked else "options"
                        raise UserError(f"{path}: made with other {what} than that of {other}; ask both again")
                others[system] = answers
    return by_set


def estimates(right, replicates, seed, stratum):
    """{form: (Estimate in percent, right answers, questions)} of {form: (N,)}, with GAP where both forms are.

    The forms of a question are drawn together, so the gap (speech - text) is paired.
    """
    columns = [*right.values(), np.ones(len(next(iter(right.values()))))]
    *drawn, total = stats.sums(np.stack(columns, axis=1), replicates, seed, stratum)
    by_form = {
        form: (stats.combine(ratio, [one, total]), int(one.value), int(total.value)) for form, one in zip(right, drawn)
    }
    if len(by_form) == 2:
        gap = stats.difference(by_form[SPEECH][0], by_form[TEXT][0])
        by_form[GAP] = gap, by_form[SPEECH][1] - by_form[TEXT][1], by_form[SPEECH][2]
    return by_form


def question_rows(answers_of, normaliser, seed, statistics):
    """Entries for `results.json`: metrics such as mc_text, mc_speech and mc_gap, in percent and points.

    answers_of: of `find_answers`. statistics: `Statistics`. `utterances` are questions.
    """
    rows = []
    for (kind, name), systems in answers_of.items():
        for system, answers in systems.items():
            for metric, right in answers.right.items():
                forms = estimates(right, statistics.replicates, statistics.draw_seed, f"{kind} {name}")
                for form, (estimate, count, of) in forms.items():
                    rows.append(
                        {
                            "system": system,
                            "kind": SET,
                            "set": name,
                            "domain": "",
                            "metric": f"{metric}_{form}",
                            **bounded(estimate, statistics.confidence, skewed=form != GAP),
                            "utterances": of,
                            "words": None,
                            "seed": seed,
                            "normaliser": described(normaliser) if kind == OPEN else "none",
                            "count": count,
                            "of": of,
                            "rules": {},
                        }
                    )
    return rows
