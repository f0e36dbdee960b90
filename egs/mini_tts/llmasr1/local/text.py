"""Generate English sentences from patterns and word lists; equal seeds give equal sentences."""

import functools
import re
from pathlib import Path

from espnet_llmvq.base.errors import UserError

HERE = Path(__file__).resolve().parent
ENTITIES = ("drug", "condition", "person", "dose")
MIN_WORDS, MAX_WORDS = 4, 8
_SLOT = re.compile(r"\{([^{}]*)\}")
# Words spelled with a vowel that start with a consonant sound, and the reverse.
_CONSONANT_SOUND = re.compile(r"(uni(?!n|m)|us[eu]|eu|one\b|once\b|ut[aeo]|uk)", re.I)
_VOWEL_SOUND = re.compile(r"([aeiou]|hour|honest|honor|heir)", re.I)


def read_words(path):
    """Read a word list -> {class: [entry]}, entries repeated by their weight.

    The notation is described at the top of core.txt. Raises UserError naming the line.
    """
    classes, current = {}, None
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            current = classes.setdefault(line.strip("[]"), [])
            continue
        if current is None:
            raise UserError(f"{path}:{number}: a word before the first [class]")
        for entry in filter(None, map(str.strip, line.split(","))):
            word, _, weight = entry.partition("*")
            current.extend([word] * int(weight or 1))
    return classes


def read_patterns(path):
    """Read sentence patterns, one per line, without comments."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def article(word):
    """The article, "a" or "an", that goes before `word`."""
    vowel = _VOWEL_SOUND.match(word) and not _CONSONANT_SOUND.match(word)
    return "an" if vowel else "a"


def plural(noun):
    """Regular English plural."""
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def _stem(verb):
    """The verb ready for -ed and -ing: the final consonant of "stop" doubles."""
    if re.fullmatch(r"[^aeiou]*(qu)?[aeiou][^aeiouwxy]", verb):
        return verb + verb[-1]
    return verb


def inflect(entry, form):
    """A form ("", pl, s, ed, ing) of a word list entry; of a phrase, what inflects."""
    parts = entry.split("/")
    base = parts[0]
    if not form:
        return base
    if form == "pl":
        return parts[1] if len(parts) > 1 else plural(base)
    verb, space, particle = base.partition(" ")
    rest = space + particle
    if form == "s":
        return (verb + "es" if verb.endswith("o") else plural(verb)) + rest
    if form == "ed":
        if len(parts) > 1:
            return parts[1]
        if verb.endswith("e"):
            return verb + "d" + rest
        if re.search(r"[^aeiou]y$", verb):
            return verb[:-1] + "ied" + rest
        return _stem(verb) + "ed" + rest
    if form == "ing":
        if len(parts) > 2:
            return parts[2]
        dropped = verb.endswith("e") and not re.search(r"(ee|ye|oe)$", verb)
        return (verb[:-1] if dropped else _stem(verb)) + "ing" + rest
    raise UserError(f"unknown form {form!r} of {entry!r}")


def normalise(text):
    """Lower case without punctuation: what makes two sentences the same."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


class Generator:
    """Sentences of one domain, "everyday" or "medical".

    broad_share: how often a slot takes a word of broad.txt where that list has its class.
    core_words: how many words of a class of core.txt and medical.txt are used; entities all are.
    Few frequent words keep the default recipe short; the broad ones keep its speech varied.
    """

    def __init__(self, domain, broad_share=0.04, core_words=8):
        self.patterns = read_patterns(HERE / f"{domain}_patterns.txt")
        self.core = {**read_words(HERE / "core.txt"), **read_words(HERE / "medical.txt")}
        for name, words in self.core.items():
            if name not in (*ENTITIES, "treats"):
                # The first ones; a repeated entry keeps its weight.
                kept = list(dict.fromkeys(words))[:core_words]
                self.core[name] = [word for word in words if word in kept]
        self.broad = read_words(HERE / "broad.txt")
        self.broad_share = broad_share

    def sentence(self, rng):
        """Draw a sentence -> (text, entities [(slot, value)] in spoken order).

        rng: random.Random. Raises UserError when no pattern gives a sentence of the right length.
        """
        for _ in range(10000):
            pattern = rng.choice(self.patterns)
            chosen, entities, pair = [], [], {}
            fill = functools.partial(self._fill, rng, chosen, entities, pair)
            text = _SLOT.sub(fill, pattern)
            if len(set(chosen)) < len(chosen):
                continue  # "the dog chased the dog"
            if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
                break
        else:
            raise UserError(f"no pattern gives {MIN_WORDS} to {MAX_WORDS} different words, e.g. {pattern!r}")
        text = re.sub(r"\b([Aa]) (?=(\w+))", lambda m: _keep(m[1], article(m[2])) + " ", text)
        return text[0].upper() + text[1:], entities

    def _fill(self, rng, chosen, entities, pair, match):
        slot = match[1]
        if "|" in slot:
            return rng.choice(slot.split("|"))
        name, _, form = slot.partition(".")
        if name == "treats":
            if not pair:
                drug, condition = rng.choice(self.core["treats"]).split(" > ")
                pair.update(drug=drug, condition=condition)
            name, entry, form = form, pair[form], ""
        elif name in self.core:
            broad = self.broad.get(name)
            use_broad = broad and rng.random() < self.broad_share
            entry = rng.choice(broad if use_broad else self.core[name])
        else:
            raise UserError(f"no word list has the class {name!r}")
        if "{" in entry:
            return _SLOT.sub(functools.partial(self._fill, rng, chosen, entities, pair), entry)
        word = inflect(entry, form)
        if name != "my":
            chosen.append(entry)
        if name in ENTITIES:
            entities.append((name, word))
        return word

    def distinct(self, n, rng, taken):
        """Draw `n` sentences whose normalised text is not in the set `taken`, and add it there."""
        found, misses = [], 0
        while len(found) < n:
            text, entities = self.sentence(rng)
            key = normalise(text)
            if key in taken:
                misses += 1
                if misses > 100 * n + 1000:
                    raise UserError(f"there are fewer than {n} further distinct sentences")
                continue
            taken.add(key)
            found.append((text, entities))
        return found


def _keep(old, new):
    """`new` with the capital of `old`."""
    return new.capitalize() if old[0].isupper() else new
