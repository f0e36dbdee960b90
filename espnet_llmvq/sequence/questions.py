"""Questions as sequences, in writing and spoken: multiple choice with examples before it, and open questions.

[2607.01733] measures the gap between text and speech by them: a multiple-choice test on the next token, five
examples, and open questions without any. It says nothing about the words of the prompts.
"""

import re
from dataclasses import dataclass

from espnet_llmvq.base.config import option
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.sequence import prompt
from espnet_llmvq.sequence.asr import asr_sequence, text_question
from espnet_llmvq.sequence.sequence import Sequence, Span

LETTERS = "ABCD"
ANSWERS = ("letter", "text")


@dataclass(frozen=True)
class MultipleChoice:
    """How multiple-choice questions are put."""

    shots: int = option(5, "examples with their answers before each question")
    answer: str = option("letter", "what is scored: letter, the next token; text, all tokens of the choice")
    length_normalise: bool = option(True, "divide the log probability of a choice's text by its tokens")
    instruction: str = option("", "words before everything")
    prompt: str = option(
        "{speech}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer: {text}",
        "a question: {speech} is the question, {A} to {D} the choices, {text} the answer",
    )
    separator: str = option("\n\n", "words after an example")
    spoken_examples: bool = option(False, "before a spoken question the examples are spoken too")

    def __post_init__(self):
        check_name("value of answer", self.answer, ANSWERS)
        if self.shots < 0:
            raise UserError(f"shots is {self.shots}; it must be 0 or more")
        prompt.parse(self.prompt)
        absent = [letter for letter in LETTERS if f"{{{letter}}}" not in self.prompt]
        if absent and self.answer == "letter":
            raise UserError(
                f"prompt {self.prompt!r} has no {{{absent[0]}}}: letters stand for choices that it names; or score "
                "the choices themselves (answer: text)"
            )

    def answers(self, question):
        """The four answers, as they are tokenised after the prompt."""
        separator = prompt.separator(self.prompt, prompt.TRANSCRIPT)
        return [separator + text for text in (LETTERS if self.answer == "letter" else question.choices)]


@dataclass(frozen=True)
class OpenQuestions:
    """How open questions are put and answered."""

    prompt: str = option("Question: {speech} Answer: {text}", "{speech} is the question, {text} the answer")
    num_beams: int = option(1, "beam of the search; 1 is greedy")
    max_tokens: int = option(32, "most tokens of an answer")
    stop: str = option("\n", "where it occurs the answer ends; empty: nowhere")

    def __post_init__(self):
        prompt.parse(self.prompt)
        for name in ("num_beams", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")


def question_span(question, samples=None):
    """The span of a question: spoken if `samples`, the length of its audio at 16 kHz, is given."""
    if samples is not None:
        return Span(audio=question.wav, samples=samples)
    return Span(text=question.question)


def _spans(question, span, options, answer):
    """Spans of the prompt with one question; `answer` (a text) closes it, or with None it ends before the answer."""
    spans, choices = [], dict(zip(LETTERS, question.choices))
    for kind, *text in prompt.parse(options.prompt):
        if kind == "transcript":
            spans += [] if answer is None else [Span(text=answer)]
        elif kind == "text":
            spans.append(Span(text=re.sub(r"\{([A-D])\}", lambda match: choices[match[1]], text[0])))
        elif span.is_speech:
            spans.append(span)
        else:
            spans.append(Span(text=prompt.separator(options.prompt, prompt.SPEECH) + span.text))
    return spans


def multiple_choice_sequence(question, span, examples, options):
    """The prompt of a question, up to where one of `options.answers` follows.

    span: `given` of the question. examples: [(question, span)], each put with its answer.
    """
    spans = [Span(text=options.instruction)] if options.instruction else []
    for example, shown in examples:
        right = options.answers(example)[example.answer]
        spans += _spans(example, shown, options, right + options.separator)
    return Sequence(question.id, (*spans, *_spans(question, span, options, None)))


def open_sequence(question, samples, options):
    """The prompt of an open question, spoken if `samples` is given; without the answer."""
    if samples is None:
        made = text_question(question.id, question.question, "", options.prompt)
    else:
        made = asr_sequence(question.id, question.wav, samples, "", options.prompt)
    return Sequence(question.id, made.prompt)


def split_examples(questions, examples, shots, path):
    """(questions to score, examples before each of them). Without examples the first questions are.

    Raises UserError if too few are left of either, or one is both.
    """
    if examples is None:
        questions, examples = questions[shots:], questions[:shots]
    shown = {q.id for q in examples} | {(q.question, q.choices) for q in examples}
    both = [q.id for q in questions if q.id in shown or (q.question, q.choices) in shown]
    if both:
        raise UserError(f"{path}: {both[0]} is an example and is asked too; take it out of one of the files")
    if len(examples) < shots or not questions:
        raise UserError(
            f"{path}: {len(examples)} examples and {len(questions)} questions to ask, but shots is {shots}; give more "
            "questions, more --question_examples or fewer shots"
        )
    return questions, examples[:shots]
