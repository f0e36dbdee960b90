"""Plain examples: speech with its transcript, questions with their answers, and text alone."""

from espnet_llmvq.sequence import prompt
from espnet_llmvq.sequence.sequence import Sequence, Span


def prompted(key, given, answer, template):
    """The prompt `template` with `given` (a span) as {speech}; loss on answer and end token."""
    spans = []
    for part in prompt.parse(template):
        if part[0] == "speech":
            spans.append(given)
        elif part[0] == "transcript":
            spans.append(Span(text=prompt.separator(template, prompt.TRANSCRIPT) + answer, loss=True, eos=True))
        else:
            spans.append(Span(text=part[1]))
    return Sequence(key, tuple(spans))


def asr_sequence(utt, audio, samples, text, template):
    """One utterance in the prompt `template`; loss on transcript and end token ([2506.05706] sec. 3.1).

    With the answer to a spoken question as `text`, an example of spoken question answering.
    """
    return prompted(utt, Span(audio=audio, samples=samples), text, template)


def text_question(key, question, answer, template):
    """A question in writing where `template` has speech; loss on answer and end token."""
    return prompted(key, Span(text=prompt.separator(template, prompt.SPEECH) + question), answer, template)


def text_sequence(key, text):
    """Text without speech: plain text and end token, all with loss."""
    return Sequence(key, (Span(text=text, loss=True, eos=True),))


def heard_sequence(key, text, steps, template):
    """A text where `template` has speech, as if heard (`sequence.heard`); loss on the text and the end token."""
    return prompted(key, Span(heard=steps, said=text), text, template)
