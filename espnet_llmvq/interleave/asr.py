"""Plain examples: speech with its transcript, and text alone."""

from espnet_llmvq.llm import prompt
from espnet_llmvq.sequence import Sequence, Span


def asr_sequence(utt, audio, samples, text, template):
    """One utterance in the prompt `template`; loss on transcript and end token ([2506.05706] sec. 3.1)."""
    spans = []
    for part in prompt.parse(template):
        if part[0] == "speech":
            spans.append(Span(audio=audio, samples=samples))
        elif part[0] == "transcript":
            lead = prompt.transcript_lead(template)
            spans.append(Span(text=lead + text, loss=True, eos=True))
        else:
            spans.append(Span(text=part[1]))
    return Sequence(utt, tuple(spans))


def text_sequence(key, text):
    """Text without speech: plain text and end token, all with loss."""
    return Sequence(key, (Span(text=text, loss=True, eos=True),))
