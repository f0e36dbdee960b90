#!/usr/bin/env python3
"""Prepare AN4: training, validation and test data directories, out-of-domain test sets, LM text.

Everything the training side sees (train, valid, the grammar behind the LM text) comes from AN4's
training part. Test transcripts are only counted, and kept out of the generated text.
"""

import collections
import re
from pathlib import Path

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_lines
from espnet_llmvq.cli.parser import Parser, run
from espnet_llmvq.data.copies import perturb_data
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.importer import read_kaldi
from espnet_llmvq.data.manifest import read_lines

words_of = str.split
DIGITS = words_of("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE")
TEENS = words_of("TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN EIGHTEEN NINETEEN")
TENS = words_of("TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY")
ORDINALS = words_of(
    "FIRST SECOND THIRD FOURTH FIFTH SIXTH SEVENTH EIGHTH NINTH TENTH ELEVENTH TWELFTH THIRTEENTH "
    "FOURTEENTH FIFTEENTH SIXTEENTH SEVENTEENTH EIGHTEENTH NINETEENTH TWENTIETH"
)
MONTHS = words_of("JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER")
COMMANDS = words_of("YES NO GO HELP STOP START REPEAT")
STREET_KINDS = words_of("AVENUE AVE DRIVE ROAD LANE PLACE STREET")
# How often each kind of sentence is drawn; close to its share of the training transcripts.
SENTENCE_WEIGHTS = {"spelling": 30, "command": 4, "enter": 10, "edit": 12, "code": 12, "zip_code": 8, "phone": 9,
                    "address": 9, "date": 6}  # fmt: skip
SMOKE_TRAIN, SMOKE_OTHER, SMOKE_LM_LINES = 32, 8, 300

Utterance = collections.namedtuple("Utterance", "utt spk wav words")


# --- Corpora -------------------------------------------------------------------------------------


def parse_transcription(line, where):
    """Split ``[<s>] WORDS [</s>] (id)`` into (id, words). Raises UserError naming `where`."""
    match = re.fullmatch(r"\s*(?:<s>\s+)?(.*?)(?:\s*</s>)?\s*\(([^()\s]+)\)\s*", line)
    if not match or not match[1].strip():
        raise UserError(f"{where}: expected 'WORDS (utterance-id)', found {line.strip()!r}")
    return match[2], match[1].split()


def read_an4(root, part):
    """Read `part` ("train" or "test") of AN4 as cmusphinx/an4 lays it out; a sorted list."""
    root = Path(root)
    transcription = root / "etc" / f"an4_{part}.transcription"
    lines = enumerate(read_lines(transcription), 1)
    words = dict(parse_transcription(line, f"{transcription}:{n}") for n, line in lines if line.strip())
    found = []
    for fileid in filter(None, map(str.strip, read_lines(root / "etc" / f"an4_{part}.fileids"))):
        spk, name = fileid.split("/")[-2:]
        wav = (root / "wav" / f"{fileid}.wav").absolute()
        if name not in words:
            raise UserError(f"{transcription}: no transcription of {name}, named in the fileids")
        if not wav.is_file():
            raise UserError(f"AN4 is incomplete: {wav} is missing; fetch the corpus again")
        found.append(Utterance(f"{spk}-{name}", spk, str(wav), words[name]))
    return sorted(found)


def read_kaldi_parts(root, parts, prefix):
    """Read Kaldi-style folders ``root/part``; a sorted list.

    Ids that do not begin with their speaker, as sorting demands, get ``prefix-speaker-`` in front.
    """
    found = []
    for data in (read_kaldi(root / part) for part in parts):
        for key, text in data.text.items():
            utt, spk = key, data.utt2spk[key]
            if not utt.startswith(spk):
                spk = f"{prefix}-{spk}"
                utt = f"{spk}-{utt}"
            found.append(Utterance(utt, spk, data.wav_scp[key], text.upper().split()))
    return sorted(found)


