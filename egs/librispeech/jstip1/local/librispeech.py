"""LibriSpeech as OpenSLR 12 lays it out, with case and punctuation from LibriSpeech-PC (OpenSLR 145) or its books."""

import json
from dataclasses import dataclass
from pathlib import Path

import books  # local/books.py

from espnet_llmvq.data.manifest import Faults, read_json_lines, read_lines
from espnet_llmvq.errors import UserError, nearest
from espnet_llmvq.parallel import run_jobs


@dataclass(frozen=True)
class Utterance:
    """An utterance: its sound file and its transcript in capital letters. Ids are READER-CHAPTER-NUMBER."""

    utt: str
    audio: str
    words: tuple

    @property
    def reader(self):
        return self.utt.split("-")[0]

    @property
    def chapter(self):
        return self.utt.split("-")[1]


def corpus_root(path):
    """The folder that holds the parts: the one given, or LibriSpeech/ in it. Raises UserError if there is none."""
    for root in (Path(path).absolute(), Path(path).absolute() / "LibriSpeech"):
        if any(root.glob("*-clean*")) or any(root.glob("*-other*")):
            return root
    raise UserError(
        f"LIBRISPEECH={path}: no part such as train-clean-100 in it; unpack https://www.openslr.org/12 there"
    )


def read_part(root, part, most=None):
    """Utterances of a part, sorted by id. most: stop after the chapter that makes as many.

    Raises UserError that lists lines without sound file, sound files without line, and lines that are none.
    """
    folder = root / part
    if not folder.is_dir():
        known = [p.name for p in root.iterdir() if p.is_dir()]
        raise UserError(f"{root}: no part {part!r}{nearest(part, known)}; found: {', '.join(sorted(known))}")
    found, faults = [], Faults()
    for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
        chapter = transcripts.parent
        audio = {p.stem: p for p in chapter.glob("*.flac")}
        prefix = f"{chapter.parent.name}-{chapter.name}-"
        for number, line in enumerate(read_lines(transcripts), 1):
            where = f"{transcripts}:{number}"
            utt, *words = line.split()
            if not words or not utt.startswith(prefix):
                faults.add(where, f"{line[:60]!r} is not `{prefix}NUMBER WORDS` (unpack the part again)")
            elif utt not in audio:
                faults.add(where, f"no {chapter / utt}.flac, or two lines for it (unpack the part again)")
            else:
                found.append(Utterance(utt, str(audio.pop(utt)), tuple(words)))
        for path in audio.values():
            faults.add(transcripts, f"no line for {path.name} (unpack the part again)")
        if most and len(found) >= most:
            break
    faults.check()
    if not found:
        raise UserError(f"{folder}: no READER/CHAPTER/*.trans.txt in it; unpack the part again")
    return sorted(found, key=lambda u: u.utt)


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


def from_books(utterances, root, chapters, nj, name):
    """({utt: text}, {utt: reason}) from the books below `root`. chapters: {chapter: book}."""
    reasons, by_book = {}, {}
    for u in utterances:
        if u.chapter not in chapters:
            reasons[u.utt] = f"chapter {u.chapter} is not in CHAPTERS.TXT"
        else:
            parts = by_book.setdefault(chapters[u.chapter], {})
            parts.setdefault((u.reader, u.chapter), []).append((u.utt, u.words))
    paths, jobs, texts = [], [], {}
    for book, parts in sorted(by_book.items()):
        path = books.book_file(root, book)
        if path is None:
            reasons.update((utt, f"no text of book {book}") for part in parts.values() for utt, _ in part)
        else:
            paths.append(path)
            jobs.append(list(parts.values()))
    if jobs:
        for found, missed in run_jobs(books.restore_book, paths, jobs, nj=nj, desc=f"{name}: books", chunksize=1):
            texts.update(found)
            reasons.update(missed)
    return texts, reasons


def from_pc(utterances, path, part, text_key):
    """({utt: text}, {utt: reason}) from LibriSpeech-PC's PART.json: lines with audio_filepath, text and text_raw."""
    manifest = Path(path) / f"{part}.json"
    if not manifest.is_file():
        raise UserError(f"LIBRISPEECH_PC={path}: no {part}.json in it; unpack https://www.openslr.org/145 there")
    faults, given = Faults(), {}
    for where, row in read_json_lines(manifest, faults):
        values = [row.get(name) for name in ("audio_filepath", text_key)]
        if not all(isinstance(value, str) for value in values):
            faults.add(where, f"no audio_filepath or no {text_key}: {json.dumps(row)[:80]}")
            continue
        given[Path(values[0]).stem] = " ".join(values[1].split())
    faults.check()
    texts = {u.utt: given[u.utt] for u in utterances if given.get(u.utt)}
    return texts, {u.utt: f"no text in {manifest.name} of LibriSpeech-PC" for u in utterances if u.utt not in texts}
