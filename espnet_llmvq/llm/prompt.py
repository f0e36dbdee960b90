"""Prompt templates: the words around speech and transcript, from the config."""

import re

from espnet_llmvq.errors import UserError

SPEECH, TRANSCRIPT = "{speech}", "{text}"


def parse(template):
    """Split e.g. "USER: {speech} Transcribe. ASSISTANT: {text}" into parts.

    Returns a list of ("text", words), ("speech",) and ("transcript",). Spaces at the end of words belong to
    what follows, as language models tokenise them. Raises UserError unless {speech} and {text} occur
    once each, in this order, and {text} ends the template.
    """
    pieces = re.split(r"(\{speech\}|\{text\})", template)
    marks = [p for p in pieces if p in (SPEECH, TRANSCRIPT)]
    if marks != [SPEECH, TRANSCRIPT] or pieces[-1].strip():
        raise UserError(f"prompt {template!r} must hold {{speech}} once and end with {{text}}")
    parts = []
    for piece in pieces:
        if piece == SPEECH:
            parts.append(("speech",))
        elif piece == TRANSCRIPT:
            parts.append(("transcript",))
        elif piece.strip():
            parts.append(("text", piece.rstrip()))
    return parts


def lead(template, mark):
    """The space that joins what `mark` (SPEECH or TRANSCRIPT) stands for to the words before it: " " or ""."""
    before = template.split(mark)[0]
    return " " if before[-1:].isspace() else ""


def template_of(sequence):
    """The template that a `Sequence` was made with, without the spaces that `parse` drops.

    Templates are equal if and only if they make the same sequences. Texts that carry loss are the transcript.
    """
    template = ""
    for span in sequence.spans:
        if span.is_speech:
            template += SPEECH
        elif span.loss:
            template += (" " if span.text[:1].isspace() else "") + TRANSCRIPT
        else:
            template += span.text
    return template