def read_fsdd(root):
    """Read the test part of Free Spoken Digits: ``root/test``, or public ``root/recordings``."""
    root = Path(root)
    if (root / "test" / "wav.scp").is_file():
        return read_kaldi_parts(root, ["test"], "fsdd")
    found = []
    for wav in sorted((root / "recordings").glob("*.wav")):
        match = re.fullmatch(r"(\d)_([^_]+)_(\d+)", wav.stem)
        # Its README: takes 0 to 4 of every digit and speaker are the test part.
        if match and int(match[3]) < 5:
            digit, spk, take = int(match[1]), f"fsdd-{match[2]}", int(match[3])
            utt = f"{spk}-{digit}-{take:02d}"
            found.append(Utterance(utt, spk, str(wav.absolute()), [DIGITS[digit]]))
    if not found:
        raise UserError(f"FSDD={root}: neither test/wav.scp nor recordings/DIGIT_SPEAKER_N.wav")
    return sorted(found)


def read_so762(root, vocabulary):
    """Read the utterances of speechocean762, all parts, whose every word is in `vocabulary`."""
    root = Path(root)
    parts = [p for p in ("train", "dev", "test") if (root / p / "wav.scp").is_file()]
    if not parts:
        raise UserError(f"SO762={root}: none of train, dev, test holds a wav.scp")
    everything = read_kaldi_parts(root, parts, "so762")
    known = [u for u in everything if u.words and vocabulary.issuperset(u.words)]
    print(
        f"so762: {len(known)} of {len(everything)} utterances of {' + '.join(parts)} are made of "
        f"AN4's {len(vocabulary)} training words alone"
    )
    if not known:
        raise UserError(f"SO762={root}: no utterance is made of AN4's training words alone")
    return known


def hold_out_speakers(utterances, share, rng):
    """Split into (train, valid): about `share` of the speakers, women and men alike, go to valid.

    AN4 names speakers by f/m and initials; `mdcs` and `mdcs2` may be one person and stay together.
    """
    held = set()
    for sex in ("f", "m"):
        people = sorted({u.spk.rstrip("0123456789") for u in utterances if u.spk.startswith(sex)})
        held.update(rng.permutation(people)[: round(share * len(people))])
    valid = [u for u in utterances if u.spk.rstrip("0123456789") in held]
    if not valid or len(valid) == len(utterances):
        raise UserError("AN4's training part has too few speakers to hold some out for validation")
    return [u for u in utterances if u.spk.rstrip("0123456789") not in held], valid


# --- Text of the language model ------------------------------------------------------------------


def is_spelled(word):
    return len(word) == 1 or word == "APOSTROPHE"


