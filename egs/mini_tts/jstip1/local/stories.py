"""Texts of one or two sentences in which a word may be said again, and facts of the medical domain."""

import functools
import re
from pathlib import Path

import text  # local/text.py, the same as that of llmasr1

from espnet_llmvq.base.errors import UserError

HERE = Path(__file__).resolve().parent
ENTITIES = ("drug", "condition", "doctor")
MIN_WORDS, MAX_WORDS = 5, 16  # of a text: 2 to 7 s
_SLOT = re.compile(r"\{([^{}]*)\}")


def sentences(story):
    """Split a text into its sentences."""
    return re.split(r"(?<=[.?!]) ", story)


def finish(story):
    """A text with "a" or "an" as it must be, and a capital at the beginning of each sentence."""
    story = re.sub(r"\b(an?) (?=(\w+))", lambda m: text.article(m[2]) + " ", story, flags=re.I)
    return " ".join(s[0].upper() + s[1:] for s in sentences(story))


def read_table(name, columns):
    """Read a table of tab-separated columns -> [{column: value}]; UserError names the line."""
    rows = []
    for number, line in enumerate((HERE / name).read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        values = line.split("\t")
        if len(values) != len(columns):
            raise UserError(f"{HERE / name}:{number}: {len(values)} columns, not {len(columns)}")
        rows.append(dict(zip(columns, values)))
    return rows


class Stories(text.Generator):
    """Texts from patterns of stories.txt or dictations.txt.

    A slot {class#key} draws a word and keeps it under `key`; {#key} says it again. The words are those of llmasr1 and
    of words.txt. joined: share of texts that are two sentences of llmasr1 instead; a story of one sentence then has one
    of llmasr1 behind it, so that every text can be cut into segments. None: neither.
    """

    def __init__(self, patterns, joined=None, broad_share=0.04, core_words=8):
        super().__init__("everyday", broad_share, core_words)
        self.core.update(text.read_words(HERE / "words.txt"))
        self.stories = text.read_patterns(HERE / patterns)
        self.joined = joined

    def story(self, rng, facts=()):
        """Draw a text -> (text, entities [(slot, value)] in spoken order).

        rng: random.Random. facts: {key: word} that {#key} may name. Raises UserError for a slot that nothing fills, and
        when no pattern gives a text of the right length.
        """
        for _ in range(10000):
            if self.joined is not None and rng.random() < self.joined:
                story, entities = " ".join(self.sentence(rng)[0] for _ in range(2)), []
            else:
                chosen, entities, known = [], [], dict(facts)
                fill = functools.partial(self._fill, rng, chosen, entities, known)
                story = finish(_SLOT.sub(fill, rng.choice(self.stories)))
                if len(set(chosen)) < len(chosen):
                    continue
                if self.joined is not None and len(sentences(story)) == 1:
                    story += " " + self.sentence(rng)[0]
            if MIN_WORDS <= len(story.split()) <= MAX_WORDS:
                return story, entities
        raise UserError(f"no pattern gives {MIN_WORDS} to {MAX_WORDS} different words, e.g. {self.stories[0]!r}")

    def _fill(self, rng, chosen, entities, known, match):
        slot, kept, key = match[1].partition("#")
        if not kept:
            return super()._fill(rng, chosen, entities, known, match)
        if slot:
            drawn = _SLOT.match("{" + slot + "}")
            known[key] = super()._fill(rng, chosen, entities, known, drawn)
        elif key not in known:
            raise UserError(f"{{#{key}}} stands before what it repeats")
        name = key.rstrip("0123456789")
        if name in ENTITIES:
            entities.append((name, known[key]))
        return known[key]


class Medicine:
    """Facts of the medical domain: tables, the sentences that state them, and the questions that they answer.

    A fact is (record, relation). Half of the facts are `asked`: their questions are for tests only. The questions of
    the others may be training text, so that a language model sees what a question is.
    """

    def __init__(self):
        drugs = read_table("medical.tsv", ("drug", "condition", "part", "source", "shape", "effect"))
        doctors = read_table("doctors.tsv", ("doctor", "clinic", "town"))
        self.drugs, self.doctors, self.records = drugs, doctors, drugs + doctors
        self.stated, self.questions = {}, []
        for line in text.read_patterns(HERE / "facts.txt"):
            relation, *rest = line.split("\t")
            if relation.startswith("? "):
                answer, wordings = rest
                self.questions.append((relation[2:], answer, [w.strip() for w in wordings.split("|")]))
            else:
                self.stated.setdefault(relation, []).append(rest[0])
        self.relations = list(self.stated)

    def entities(self):
        """The values that count as entities, in lower case."""
        return {row[name].lower() for row in self.records for name in ENTITIES if name in row}

    def facts(self, record):
        """Relations that a record has: those whose slots are its columns."""
        return [r for r in self.relations if all(k in record for k in re.findall(r"#(\w+)", self.stated[r][0]))]

    def asked(self, record, relation):
        """Is this fact's question one of the tests'?"""
        return (self.records.index(record) + self.relations.index(relation)) % 2 == 0

    def situation(self, rng):
        """Draw what a dictation speaks about -> {key: word}: two drugs with their conditions, and a doctor."""
        one, other = rng.sample(self.drugs, 2)
        return {**one, **{f"{k}2": v for k, v in other.items()}, **rng.choice(self.doctors)}

    def document(self, rng, record):
        """Draw a document of two facts of a record -> (text, entities)."""
        chosen = rng.sample(self.facts(record), 2)
        entities, lines = [], [rng.choice(self.stated[r]) for r in chosen]

        def fill(match):
            key = match[1].removeprefix("#")
            if key in ENTITIES:
                entities.append((key, record[key]))
            return record[key]

        return finish(_SLOT.sub(fill, " ".join(lines))), entities

    def asks(self, asked):
        """Yield (record, answer's column, wordings) of all questions about facts that are, or are not, `asked`."""
        for relation, answer, wordings in self.questions:
            for record in self.records:
                if relation in self.facts(record) and self.asked(record, relation) == asked:
                    yield record, answer, [w.replace("{#", "{").format(**record) for w in wordings]
