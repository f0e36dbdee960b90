"""Files of questions: JSON lines with an id, the question in writing and, where it is spoken, its audio.

Multiple choice::

    {"id": "q1", "question": "Which is a drug?", "choices": ["tea", "bread", "aspirin", "soup"], "answer": 2,
     "wav": "q1.wav"}

Open questions::

    {"id": "q1", "question": "What is good for a headache?", "answer": ["aspirin", "ibuprofen"], "wav": "q1.wav"}

`answer` is the number of the right choice, from 0, or what is accepted as right: a text or a list of texts.
"""

import os
from dataclasses import dataclass

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.data.manifest import Faults, read_json_lines

MULTIPLE_CHOICE, OPEN = "mc", "sqa"
CHOICES = 4
REQUIRED = {MULTIPLE_CHOICE: ("id", "question", "choices", "answer"), OPEN: ("id", "question", "answer")}


@dataclass(frozen=True)
class Question:
    """A question. answer: index into `choices`, or without choices a tuple of accepted texts. wav: path or None."""

    id: str
    question: str
    answer: object
    choices: tuple = ()
    wav: str | None = None


def _is_text(value):
    return isinstance(value, str) and bool(value.strip())


def _question(entry, kind, directory):
    """The Question of a parsed line; UserError that says what is wrong with it."""
    for key in entry:
        check_name("key", key, (*REQUIRED[kind], "wav"))
    for key in REQUIRED[kind]:
        if key not in entry:
            raise UserError(f"has no {key!r}; needed are {', '.join(REQUIRED[kind])}, and wav if it is spoken")
    for key in ("id", "question", *(["wav"] if "wav" in entry else [])):
        if not _is_text(entry[key]):
            raise UserError(f"{key} is {entry[key]!r}; it must be a text that is not empty")
    answer, choices = entry["answer"], ()
    if kind == MULTIPLE_CHOICE:
        choices = entry["choices"]
        if not isinstance(choices, list) or len(choices) != CHOICES or not all(map(_is_text, choices)):
            raise UserError(f"choices is {choices!r}; it must be a list of {CHOICES} texts")
        choices = tuple(" ".join(choice.split()) for choice in choices)
        if len(set(choices)) < CHOICES:
            raise UserError(f"two choices are the same: {', '.join(choices)}")
        if type(answer) is not int or not 0 <= answer < CHOICES:
            raise UserError(f"answer is {answer!r}; it must be the number of the right choice, 0 to {CHOICES - 1}")
    else:
        answer = tuple(answer) if isinstance(answer, list) else (answer,)
        if not answer or not all(map(_is_text, answer)):
            raise UserError(f"answer is {entry['answer']!r}; it must be a text, or a list of texts")
    wav = os.path.join(directory, entry["wav"]) if "wav" in entry else None
    return Question(entry["id"], " ".join(entry["question"].split()), answer, choices, wav)


def read_questions(path, kind):
    """Read [Question] of a file; kind: MULTIPLE_CHOICE or OPEN. Blank lines are skipped.

    A relative `wav` starts at the directory of the file. Raises UserError with file and line for a line that is
    malformed, an unknown key or an id given twice; and for a file that cannot be read or has no questions.
    """
    faults, found, first = Faults(), [], {}
    for where, entry in read_json_lines(path, faults):
        try:
            question = _question(entry, kind, os.path.dirname(path))
        except UserError as err:
            faults.add(where, str(err))
            continue
        if question.id in first:
            faults.add(where, f"the id {question.id} is that of {first[question.id]} too")
        first[question.id] = where
        found.append(question)
    faults.check()
    return found
