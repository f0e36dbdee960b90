"""Entities: which were recognised, which were made up, and word errors inside and outside of them.

A mention is a run of whole tokens (words with their accents, numbers such as 2.5, or single punctuation marks) equal to
the entity's value; how much space lies between tokens does not count, nor whether an accent is a character of its own.
Scripts without spaces are matched by characters. Where values overlap, the longest one that starts first is taken.
"""

import unicodedata
from collections import Counter

import regex

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.tables import parse_entities, read_scp
from espnet_llmvq.score.files import some

# Thai and Lao, kana, Han
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# "5 mg" is no part of "2.5 mg", so a number with decimals, or a time, is one token.
# A word is letters, digits, combining marks, which `\w` may lack, and joiners.
_CHARACTER = rf"[[\w\p{{M}}\u200c\u200d]--[{_UNSPACED}]]"
_TOKEN = regex.compile(rf"[{_UNSPACED}]|\d+(?:[.,:]\d+)+{_CHARACTER}*|{_CHARACTER}+|[^\w\s\p{{M}}]", regex.VERSION1)


def tokenise(text):
    """The tokens of a text, as defined above."""
    return _TOKEN.findall(unicodedata.normalize("NFC", text))


class Lexicon:
    """Values to look for: a collection of token lists, each found under its tokens as a tuple."""

    def __init__(self, values):
        self._by_first = {}
        for value in sorted({tuple(v) for v in values if v}, key=lambda v: (-len(v), v)):
            self._by_first.setdefault(value[0], []).append(value)

    def find(self, tokens):
        """[(start, end, value)] of the mentions in a token list; they do not overlap."""
        mentions, i, tokens = [], 0, list(tokens)
        while i < len(tokens):
            for value in self._by_first.get(tokens[i], ()):
                if tuple(tokens[i : i + len(value)]) == value:
                    mentions.append((i, i + len(value), value))
                    i += len(value)
                    break
            else:
                i += 1
        return mentions

    def count(self, tokens):
        """A Counter {value: mentions in a token list}."""
        return Counter(value for _, _, value in self.find(tokens))


def read_entities(path):
    """{utt: [(slot, value)]} of a data directory's `entities`; UserError if malformed."""
    return parse_entities(read_scp(path, empty=True))


def check_entities(entities, refs, path, treatment="error", notes=None):
    """`entities` of the utterances of `refs` with the values that the references hold.

    entities: {utt: [(slot, value)]}; refs: {utt: raw text}. UserError that lists the entities
    whose value the raw reference does not hold (as often as annotated), unless `treatment` is
    "drop"; and for utterances that the set has not.
    """
    unknown = [utt for utt in entities if utt not in refs]
    if unknown:
        raise UserError(f"{path}: not in the reference: {some(unknown)}; give the file of this set")
    kept, absent = {}, []
    for utt, items in entities.items():
        values = [tuple(tokenise(value)) for _, value in items]
        left = Lexicon(values).count(tokenise(refs[utt]))
        kept[utt] = []
        for item, value in zip(items, values):
            if left[value] > 0:
                left[value] -= 1
                kept[utt].append(item)
            else:
                absent.append(f"{utt} {item[0]}={item[1]}")
    if absent and treatment == "error":
        raise UserError(
            f"{path}: {len(absent)} entities are not in their reference as written: "
            f"{some(absent)}; correct them, or leave them out (--entity_absent drop)"
        )
    if absent and notes is not None:
        notes.append(f"{path}: {len(absent)} entities that their reference does not hold left out")
    return kept


def entity_counts(refs, hyps, entities):
    """{utt: (instances, found, mentions, false)} of the utterances of `refs`.

    refs, hyps: {utt: text}; entities: {utt: [(slot, value)]}; all raw, or all normalised.
    instances: annotated entities that the reference holds; found: those mentioned in the hypothesis, each mention
    counting once. mentions: all mentions, in the hypothesis, of any value annotated in the set; false: those of a value
    that is neither annotated nor mentioned in the reference as often.
    """
    lexicon = Lexicon(tokenise(value) for items in entities.values() for _, value in items)
    counts = {}
    for utt, ref in refs.items():
        ref_tokens, hyp_tokens = tokenise(ref), tokenise(hyps[utt])
        annotated = Counter(tuple(tokenise(value)) for _, value in entities.get(utt, ()))
        del annotated[()]
        own = Lexicon(annotated)
        there, heard = own.count(ref_tokens), own.count(hyp_tokens)
        instances = {v: min(n, there[v]) for v, n in annotated.items()}
        found = sum(min(n, heard[v]) for v, n in instances.items())
        said, mentioned = lexicon.count(ref_tokens), lexicon.count(hyp_tokens)
        false = sum(max(0, n - max(said[v], instances.get(v, 0))) for v, n in mentioned.items())
        counts[utt] = sum(instances.values()), found, sum(mentioned.values()), false
    return counts


def inside_errors(pairs, lexicon, words=()):
    """(errors inside, words inside, errors outside, words outside) of an alignment.

    pairs: as of UtteranceScore. Inside are the reference words that belong to a mention of
    `lexicon`. A substitution or deletion belongs where its reference word does. An insertion is
    inside if it stands between two words of one mention, or is one of `words` (listed single
    words, as in contextual biasing's B-WER).
    """
    ref = [r for op, r, _ in pairs if op != "I"]
    span = [0] * (len(ref) + 1)  # number of the mention of each word; the last is a sentinel
    for number, (start, end, _) in enumerate(lexicon.find(ref), 1):
        span[start:end] = [number] * (end - start)
    errors, sizes, at = [0, 0], [0, 0], 0
    for op, _, hyp in pairs:
        if op == "I":
            between = at > 0 and span[at - 1] == span[at] != 0
            errors[between or hyp in words] += 1
        else:
            inside = span[at] != 0
            sizes[inside] += 1
            errors[inside] += op != "="
            at += 1
    return errors[True], sizes[True], errors[False], sizes[False]
