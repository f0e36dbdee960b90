"""Named text normalisers, applied to reference and hypothesis alike before they are compared.

`none`             the text as it is
`basic`            Unicode NFKC, lower case, hyphens to spaces, no punctuation but apostrophes inside words and points,
                   commas and colons in numbers, single spaces
`whisper_basic`    Whisper's normaliser for any language (drops bracketed text)
`whisper_english`  Whisper's normaliser for English (numbers, contractions, British spellings)
`softvq`           scoring of arXiv 2506.05706: parentheses go but the text in them stays, "&"
                   becomes "and", then `whisper_basic`
`spelled`          `whisper_english`, then letter by letter and digit by digit: spaces do not count, numbers in words
                   are digits, and the digit 0 is the letter o, as both are said alike

Before each of them, `none` too, texts are folded: characters that cannot be seen go, and each kind of apostrophe and
quotation mark becomes one. But for `none`, commas between groups of three digits go too, 1,000 is 1000, and .5 is 0.5.
No normaliser joins numbers: 2.5 is not 25, 10:30 not 1030, 1,5 not 15.
"""

import functools
import re
import unicodedata

from espnet_llmvq.base.environment import get_version
from espnet_llmvq.base.errors import check_name

# NFKC leaves the typographic apostrophes alone, and turns the acute accent into a space and a combining mark. \x91 to
# \x94 are those of Windows, read as Latin-1.
_QUOTES = {
    **dict.fromkeys(map(ord, "’‘‚‛ʼʻʽ´`′‵՚‹›׳ꞌ＇\x91\x92"), "'"),
    **dict.fromkeys(map(ord, "“”„‟«»″〝〞״＂\x93\x94"), '"'),
}
# A number of which every comma, also the Arabic one, has three digits behind it, and one to three in front.
_GROUPS = re.compile(r"(?<!\d)(?<!\d[.,:，٬])\d{1,3}(?:[,，٬]\d{3})+(?![,:，٬]?\d)")
_BEGUN = re.compile(r"(?<![\w.)\]])(?<!\d[,:])\.(?=\d)")  # the point of .5
_RAISED = re.compile(r"(?<=\d)(?=[¹²³⁰-⁹₀-₉¼-¾⅐-⅞↉])")  # NFKC would make 102 of 10²
_BRACKETS = re.compile(r"(?<=\d)(?=[<\[(])")  # Whisper's would make 25 of 2[noise]5
_BETWEEN = re.compile(r"(?<=\d)(?:[^\w\s]|_)+(?=\d)")
_IN_NUMBERS = re.compile(r"((?<=\d)[.,:](?=\d))")

# Joiners that some scripts need in the middle of words: ZWNJ, ZWJ, and the vowel separator of Mongolian. Others are
# signs that can be seen, though Unicode has them in the category Cf too.
_JOINERS = "\u200c\u200d\u180e"
_SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
_JOINING = {"ARABIC", "SYRIAC", "MONGOLIAN", "NKO", "MANDAIC", "ADLAM"}
_VIRAMA = 9  # combining class


class _Table(dict):
    """Table of str.translate, filled as characters occur: {code point: what it becomes}; rule: from (character, its
    category) to what it becomes.
    """

    def __init__(self, rule):
        self.rule = rule

    def __missing__(self, code):
        self[code] = self.rule(chr(code), unicodedata.category(chr(code)))
        return self[code]


_DASHES = _Table(lambda char, category: " " if category == "Pd" or char in "/⁄−" else char)  # they separate words
_MARKS = _Table(lambda char, category: "" if category[0] == "P" and char != "'" else char)


@functools.cache
def _hidden():
    """Pattern of all characters of the category Cf but _SIGNS."""
    chars = (char for char in map(chr, range(0x110000)) if unicodedata.category(char) == "Cf" and char not in _SIGNS)
    return re.compile(f"[{''.join(map(re.escape, chars))}]+")


def _joined(before, after):
    """Whether a joiner between two characters means something: at a virama, between letters of cursive scripts, and
    between the parts of an emoji.
    """
    if _VIRAMA in map(unicodedata.combining, filter(None, (before, after))):
        return True
    if before and unicodedata.category(before) in ("So", "Sk", "Mn") and unicodedata.category(after or " ") == "So":
        return True
    letters = [char for char in before + after if unicodedata.category(char)[0] in "LM"]
    return len(letters) == 2 and {unicodedata.name(char, "").split(" ")[0] for char in letters} <= _JOINING


