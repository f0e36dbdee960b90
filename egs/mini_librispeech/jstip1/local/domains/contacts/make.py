"""Contacts: sentences with names, numbers and addresses, as people say and spell them; prompts that 30 people read."""

import re

import an4  # local/data.py of that recipe, for ways to say a number
import domain  # local/domain.py
import mini  # local/data.py of llmasr1
import numpy as np
import text  # of mini_tts, for word lists

from espnet_llmvq.base.errors import UserError

SLOT = re.compile(r"\{([^{}]*)\}")
SPELLED = " spelled"  # {given spelled}: the letters of the {given} before it, or of another one


class Contacts:
    """Draws sentences; folder: of sentences.txt and words.txt."""

    def __init__(self, folder, rng):
        self.rng, self.places = rng, (folder / "sentences.txt", folder / "words.txt")
        self.patterns, self.words = text.read_patterns(self.places[0]), text.read_words(self.places[1])
        for name, entries in self.words.items():
            wrong = [entry for entry in entries if not re.fullmatch(r"[a-z]+( [a-z]+)*", entry)]
            if wrong:
                raise UserError(f"{self.places[1]}: [{name}]: {wrong[0]!r} is not of lower case letters (correct it)")
            if not entries:
                raise UserError(f"{self.places[1]}: [{name}] has no entry")
        if not self.patterns:
            raise UserError(f"{self.places[0]}: has no sentence")
        self.numbers = an4.Grammar([], np.random.default_rng(rng.randrange(2**32)))

    def number(self, kind):
        """Words of a number: `phone` of ten digits, `house` as houses are numbered, `unit` of three digits."""
        if kind == "house":
            return self.said(self.numbers.number())
        words = self.numbers.digits(10 if kind == "phone" else 3)
        if self.rng.random() < 0.3:  # "five five" is "double five", for some
            for i in range(len(words) - 1):
                if words[i] and words[i] == words[i + 1]:
                    words[i : i + 2] = [f"double {words[i]}", ""]
        return self.said(filter(None, words))

    @staticmethod
    def said(words):
        return " ".join(words).lower()

    def draw(self):
        """A sentence. Raises UserError for a slot that is none."""
        pattern, drawn = self.rng.choice(self.patterns), {}

        def fill(match):
            name = match[1]
            if "|" in name:
                return self.rng.choice(name.split("|"))
            if name in ("phone", "house", "unit"):
                return self.number(name)
            spelled = name.endswith(SPELLED)
            name = name.removesuffix(SPELLED)
            if name not in self.words:
                raise UserError(f"{self.places[0]}: {pattern!r}: {self.places[1]} has no class [{name}]")
            if not (spelled and name in drawn):
                drawn[name] = self.rng.choice(self.words[name])
            return " ".join(drawn[name].replace(" ", "")) if spelled else drawn[name]

        return SLOT.sub(fill, pattern)

    def sentences(self, count):
        """`count` different sentences. Raises UserError if there are too few."""
        found, misses = {}, 0
        while len(found) < count:
            sentence = self.draw()
            misses += sentence in found
            found[sentence] = True
            if misses > 10 * count + 1000:
                raise UserError(f"{self.places[0]}: gives fewer than {count} different sentences; lower --lines")
        return list(found)

    def terms(self):
        """[(slot, term)]: given names, family names and streets, in turns."""
        rows = zip(*(dict.fromkeys(self.words[name]) for name in ("given", "family", "street")))
        return [pair for row in rows for pair in zip(("name", "name", "street"), row)]


def make(places, count, rng):
    drawer = Contacts(domain.HOME / "contacts", rng)
    data = mini.lower(mini.read_alnum(places["alnum"]))
    return domain.Domain(drawer.sentences(count), drawer.terms(), data)
