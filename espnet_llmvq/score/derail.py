"""Derailment audit: hypotheses that are no recognition errors but a generation gone astray.

Nothing is repaired: they are counted, and the error rate is given with and without them.
"""

import re
from dataclasses import dataclass

from espnet_llmvq.base.config import option
from espnet_llmvq.base.errors import UserError

EXAMPLES = 3  # utterances named of each kind
KINDS = {
    "loop": "a piece repeated over and over",
    "empty": "nothing, where something was said",
    "at_limit": "cut off at the length limit",
    "length": "far longer than the reference",
    "prompt": "text of the prompt",
}


@dataclass(frozen=True)
class AuditRules:
    """Thresholds of the audit. Raises UserError for impossible ones.

    A run of 1 to 8 words said at least `loop_repeats` times in a row, and more often than in the reference, is a loop;
    so is a run of 1 to 8 characters within a word, said twice as often. A hypothesis with more than length_ratio *
    (words of the reference) + length_words words is runaway. Words sound alike if at most a share of `sound_distance`
    of their sounds differs (`origins`).
    """

    loop_repeats: int = option(4, "words said so often in a row are a loop, unless the reference has them")
    length_ratio: float = option(2.0, "times the words of the reference, and --length_words more: runaway length")
    length_words: int = option(3, "see --length_ratio")
    sound_distance: float = option(0.34, "share of sounds that may differ in words that sound alike")

    def __post_init__(self):
        if self.loop_repeats < 2 or self.length_ratio < 1 or self.length_words < 0:
            raise UserError(
                "--loop_repeats must be at least 2, --length_ratio at least 1 and --length_words at "
                f"least 0, not {self.loop_repeats}, {self.length_ratio:g} and {self.length_words}"
            )
        if not 0 <= self.sound_distance < 1:
            raise UserError(f"--sound_distance {self.sound_distance:g}: give a share from 0 to below 1, such as 0.34")


def longest_run(words, longest=8):
    """How often the most repeated run of 1 to `longest` words stands in a row."""
    best = 1 if words else 0
    for size in range(1, min(longest, len(words) // 2) + 1):
        same = 0
        for i in range(size, len(words)):
            same = same + 1 if words[i] == words[i - size] else 0
            best = max(best, same // size + 1)
    return best


def is_loop(ref, hyp, repeats):
    """Whether a hypothesis loops and its reference does not; both are lists of words."""
    # Most hypotheses repeat too little to loop, and need no closer look.
    if len(hyp) - len(set(hyp)) >= repeats - 1:
        run = longest_run(hyp)
        if run >= repeats and run > longest_run(ref):
            return True
    long = [w for w in hyp if len(w) >= 2 * repeats and len(w) - len(set(w)) >= 2 * repeats - 1]
    if not long:
        return False
    inside = re.compile(rf"(\S{{1,8}}?)\1{{{2 * repeats - 1},}}")
    return any(map(inside.search, long)) and not any(map(inside.search, ref))


def prompt_pieces(prompt):
    """The fixed sentences of a template such as "USER: {speech} ASSISTANT: {text}".

    In lower case; pieces of fewer than four characters say nothing and are left out.
    """
    pieces = re.split(r"\{[^{}]*\}|(?<=[.:!?])\s+", prompt.lower())
    return [piece.strip() for piece in pieces if len(piece.strip()) >= 4]


def audit(refs, hyps, ref_words, hyp_words, at_limit=(), prompt="", rules=AuditRules()):  # noqa: B008
    """{kind: [utterances]} for every kind of KINDS; an utterance may be in several.

    refs, hyps: {utt: raw text}; ref_words, hyp_words: {utt: normalised words}; at_limit: the
    utterances that decoding cut off; prompt: the template, or "" if not known.
    """
    derailed = {kind: [] for kind in KINDS}
    pieces = prompt_pieces(prompt)
    for utt, ref in ref_words.items():
        hyp = hyp_words[utt]
        if is_loop(ref, hyp, rules.loop_repeats):
            derailed["loop"].append(utt)
        if ref and not hyp:
            derailed["empty"].append(utt)
        if utt in at_limit:
            derailed["at_limit"].append(utt)
        if len(hyp) > rules.length_ratio * len(ref) + rules.length_words:
            derailed["length"].append(utt)
        raw = hyps[utt].lower()
        if any(piece in raw and piece not in refs[utt].lower() for piece in pieces):
            derailed["prompt"].append(utt)
    return derailed


def derailment_rows(system, set_name, derailed, utts, counts):
    """Entries of `derailments.json` of a system on a set: each kind, and "any".

    derailed: what `audit` returns. utts: N utterance ids; counts: (N, 2) word errors and words.
    `utterances` is N, `count` how many derailed, `wer_all` the rate of the set in percent and `wer_without` that of the
    other utterances (None if they hold no words); `examples` are the first of those that derailed.
    """
    import numpy as np

    counts = np.asarray(counts)

    def rate(kept):
        errors, words = counts[kept].sum(axis=0)
        return round(100 * float(errors / words), 4) if words else None

    kinds = {kind: set(listed) for kind, listed in derailed.items()}
    kinds["any"] = set().union(*kinds.values())
    return [
        {
            "system": system,
            "set": set_name,
            "kind": kind,
            "count": len(listed),
            "utterances": len(utts),
            "wer_all": rate(slice(None)),
            "wer_without": rate(np.array([utt not in listed for utt in utts])),
            "examples": [utt for utt in utts if utt in listed][:EXAMPLES],
        }
        for kind, listed in kinds.items()
    ]