class Grammar:
    """Generates sentences of the kinds found in AN4's training transcripts, from those alone.

    Names come from the spelled ones, half copied and half new from a letter trigram model; zip
    codes and phone numbers begin as training ones do. Sentences with an unseen word are redrawn.
    """

    def __init__(self, sentences, rng):
        self.rng = rng
        self.vocabulary = {w for s in sentences for w in s}
        self.letters = sorted(w for w in self.vocabulary if len(w) == 1)
        self.names = [s for s in sentences if len(s) > 1 and all(map(is_spelled, s))]
        digit = {*DIGITS, "OH"}
        runs = [s for s in sentences if digit.issuperset(s)]
        self.zips = [s for s in runs if len(s) == 5] or [["ONE"] * 5]
        self.phones = [s for s in runs if len(s) in (7, 10)] or [["TWO"] * 7]
        self.followers = collections.defaultdict(list)
        # Types, not tokens: a town that everyone lives in must not shape every new name.
        for name in sorted(set(map(tuple, self.names))):
            padded = ["<", "<", *name, ">"]
            for i in range(2, len(padded)):
                self.followers[tuple(padded[i - 2 : i])].append(padded[i])

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability):
        return self.rng.random() < probability

    def digits(self, n):
        """n random digits; one speaker says ZERO or OH, not both."""
        zero = "OH" if self.chance(0.65) else "ZERO"
        return [zero if d == 0 else DIGITS[d] for d in self.rng.integers(10, size=n)]

    def below_hundred(self, n):
        if n < 10:
            return [DIGITS[n]]
        if n < 20:
            return [TEENS[n - 10]]
        return [TENS[n // 10 - 2]] + ([DIGITS[n % 10]] if n % 10 else [])

    def pair(self, n):
        """Two digits within a longer number: 5 is OH FIVE."""
        return ["OH", DIGITS[n]] if 0 < n < 10 else self.below_hundred(n)

    def number(self):
        """A number of one to four digits, read in one of the ways people read numbers."""
        size = self.pick([1, 1, 2, 2, 2, 3, 3, 3, 4, 4])
        n = int(self.rng.integers(10 ** (size - 1) if size > 1 else 0, 10**size))
        if size == 1 or self.chance(0.4 if size > 2 else 0.2):
            return self.digits(size)
        if size == 2:
            return self.below_hundred(n)
        if self.chance(0.12):
            thousands, hundreds, rest = n // 1000, n // 100 % 10, n % 100
            words = [DIGITS[thousands], "THOUSAND"] if thousands else []
            words += [DIGITS[hundreds], "HUNDRED"] if hundreds else []
            joined = ["AND"] if rest and self.chance(0.6) else []
            return words + joined + (self.below_hundred(rest) if rest else [])
        high, low = divmod(n, 100)
        return self.below_hundred(high) + (self.pair(low) if low else ["HUNDRED"])

    def spelling(self):
        if self.chance(0.5) and self.names:
            return list(self.pick(self.names))
        while True:
            name = ["<", "<"]
            while name[-1] != ">" and len(name) < 20:
                name.append(self.pick(self.followers[tuple(name[-2:])]))
            if name[-1] == ">" and len(name) > 5:
                return name[2:-1]

    def command(self):
        return [self.pick(COMMANDS)]

    def enter(self):
        return ["ENTER", *self.number()]

    def code(self):
        n = self.pick([1, 2, 3, 4, 4, 4, 5, 5, 5])
        return [self.pick(self.letters) for _ in range(n)] + self.number()

    def edit(self):
        n = self.pick([4, 5])
        letters = [self.pick(self.letters) for _ in range(n)]
        return [self.pick(["ERASE", "RUBOUT", "RUBOUT"]), *letters, *self.number()]

    def zip_code(self):
        start = self.pick(self.zips)[: self.pick([0, 2, 3, 3])]
        return start + self.digits(5 - len(start))

    def phone(self):
        known = self.pick(self.phones)
        words = known[:-4] + self.digits(4) if self.chance(0.7) else self.digits(len(known))
        return ["AREA", "CODE", *words] if len(words) == 10 and self.chance(0.1) else words

    def address(self):
        words = self.number()
        if self.chance(0.05):
            words += ["AND", "A", "HALF"]
        if self.chance(0.35):
            words += self.spelling()
            if self.chance(0.5):
                words += list(self.pick(STREET_KINDS))
        return words

    def date(self):
        month, day = int(self.rng.integers(1, 13)), int(self.rng.integers(1, 32))
        year = self.below_hundred(int(self.rng.integers(19, 92)))
        if self.chance(0.6):
            return self.below_hundred(month) + self.below_hundred(day) + year
        ordinal = ["THIRTIETH"] if day == 30 else [TENS[day // 10 - 2], ORDINALS[day % 10 - 1]]
        if day <= 20:
            ordinal = [ORDINALS[day - 1]]
        name = [MONTHS[month - 1]]
        if self.chance(0.1):
            name = list(name[0])
        year = (["NINETEEN"] if self.chance(0.9) else []) + year
        kind = self.rng.random()
        if kind < 0.75:
            return name + ordinal + year
        if kind < 0.9:
            return self.below_hundred(day) + name + year
        return ordinal + ["OF"] + name + year

    def sentence(self):
        kinds = list(SENTENCE_WEIGHTS)
        weights = np.array([SENTENCE_WEIGHTS[k] for k in kinds], dtype=float)
        while True:
            words = getattr(self, self.rng.choice(kinds, p=weights / weights.sum()))()
            if words and self.vocabulary.issuperset(words):
                return words


def lm_lines(train, test, n, rng):
    """`n` lines: the training transcripts, then generated ones.

    Generated lines equal to a test sentence of three words or more are redrawn unless the sentence
    is a training transcript too; shorter ones (YES, ENTER SIX) any user of the grammar would say.
    """
    transcripts = [u.words for u in train]
    known = {tuple(w) for w in transcripts}
    banned = {tuple(u.words) for u in test if len(u.words) >= 3} - known
    grammar = Grammar(transcripts, rng)
    generated = []
    while len(transcripts) + len(generated) < n:
        words = grammar.sentence()
        if tuple(words) not in banned:
            generated.append(words)
    assert banned.isdisjoint(map(tuple, generated))
    return [" ".join(words) for words in transcripts + generated]


# --- Output --------------------------------------------------------------------------------------


def data_dir(utterances):
    texts, speakers = {u.utt: " ".join(u.words) for u in utterances}, {u.utt: u.spk for u in utterances}
    return DataDir({u.utt: u.wav for u in utterances}, texts, speakers)


def thin(utterances, n):
    """`n` utterances, or all if there are fewer, spread evenly over the list."""
    n = min(n, len(utterances))
    return [utterances[i * len(utterances) // n] for i in range(n)]


def report(name, utterances, vocabulary):
    words = [w for u in utterances for w in u.words]
    unseen = collections.Counter(w for w in words if w not in vocabulary)
    named = ", ".join(sorted(unseen)[:8]) + (", ..." if len(unseen) > 8 else "")
    print(
        f"{name}: {len(utterances)} utterances, {len({u.spk for u in utterances})} speakers, "
        f"{len(words)} words, {sum(unseen.values())} not in data/train" + (f" ({named})" if unseen else "")
    )


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--an4", required=True, help="AN4 as cmusphinx/an4 lays it out")
    parser.add_argument("--fsdd", default="", help="Free Spoken Digits; empty: no test_fsdd")
    parser.add_argument("--so762", default="", help="speechocean762; empty: no test_so762")
    parser.add_argument("--datadir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--valid_share", type=float, default=0.08, help="speakers held out")
    parser.add_argument("--lm_lines", type=int, default=60000, help="lines of data/lm/train.txt")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--nj", type=int, default=2, help="processes that perturb test")
    parser.add_argument("--smoke", default="false", choices=("true", "false"), help="a handful of each set")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    out = args.datadir
    rng_valid, rng_lm = (np.random.default_rng([args.seed, i]) for i in range(2))

    an4_train, test = read_an4(args.an4, "train"), read_an4(args.an4, "test")
    train, valid = hold_out_speakers(an4_train, args.valid_share, rng_valid)
    an4_vocabulary = {w for u in an4_train for w in u.words}
    sets = {"train": train, "valid": valid, "test": test}
    lm_train = lm_lines(train, test, args.lm_lines, rng_lm)

    if args.fsdd:
        sets["test_fsdd"] = read_fsdd(args.fsdd)
    else:
        print("test_fsdd: left out, as FSDD is not set (Free Spoken Digits; see db.sh)")
    if args.so762:
        sets["test_so762"] = read_so762(args.so762, an4_vocabulary)
    else:
        print("test_so762: left out, as SO762 is not set (speechocean762; see db.sh)")

    seen = {tuple(u.words) for u in an4_train}
    shared = sum(tuple(u.words) in seen for u in test)
    print(f"test: {shared} of {len(test)} sentences also occur in AN4's training part; all are kept")
    if args.smoke == "true":
        sets = {k: thin(v, SMOKE_TRAIN if k == "train" else SMOKE_OTHER) for k, v in sets.items()}
        lm_train = thin(lm_train, SMOKE_LM_LINES)
    vocabulary = {w for u in sets["train"] for w in u.words}
    for name, utterances in sets.items():
        data_dir(utterances).write(out / name)
        report(name, utterances, vocabulary)

    room = {"noise": ["pink", "white", "babble"], "snr": (5.0, 15.0), "rt60": (0.2, 0.4), "suffix": "-noise"}
    for name, changes in (("noise", room), ("tempo", {"tempo": (0.75, 1.3), "suffix": "-tempo"})):
        perturb_data(out / "test", out / f"test_{name}", **changes, seed=args.seed, nj=args.nj)

    write_lines(out / "lm" / "train.txt", lm_train)
    write_lines(out / "lm" / "valid.txt", [" ".join(u.words) for u in sets["valid"]])
    print(f"lm: {len(lm_train)} lines for training, {len(sets['valid'])} for validation")


if __name__ == "__main__":
    run(main)
