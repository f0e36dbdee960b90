"""Entities of a set from a list of terms or from the output of a tagger, as the file `entities` of its data directory.

List: a term a line, or `slot<TAB>term`; `#` begins a comment. Terms are found in the transcripts whatever their case.
Tagger: lines `utterance<TAB>start<TAB>end<TAB>label<TAB>surface`, characters of the transcript from 0, as spaCy's
`ent.start_char`, `ent.end_char`, `ent.label_` and `ent.text`; a first line with these names is skipped.
"""

from espnet_llmvq.base.errors import UserError, nearest
from espnet_llmvq.data.manifest import Faults, read_lines
from espnet_llmvq.score.entities import Lexicon, check_entities, tokenise

COLUMNS = ["utterance", "start", "end", "label", "surface"]


def read_entity_file(path, texts):
    """{utt: [(slot, value)]} of `texts`, {utt: transcript}, in the order of the transcripts; values as they have them.

    Raises UserError with file and line: a malformed line, an unknown utterance, a surface that is not there or is no
    run of whole words; and for a file that finds nothing.
    """
    lines = [
        (f"{path}:{number}", line.split("\t"))
        for number, line in enumerate(read_lines(path), 1)
        if line.strip() and not line.startswith("#")
    ]
    tagged = bool(lines) and len(lines[0][1]) == len(COLUMNS)
    found = _from_tagger(lines, texts) if tagged else _from_terms(lines, texts)
    if not any(found.values()):
        raise UserError(f"{path}: finds no entity in {len(texts)} transcripts; is it of this set?")
    return check_entities({utt: items for utt, items in sorted(found.items()) if items}, texts, path)


def _slot(text):
    return "_".join(text.replace("=", " ").split())


def _from_terms(lines, texts):
    faults, slots = Faults(), {}
    for where, fields in lines:
        *slot, term = fields
        value = tuple(tokenise(term.lower()))
        if len(fields) > 2 or not value or (slot and not _slot(slot[0])):
            faults.add(where, f"{len(fields)} fields, not `term` or `slot<TAB>term`")
        else:
            slots.setdefault(value, _slot(slot[0]) if slot else "term")
    faults.check()
    lexicon, found = Lexicon(slots), {}
    for utt, text in texts.items():
        spans, at = [], 0
        for token in tokenise(text):
            at = text.index(token, at)
            spans.append((at, at + len(token)))
            at += len(token)
        mentions = lexicon.find(token.lower() for token in tokenise(text))
        found[utt] = [(slots[value], text[spans[a][0] : spans[b - 1][1]]) for a, b, value in mentions]
    return found


def _from_tagger(lines, texts):
    faults, found = Faults(), {}
    if [field.strip().lower() for field in lines[0][1]] == COLUMNS:
        lines = lines[1:]
    for where, fields in lines:
        if len(fields) != len(COLUMNS) or not (fields[1].isdecimal() and fields[2].isdecimal()):
            faults.add(where, f"not {'<TAB>'.join(COLUMNS)}, start and end in characters")
            continue
        utt, start, end, label, surface = fields[0], int(fields[1]), int(fields[2]), _slot(fields[3]), fields[4]
        if utt not in texts:
            faults.add(where, f"no utterance {utt!r} in the set{nearest(utt, texts)}")
        elif not label or texts[utt][start:end] != surface or not surface.strip():
            faults.add(where, f"{utt} has {texts[utt][start:end]!r} from {start} to {end}, not {surface!r}")
        else:
            before, after = tokenise(texts[utt][:start]), tokenise(texts[utt][end:])
            if before + tokenise(surface) + after != tokenise(texts[utt]):
                faults.add(where, f"{surface!r} is no run of whole words of {utt}; tag whole words")
            else:
                found.setdefault(utt, []).append((start, label, " ".join(surface.split())))
    faults.check()
    return {utt: [(label, value) for _, label, value in sorted(items)] for utt, items in found.items()}
