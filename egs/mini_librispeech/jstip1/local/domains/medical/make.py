"""Medical: sentences of MedQuAD's answers and MTS-Dialog's turns that name a drug or a condition; some to be spoken.

Which words these are a rule says (endings.txt), not a person who has looked at what a system gets wrong.
"""

import collections
import re

import domain  # local/domain.py

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.manifest import read_lines
from espnet_llmvq.data.normalise import basic
from espnet_llmvq.score.entities import Lexicon

ENDINGS = domain.HOME / "medical" / "endings.txt"
SLOTS = ("drug", "condition")
LEAST = 5  # sentences that have an entity
WORDS = (6, 25)  # of a sentence
SPOKEN = 150  # sentences of the test set
ALIKE = 3  # of these that may have the same entity first
SPEAKER = re.compile(r"^\s*[A-Z][\w ]{0,20}:\s*")  # "Doctor: "


def read_endings(path=ENDINGS):
    """({slot: endings}, words that are none). Raises UserError with the line of what is neither."""
    endings, others = {slot: [] for slot in SLOTS}, set()
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        kind, *words = line.split()
        if kind not in (*SLOTS, "not") or not words or not all(re.fullmatch("[a-z]+", word) for word in words):
            raise UserError(f"{path}:{number}: expected 'drug', 'condition' or 'not', and then letters, not {line!r}")
        if kind == "not":
            others.update(words)
        else:
            endings[kind] += words
    if not all(endings.values()):
        raise UserError(f"{path}: has no ending of {' and '.join(slot for slot in SLOTS if not endings[slot])}")
    return {slot: tuple(found) for slot, found in endings.items()}, others


def sentences_of(path):
    """Different sentences of letters alone, as transcripts are written, of a text."""
    parts = (basic(part) for line in read_lines(path) for part in re.split(r"(?<=[.!?;]) ", SPEAKER.sub("", line)))
    kept = (part for part in parts if WORDS[0] <= len(part.split()) <= WORDS[1] and re.fullmatch("[a-z' ]+", part))
    return list(dict.fromkeys(kept))


def terms_of(sentences, endings, others):
    """{word: slot} of the entities of sentences, the most frequent first."""
    counts = collections.Counter(word for sentence in sentences for word in set(sentence.split()))
    found = {}
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        singular = word.removesuffix("s") if word.endswith(("omas", "ins")) else word
        slot = next((slot for slot in SLOTS if singular.endswith(endings[slot])), None)
        if slot and count >= LEAST and not {word, singular} & others:
            found[word] = slot
    return found


def make(places, count, rng):
    endings, others = read_endings()
    texts = [sentences_of(places[name]) for name in ("medquad", "mts_dialog")]
    sentences = list(dict.fromkeys(sum(texts, [])))
    terms = terms_of(sentences, endings, others)
    if not terms:
        raise UserError(
            f"{places['medquad']}, {places['mts_dialog']}: no word with an ending of {ENDINGS} is in {LEAST} sentences"
        )
    lexicon = Lexicon((word,) for word in terms)
    mentions = {s: [word for _, _, (word,) in lexicon.find(s.split())] for s in sentences}
    pool = [s for s in sentences if mentions[s]]
    rng.shuffle(pool)
    spoken, text, first = [], [], collections.Counter()
    for sentence in pool:
        word = mentions[sentence][0]
        # So that each entity of the test has other sentences in the text.
        if len(spoken) < min(SPOKEN, len(pool) // 3) and first[word] < ALIKE:
            first[word] += 1
            spoken.append((f"medical-{len(spoken):04d}", sentence, [(terms[w], w) for w in mentions[sentence]]))
        else:
            text.append(sentence)
    return domain.Domain(text, [(slot, word) for word, slot in terms.items()], spoken=spoken)
