"""Case and punctuation for upper-case transcripts, from the text of the book that was read.

A transcript is looked for in its book word by word. Words are compared without case, punctuation, apostrophes and
accents; titles are read out (MISTER is Mr.). A transcript that the book holds as a whole takes the book's writing, from
its first word to the punctuation behind its last one; any other is left out, with the reason. Nothing is guessed.
"""

import collections
import difflib
import functools
import re
import unicodedata
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.processes import run_jobs
from espnet_llmvq.data.manifest import Faults, read_lines

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# What Project Gutenberg puts between words: numbers of notes and pages, captions, emphasis; and signs without width.
INSERTED = re.compile(r"[\[{]\d+[\]}]|\[(?:Illustration|Footnote|Sidenote)[^\]]*\]|[_*=|~#^\ufeff\u2060\u200b\u00ad]")
OPENING, CLOSING = re.compile(r"[\"'(“‘\[]+\Z"), re.compile(r"[^\w\s—–-]*")
DASH = re.compile(r"\s*(?:--+|—|\s–\s)-*\s*")
QUOTES = str.maketrans("“”„‘’", '"""\'\'')
TITLES = {"MISTER": "MR", "MISSUS": "MRS", "MISSIS": "MRS", "DOCTOR": "DR", "SAINT": "ST"}
LIGATURES = str.maketrans({"æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ß": "ss"})
N = 3  # words of the index


@functools.lru_cache(maxsize=1 << 18)
def key(word):
    """What is compared of a word: "Café's" is CAFES."""
    if not word.isascii():
        word = unicodedata.normalize("NFKD", word.translate(LIGATURES))
    letters = "".join(c for c in word if c.isalnum()).upper()
    return TITLES.get(letters, letters)


class Book:
    """The words of a book, and where they are in its text."""

    def __init__(self, text):
        self.text = INSERTED.sub("", text)
        self.spans = [m.span() for m in WORD.finditer(self.text)]
        self.keys = [key(self.text[a:b]) for a, b in self.spans]
        self._starts = collections.defaultdict(list)
        for i in range(len(self.keys) - N + 1):
            self._starts[tuple(self.keys[i : i + N])].append(i)

    def _occurrences(self, keys):
        """[(offset in `keys`, places in the book)] of all runs of N words."""
        return [(i, self._starts.get(tuple(keys[i : i + N]), [])) for i in range(len(keys) - N + 1)]

    def find(self, keys):
        """Numbers of the words at which the book holds `keys`, in order."""
        if len(keys) < N:
            starts = (i for i, k in enumerate(self.keys) if k == keys[0])
        else:
            offset, places = min(self._occurrences(keys), key=lambda found: len(found[1]))
            starts = (place - offset for place in places)
        return [i for i in starts if i >= 0 and self.keys[i : i + len(keys)] == keys]

    def passage(self, start, n):
        """The text of `n` words from word `start` on: one space between words, straight quotes, " - " for dashes."""
        first, last = self.spans[start][0], self.spans[start + n - 1][1]
        opening = OPENING.search(self.text, max(0, first - 4), first)
        first = opening.start() if opening else first
        last = CLOSING.match(self.text, last).end()
        return " ".join(DASH.sub(" - ", self.text[first:last].translate(QUOTES)).split())

    def difference(self, keys):
        """How the passage nearest to `keys` differs from them, in words."""
        votes = collections.Counter(place - i for i, places in self._occurrences(keys) for place in places)
        if not votes:
            return "not in the book"
        start = max(0, max(votes, key=lambda at: (votes[at], -at)))
        near = self.keys[start : start + len(keys)]
        matcher = difflib.SequenceMatcher(None, keys, near, autojunk=False)
        # The passage may be longer or shorter, so what the end lacks says little.
        _, a, b, c, d = next(op for op in matcher.get_opcodes() if op[0] != "equal")
        theirs, ours = " ".join(near[c:d]) or "nothing", " ".join(keys[a:b]) or "nothing"
        return f"the book has {theirs} where the transcript has {ours}"


