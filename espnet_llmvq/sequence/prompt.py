"""Prompt templates: the words around speech and transcript, from the config.

A template that begins with "chat:" is what the user says in the chat format of the LLM's tokenizer; `resolved` puts the
format around it. One that begins with "{no_begin}" is read without the begin token that the tokenizer puts in front.
"""

import re

from espnet_llmvq.base.errors import UserError

SPEECH, TRANSCRIPT = "{speech}", "{text}"
CHAT = "chat:"
# Before a chat format: one that writes the date of the day would make another prompt tomorrow. Llama's where it has no
# clock.
TODAY = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
NO_BEGIN = "{no_begin}"
# What published tokenizers call their marks: no one means these letters.
MARK = re.compile(r"<\|[^<|>]+\|>|</?s>|<(?:bos|eos|pad|unk|(?:start|end)_of_turn)>")


def is_plain(template):
    """Whether `resolved` leaves a template as it is, whatever the tokenizer."""
    return CHAT not in template and not MARK.search(template)


def check_marks(template, tokenizer):
    """Raise UserError for the name of a special token, such as "<s>", that is no token of the tokenizer."""
    for name in (found[0] for found in MARK.finditer(template)):
        if len(tokenizer.encode(name, add_special_tokens=False)) != 1:
            known = ", ".join(sorted(set(tokenizer.all_special_tokens)))
            raise UserError(f"prompt {template!r}: {name} is no token of the LLM's tokenizer, which has {known}")


def resolved(template, tokenizer):
    """The template with the roles and marks of the tokenizer's chat format around it, if it begins with "chat:".

    "chat: {speech} Transcribe." becomes, for the ChatML of Qwen, the tokenizer's default system message, then
    "<|im_start|>user", the words, "<|im_end|>", "<|im_start|>assistant", each on a line, then {text}. Raises UserError
    for a tokenizer without a chat format, unless {speech} occurs once, and for marks that the tokenizer does not have.
    A begin token before "chat:" stands once, whether or not the format has it.
    """
    check_marks(template, tokenizer)
    begin = next((mark for mark in (NO_BEGIN, tokenizer.bos_token) if mark and template.startswith(mark)), "")
    said = template[len(begin) :].lstrip() if begin else template
    if not said.startswith(CHAT):
        return template
    if not tokenizer.chat_template:
        raise UserError(f"prompt {template!r}: the LLM's tokenizer has no chat template; write the roles yourself")
    said = said[len(CHAT) :].strip().removesuffix(TRANSCRIPT).rstrip()
    chat = in_chat(said, tokenizer)
    chat = chat.removeprefix(tokenizer.bos_token) if begin and tokenizer.bos_token else chat
    parse(begin + chat + TRANSCRIPT)
    return begin + chat + TRANSCRIPT


def in_chat(said, tokenizer):
    """What a user says in the chat format of the tokenizer, up to the answer. Raises UserError if that refuses it."""
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": said}]
    try:
        return tokenizer.apply_chat_template(
            turns, chat_template=TODAY + tokenizer.get_chat_template(), tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError, TypeError) as err:
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template does not take a text of the user alone ({err}); correct it, "
            "or remove it from the directory"
        ) from None


def parse(template):
    """Split e.g. "USER: {speech} Transcribe. ASSISTANT: {text}" into parts.

    Returns a list of ("text", words), ("speech",) and ("transcript",). Spaces at the end of words belong to
    what follows, as language models tokenise them; line breaks stay. Raises UserError unless {speech} and {text}
    occur once each, in this order, and {text} ends the template.
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
        elif piece.strip(" "):
            parts.append(("text", piece.rstrip(" ")))
    return parts


def separator(template, mark):
    """The space that joins what `mark` (SPEECH or TRANSCRIPT) stands for to the words before it: " " or ""."""
    before = template.split(mark)[0]
    return " " if before.endswith(" ") else ""


def template_of(sequence):
    """The template that a `Sequence` was made with, without the spaces that `parse` drops.

    Templates are equal if and only if they make the same sequences. Texts that carry loss are the transcript.
    """
    template = ""
    for span in sequence.spans:
        if not span.is_text:
            template += SPEECH
        elif span.loss:
            template += (" " if span.text.startswith(" ") else "") + TRANSCRIPT
        else:
            template += span.text
    return template
