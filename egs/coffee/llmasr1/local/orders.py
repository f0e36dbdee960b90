"""Text about ordering coffee, from the patterns of orders.txt and the words of menu.txt."""

import re
from pathlib import Path

import text  # local/text.py, that of mini_tts

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.entities import Lexicon, tokenise

HERE = Path(__file__).resolve().parent
# Classes that give no word twice: "we ran out of milk so i used milk".
ONCE = "coffeeDrink size roast numberOfShots milkAmount sugarAmount milk sweet who".split()
_SLOT = re.compile(r"\{([^{}]*)\}")


def plain(sentence):
    """Lower case without punctuation; a typographic apostrophe is one."""
    return text.normalise(sentence.replace("\u2019", "'"))


def key(sentence):
    """What makes two sentences the same: not their articles, as the test set's are a recogniser's guess."""
    return " ".join("a" if word == "an" else word for word in plain(sentence).split())


class Orders:
    """Draws sentences that hold nothing of a test set.

    test: {utt: (sentence, slot values)}. A sentence is drawn again if a test sentence occurs in it, word by word, or
    if the slot values that it mentions, two or more, are just those of a test sentence, however they are put. A test
    sentence that is a single value forbids nothing: "latte" would forbid all lattes.
    """

    def __init__(self, test):
        self.patterns = text.read_patterns(HERE / "orders.txt")
        self.words = text.read_words(HERE / "menu.txt")
        self.said = [
            f" {key(sentence)} "
            for sentence, values in test.values()
            if key(sentence).removeprefix("a ") not in map(key, values)
        ]
        orders = [frozenset(tuple(tokenise(value)) for value in values) for _, values in test.values()]
        self.ordered = {values for values in orders if len(values) > 1}
        self.values = Lexicon(value for values in orders for value in values)

    def draw(self, rng):
        """Draw a sentence; rng: random.Random. UserError for an unknown class."""
        drawn = []

        def fill(match):
            name = match[1]
            if "|" in name:
                return rng.choice(name.split("|"))
            if name not in self.words:
                raise UserError(f"{HERE / 'menu.txt'}: no class [{name}], which a pattern or an entry names")
            words = _SLOT.sub(fill, rng.choice(self.words[name]))
            if name in ONCE:
                drawn.append((name, words))
            return words

        while True:
            sentence = _SLOT.sub(fill, rng.choice(self.patterns))
            if len(set(drawn)) == len(drawn):
                break
            drawn.clear()
        return re.sub(r"\ban? (?=(\w+))", lambda m: text.article(m[1]) + " ", sentence)

    def is_of_test(self, sentence):
        padded = f" {key(sentence)} "
        mentioned = frozenset(value for _, _, value in self.values.find(tokenise(sentence)))
        return mentioned in self.ordered or any(said in padded for said in self.said)

    def sentences(self, n, rng, held_out=()):
        """Draw `n` different sentences, none of them in `held_out`. UserError if there are too few."""
        found, misses = {}, 0
        while len(found) < n:
            sentence = self.draw(rng)
            if sentence in found or sentence in held_out or self.is_of_test(sentence):
                misses += 1
                if misses > 100 * n + 1000:
                    raise UserError(f"there are fewer than {n} different sentences about coffee; lower the number")
                continue
            found[sentence] = True
        return list(found)