def restore_chapter(book, utterances):
    """({utt: text}, {utt: reason}) of the utterances of a chapter, [(utt, words)] in their order.

    Short utterances may be in the book several times. Where that makes a difference, the place must lie between those
    of the utterances around, which are in one place only.
    """
    texts, reasons, several, anchors = {}, {}, {}, {}
    sizes = {}
    for number, (utt, words) in enumerate(utterances):
        keys = [k for k in map(key, words) if k]
        places = book.find(keys) if keys else []
        passages = {book.passage(at, len(keys)) for at in places}
        if len(places) == 1:
            anchors[number], sizes[number] = places[0], len(keys)
        if len(passages) == 1:
            texts[utt] = passages.pop()
        elif not places:
            reasons[utt] = book.difference(keys)
        else:
            several[number] = (utt, keys, places)
    for number, (utt, keys, places) in several.items():
        low = max((anchors[i] + sizes[i] for i in anchors if i < number), default=0)
        high = min((anchors[i] for i in anchors if i > number), default=len(book.keys))
        between = {book.passage(at, len(keys)) for at in places if low <= at and at + len(keys) <= high}
        if len(between) == 1:
            texts[utt] = between.pop()
        else:
            reasons[utt] = f"in the book {len(places)} times, written differently"
    return texts, reasons


def book_file(root, book):
    """The text of a book below `root`, original-books.tar.gz unpacked, or None: books/{utf-8,ascii}/ID/ID.txt*."""
    for encoding in ("utf-8", "ascii"):
        for path in sorted((root / encoding / book).glob(f"{book}.txt*")):
            return path
    return None


def read_book(path):
    """The text of a book. Books filed under ascii hold some bytes of Latin 1."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def restore_book(path, chapters):
    """`restore_chapter` of all chapters of a book, [[(utt, words)]]: one job of a process."""
    book, texts, reasons = Book(read_book(path)), {}, {}
    for utterances in chapters:
        found, missed = restore_chapter(book, utterances)
        texts.update(found)
        reasons.update(missed)
    return texts, reasons


def read_chapters(root):
    """{chapter: book} of CHAPTERS.TXT, with the numbers that Project Gutenberg gives books."""
    path, found, faults = root / "CHAPTERS.TXT", {}, Faults()
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith(";") or not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 8 or not fields[0].isdecimal():
            faults.add(f"{path}:{number}", f"{len(fields)} fields, not ID | READER | ... | BOOK ID | TITLE | PROJECT")
        else:
            found[fields[0]] = fields[5]
    faults.check()
    return found


def books_root(path):
    """The folder with utf-8/ and ascii/: the one given, books/ or LibriSpeech/books/ in it."""
    for root in (Path(path), Path(path) / "books", Path(path) / "LibriSpeech/books"):
        if (root / "utf-8").is_dir() or (root / "ascii").is_dir():
            return root.absolute()
    raise UserError(
        f"LIBRISPEECH_BOOKS={path}: neither utf-8/ nor ascii/ in it; unpack original-books.tar.gz of "
        "https://www.openslr.org/12 there"
    )


def restore(transcripts, root, chapters, nj, name):
    """({utt: text}, {utt: reason}) of {READER-CHAPTER-NUMBER: transcript} from the books below `root`.

    chapters: {chapter: book}, of `read_chapters`. name: of the set, for the progress bar.
    """
    reasons, by_book = {}, {}
    for utt in sorted(transcripts):
        reader, chapter, _ = utt.split("-")
        if chapter not in chapters:
            reasons[utt] = f"chapter {chapter} is not in CHAPTERS.TXT"
        else:
            parts = by_book.setdefault(chapters[chapter], {})
            parts.setdefault((reader, chapter), []).append((utt, transcripts[utt].split()))
    paths, jobs, texts = [], [], {}
    for book, parts in sorted(by_book.items()):
        path = book_file(root, book)
        if path is None:
            reasons.update((utt, f"no text of book {book}") for part in parts.values() for utt, _ in part)
        else:
            paths.append(path)
            jobs.append(list(parts.values()))
    if jobs:
        for found, missed in run_jobs(restore_book, paths, jobs, nj=nj, desc=f"{name}: books", chunksize=1):
            texts.update(found)
            reasons.update(missed)
    return texts, reasons
