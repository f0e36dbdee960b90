"""Word and character error rates, by utterance and summed over a set."""

from collections import Counter
from dataclasses import dataclass

from espnet_llmvq.base.errors import UserError

BLOCK = 2000  # utterances given to jiwer at once


@dataclass(frozen=True)
class UtteranceScore:
    """Counts of one utterance. `pairs` is its alignment: (op, reference word, hypothesis word).

    `op` is "=", "S", "D" or "I"; the word that an insertion or deletion lacks is "".
    `chars` and `char_errors` count the words joined by single spaces, spaces included.
    """

    utt: str
    pairs: tuple
    chars: int
    char_errors: int

    def count(self, op):
        return sum(pair[0] == op for pair in self.pairs)

    @property
    def words(self):
        return len(self.pairs) - self.count("I")

    @property
    def errors(self):
        return len(self.pairs) - self.count("=")


@dataclass(frozen=True)
class Score:
    """Counts summed over a set; `wer` is in percent."""

    words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def wer(self):
        return 100 * (self.substitutions + self.deletions + self.insertions) / self.words


def _pairs(ref, hyp, chunks):
    pairs = []
    for chunk in chunks:
        r = ref[chunk.ref_start_idx : chunk.ref_end_idx]
        h = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
        op = {"equal": "=", "substitute": "S", "delete": "D", "insert": "I"}[chunk.type]
        pairs += zip([op] * max(len(r), len(h)), r or [""] * len(h), h or [""] * len(r))
    return tuple(pairs)


def score_utterances(refs, hyps):
    """The UtteranceScores of `refs`, in its order.

    refs, hyps: {utterance: list of words}, already normalised, with the same utterances. An
    empty reference is allowed: every word of its hypothesis is an insertion.
    """
    import jiwer
    from rapidfuzz.distance import Levenshtein

    # jiwer's default would also strip and reduce spaces, of which joined words have none too many.
    split = jiwer.Compose([jiwer.ReduceToListOfListOfWords()])
    utts, scores = list(refs), []
    # In blocks: jiwer's objects take many times the memory of the words.
    for start in range(0, len(utts), BLOCK):
        block = utts[start : start + BLOCK]
        ref_texts = [" ".join(refs[utt]) for utt in block]
        hyp_texts = [" ".join(hyps[utt]) for utt in block]
        words = jiwer.process_words(ref_texts, hyp_texts, split, split)
        for i, utt in enumerate(block):
            pairs = _pairs(refs[utt], hyps[utt], words.alignments[i])
            # jiwer's own distance, without the alignment that process_characters would make
            errors = Levenshtein.distance(ref_texts[i], hyp_texts[i])
            scores.append(UtteranceScore(utt, pairs, len(ref_texts[i]), errors))
    return scores


def total(scores):
    """The Score of a list of UtteranceScores; UserError if the references have no word."""
    words = sum(score.words for score in scores)
    if not words:
        raise UserError(
            "the references hold no words after normalisation, so there is no error rate; "
            "check the reference file and the normaliser"
        )
    return Score(words, *(sum(score.count(op) for score in scores) for op in "SDI"))


def split_words(texts, normalise):
    """{utterance: list of normalised words} of {utterance: text}."""
    return {utt: normalise(text).split() for utt, text in texts.items()}


def word_counts(texts, normalise):
    """A Counter of the normalised words of {utterance: text}."""
    return Counter(word for text in texts.values() for word in normalise(text).split())


def oov_rate(refs, known):
    """The percentage of the running words of `refs`, {utterance: list of words}, that are not in `known`."""
    words = [word for utt_words in refs.values() for word in utt_words]
    return 100 * sum(word not in known for word in words) / len(words) if words else 0.0


def format_alignments(scores):
    """The alignments of UtteranceScores as text, in the manner of sclite's `result.txt`."""
    blocks = []
    for score in scores:
        rows = {"REF: ": [], "HYP: ": [], "Eval:": []}
        for op, ref, hyp in score.pairs:
            cells = (ref or "*" * len(hyp), hyp or "*" * len(ref), "" if op == "=" else op)
            width = max(map(len, cells))
            for row, cell in zip(rows.values(), cells):
                row.append(cell.ljust(width))
        counts = " ".join(str(score.count(op)) for op in "=SDI")
        lines = [f"id: ({score.utt})", f"Scores: (#C #S #D #I) {counts}"]
        lines += [f"{name} {' '.join(row)}".rstrip() for name, row in rows.items()]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
