"""Text as if heard: the steps that the LLM would have got of a text from speech, put together from steps of real ones.

Where speech reaches the LLM as weighted rows of its own table, a text can be turned into such rows without any speech:
it is spelled in the tokens of the CTC head, and each word sounds as one of the times that it was spoken; a word that
was spoken too seldom, piece by piece. Errors of the recogniser, what it leaves out and adds, and its doubts come along.

A step is a mapping {token: weight}. Spoken words are JSON lines, one an utterance, in which a word is a list of its
pieces with the steps of each::

    {"id": "u1", "words": [[["▁the", [{"▁the": 0.93, "▁a": 0.07}]]], [["▁c", [{"▁c": 1.0}]], ["at", []]]]}
"""

import collections
import json

from espnet_llmvq.base.errors import UserError, reading

LEAST = 2  # times that a word or a piece must have been spoken to be drawn from: of one time all texts would be alike


class Confusions:
    """What was heard of words: an iterable of words, each a list of (piece, steps). Raises ValueError without any."""

    def __init__(self, words):
        self.spoken, self.alike = collections.defaultdict(list), collections.defaultdict(list)
        for word in words:
            if len(word) > 1:
                self.spoken[tuple(piece for piece, _ in word)].append([steps for _, steps in word])
            for at, (piece, steps) in enumerate(word):
                self.spoken[(piece,)].append([steps])
                for kind in kinds(piece, at):
                    self.alike[kind].append((piece, steps))
        if not self.alike:
            raise ValueError("no word was spoken")

    def __call__(self, words, draw):
        """Steps of a text. words: its words, each a tuple of pieces; draw: `random.Random`."""
        return [step for _, steps in self.pieces(words, draw) for step in steps]

    def pieces(self, words, draw):
        """[(piece, steps)] of a text, as above."""
        found = []
        for word in words:
            if self.often(word):
                found += zip(word, draw.choice(self.spoken[word]))
            else:
                found += [(piece, self.piece(piece, at, draw)) for at, piece in enumerate(word)]
        return found

    def often(self, unit):
        return len(self.spoken.get(unit, ())) >= LEAST

    def piece(self, piece, at, draw):
        """Steps of one piece; of one that was hardly spoken, those of another of its kind under its own name."""
        if self.often((piece,)):
            return draw.choice(self.spoken[(piece,)])[0]
        found = [kind for kind in kinds(piece, at) if len(self.alike.get(kind, ())) >= LEAST]
        other, steps = draw.choice(self.alike[found[0] if found else ()])
        return [renamed(step, other, piece) for step in steps]


def kinds(piece, at):
    """What a piece is like, closest first: its place in the word and its length; its place; nothing."""
    return (at == 0, len(piece)), (at == 0,), ()


def renamed(step, old, new):
    """A step in which a token has the weight of another one."""
    weights = collections.Counter()
    for token, weight in step.items():
        weights[new if token == old else token] += weight
    return dict(weights)


def read_spoken(path):
    """Yield (utterance, words) of a file of spoken words. Raises UserError for a damaged one."""
    with reading(path, "remove it and run stage 9"), open(path, encoding="utf-8") as f:
        for line in f:
            entry = json.loads(line)
            yield entry["id"], [[(piece, steps) for piece, steps in word] for word in entry["words"]]


def read_confusions(path):
    """The `Confusions` of a file of spoken words. Raises UserError."""
    try:
        return Confusions(word for _, words in read_spoken(path) for word in words)
    except ValueError as err:
        raise UserError(f"{path}: {err}; remove it and run stage 9") from None
