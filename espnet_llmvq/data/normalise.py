"""Named text normalisers, applied to reference and hypothesis alike before they are compared.

`none`             the text as it is
`basic`            Unicode NFKC, lower case, hyphens to spaces, no punctuation but apostrophes
                   inside words, single spaces
`whisper_basic`    Whisper's normaliser for any language (drops bracketed text)
`whisper_english`  Whisper's normaliser for English (numbers, contractions, British spellings)
`softvq`           scoring of arXiv 2506.05706: parentheses go but the text in them stays, "&"
                   becomes "and", then `whisper_basic`
`spelled`          `whisper_english`, then letter by letter and digit by digit: spaces do not count, numbers in words
                   are digits, and the digit 0 is the letter o, as both are said alike
"""

import re
import unicodedata

from espnet_llmvq.base.errors import check_name

# NFKC leaves the typographic apostrophes alone, and turns the acute accent into a space and a
# combining mark, so all of them become "'" first.
_APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ´`′"), "'")


class _Cleaner(dict):
    """Table of str.translate, filled as characters occur: {code point: what it becomes}."""

    def __missing__(self, code):
        char = chr(code)
        category = unicodedata.category(char)
        if category == "Pd" or char in "/−":  # hyphens, dashes, slash and minus separate words
            self[code] = " "
        else:
            self[code] = "" if category[0] == "P" and char != "'" else char
        return self[code]


_CLEANER = _Cleaner()


def basic(text):
    """`text` normalised as `basic` says above; applying it twice changes nothing more."""
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    text = text.replace("...", " ")  # NFKC of the ellipsis; joins two words if only deleted
    text = text.translate(_CLEANER)
    text = re.sub("'{2,}|(?<!\\S)'|'(?!\\S)", "", text)
    # Deleting a character can bring a letter and a combining mark together.
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _whisper_basic():
    from whisper_normalizer.basic import BasicTextNormalizer

    normalise = BasicTextNormalizer()
    return lambda text: normalise(text).strip()


def _whisper_english():
    from whisper_normalizer.english import EnglishTextNormalizer

    normalise = EnglishTextNormalizer()
    return lambda text: normalise(text).strip()


def _softvq():
    whisper_basic = _whisper_basic()
    # Whisper's normaliser drops what stands in parentheses, though it was spoken.
    return lambda text: whisper_basic(re.sub("[()]", "", text).replace("&", " and "))


def _spelled():
    whisper_english = _whisper_english()

    def spelled(text):
        # What is in digits stays: whisper_english drops zeros in front, and writes a single 1 as "one".
        parts = re.split("([0-9]+(?:st|nd|rd|th)?)", text.lower())
        words = " ".join(part if part[:1].isdecimal() else whisper_english(part) for part in parts).split()
        return " ".join("".join("1" if word == "one" else word for word in words).replace("0", "o"))

    return spelled


NORMALISERS = {
    "none": lambda: str,
    "basic": lambda: basic,
    "whisper_basic": _whisper_basic,
    "whisper_english": _whisper_english,
    "softvq": _softvq,
    "spelled": _spelled,
}


def get_normaliser(name):
    """The function str -> str called `name`; UserError with the nearest name otherwise."""
    return NORMALISERS[check_name("normaliser", name, NORMALISERS)]()