def visible(text):
    """`text` without characters that cannot be seen (category Cf: zero-width spaces, soft hyphens, marks of direction
    and byte order), but for joiners where the script needs them.
    """
    if text.isascii() or not _hidden().search(text):
        return text

    def joiner(run):  # one, where any is needed
        first = next((char for char in run[0] if char in _JOINERS), "")
        before, after = text[max(run.start() - 1, 0) : run.start()], text[run.end() : run.end() + 1]
        return first if first and before and _joined(before, after) else ""

    return _hidden().sub(joiner, text)


def fold(text):
    """`text` as it is before every normaliser: `visible`, with one kind of apostrophe and one of quotation mark."""
    return visible(text).translate(_QUOTES)


def numbers(text):
    """`text` with 1000 for 1,000 and 0.5 for .5."""

    def joined(match):
        return match[0] if unicodedata.digit(match[0][0]) == 0 else re.sub("[,，٬]", "", match[0])

    return _BEGUN.sub("0.", _GROUPS.sub(joined, text))


def _apart(match):
    """What stands between digits, so that it does not go and join them."""
    marks = match[0]
    return " " if marks not in tuple(".,:'") and any(unicodedata.category(c)[0] == "P" for c in marks) else marks


def basic(text):
    """`text` normalised as `basic` says above; applying it twice changes nothing more."""
    text = unicodedata.normalize("NFKC", _RAISED.sub(" ", fold(text))).lower()
    text = text.replace("...", " ")  # NFKC of the ellipsis; joins two words if only deleted
    text = _BETWEEN.sub(_apart, numbers(text).translate(_DASHES))
    parts = _IN_NUMBERS.split(text)
    text = "".join(part if i % 2 else part.translate(_MARKS) for i, part in enumerate(parts))
    text = re.sub("'{2,}|(?<!\\S)'|'(?!\\S)", "", text)
    # Deleting a character can bring a letter and a combining mark together.
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _apart_for_whisper(text):
    """`text` with `numbers`, and spaces where Whisper's normalisers would join two."""
    return numbers(_RAISED.sub(" ", _BRACKETS.sub(" ", text)))


def _whisper_basic():
    from whisper_normalizer.basic import BasicTextNormalizer

    normalise = BasicTextNormalizer()
    return lambda text: normalise(_apart_for_whisper(text)).strip()


def _whisper_english():
    from whisper_normalizer.english import EnglishNumberNormalizer, EnglishTextNormalizer

    class Numbers(EnglishNumberNormalizer):
        """As in Whisper itself since https://github.com/openai/whisper/pull/2836: "one" is written for a 1 that stands
        alone only, not for that of 3.1, $1 or 1%.
        """

        def postprocess(self, s):
            # What stands beside one of these signs was a number.
            return re.sub(r"(?<=[.$¢€£%+-])one(?=s?\b)|\bone(?=s?[.$¢€£%-])", "1", super().postprocess(s))

    normalise = EnglishTextNormalizer()
    normalise.standardize_numbers = Numbers()
    # It deletes what commas are left between digits.
    return lambda text: normalise(re.sub(r"(?<=\d),(?=\d)", " ", _apart_for_whisper(text))).strip()


def _softvq():
    whisper_basic = _whisper_basic()
    # Whisper's normaliser drops what stands in parentheses, though it was spoken.
    return lambda text: whisper_basic(
        re.sub("[()]", "", re.sub(r"(?<=\d)[()]+(?=\d)", " ", text)).replace("&", " and ")
    )


def _spelled():
    whisper_english = _whisper_english()

    def spelled(text):
        # What is in digits stays: whisper_english drops zeros in front, and writes a single 1 as "one".
        parts = re.split("([0-9]+(?:st|nd|rd|th)?)", numbers(text).lower())
        words = " ".join(part if i % 2 else whisper_english(part) for i, part in enumerate(parts)).split()
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


OF_WHISPER = ("whisper_basic", "whisper_english", "softvq", "spelled")


def described(name):
    """The name of a normaliser as it stands beside figures: with the version of the package that it is from."""
    return f"{name} (whisper-normalizer {get_version('whisper-normalizer')})" if name in OF_WHISPER else name


def get_normaliser(name):
    """The function str -> str called `name`, also as `described`; UserError with the nearest name otherwise."""
    normalise = NORMALISERS[check_name("normaliser", name.partition(" (")[0], NORMALISERS)]()
    return lambda text: normalise(fold(text))
