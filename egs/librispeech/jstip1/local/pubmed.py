"""Abstracts of PubMed's baseline files, pubmedYYnNNNN.xml.gz, read as a stream."""

import gzip
import hashlib
import re
import zlib
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from espnet_llmvq.base.errors import UserError

ROOT = "PubmedArticleSet"
TRUNCATED = re.compile(r"\(ABSTRACT TRUNCATED[^)]*\)")
# An abbreviation or an initial ends no sentence.
SENTENCE_END = re.compile(r"(?<=[.?!])(?<!\b[A-Z]\.)(?<!\bvs\.)(?<!\bi\.e\.)(?<!\be\.g\.)(?<!\bal\.)\s+(?=[A-Z])")
# What is said as it is written: letters and plain punctuation.
SPEAKABLE = re.compile(r"[A-Za-z ,.;:?!'-]+")


def baseline_files(path):
    """The files of a folder in order, or the file itself. Raises UserError if there are none."""
    path = Path(path)
    found = [path] if path.is_file() else sorted([*path.glob("*.xml.gz"), *path.glob("*.xml")])
    if not found:
        raise UserError(
            f"PUBMED={path}: no *.xml.gz in it; get some of https://ftp.ncbi.nlm.nih.gov/pubmed/baseline/ there"
        )
    return found


def articles(path, progress=lambda at: None):
    """Yield (PMID, [languages], abstract) of a file; the abstract is "" where there is none.

    One article is in memory at a time. The parts of a structured abstract are joined, without their labels.
    progress: called with the bytes read. Raises UserError, with the place, for a damaged file.
    """
    number = 0
    try:
        with open(path, "rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
            events = ElementTree.iterparse(file, events=("start", "end"))
            _, root = next(events)
            if root.tag != ROOT:
                raise UserError(f"{path}: its root is <{root.tag}>, not <{ROOT}>; give baseline files of PubMed")
            for event, element in events:
                if event != "end" or element.tag != "PubmedArticle":
                    continue
                number += 1
                citation = element.find("MedlineCitation")
                pmid = None if citation is None else citation.findtext("PMID")
                if not pmid:
                    raise UserError(f"{path}: article {number} has no MedlineCitation/PMID; get the file again")
                languages = [x.text for x in citation.iterfind("Article/Language")]
                parts = ("".join(x.itertext()) for x in citation.iterfind("Article/Abstract/AbstractText"))
                text = TRUNCATED.sub(" ", " ".join(parts))
                # Else all articles stay children of the root.
                root.clear()
                progress(raw.tell())
                yield pmid, languages, " ".join(text.split())
    except (OSError, EOFError, zlib.error) as err:
        raise UserError(f"{path}: damaged after article {number}: {err}; get the file again") from None
    except ElementTree.ParseError as err:
        raise UserError(f"{path}: not XML after article {number}: {err}; get the file again") from None


def draw(text, seed):
    """A number in 0..1 that depends on text and seed alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest(), "big") / 2**64


def documents(paths, language="eng", words=(30, 600), counts=None):
    """Yield (PMID, abstract) of all files: of a language, of `words` (least, most) words, none twice.

    Abstracts are the same if they are but for case and white space. counts: a Counter of what was left out and why.
    """
    from tqdm import tqdm

    seen, counts = set(), Counter() if counts is None else counts
    sizes = [path.stat().st_size for path in paths]
    with tqdm(total=sum(sizes), desc="PubMed", unit="B", unit_scale=True, mininterval=1) as bar:
        before = 0
        for path, size in zip(paths, sizes):

            def progress(at, before=before):
                bar.update(before + at - bar.n)

            for pmid, languages, text in articles(path, progress):
                digest = hashlib.blake2b(text.lower().encode(), digest_size=8).digest()
                if not text:
                    counts["without abstract"] += 1
                elif language not in languages:
                    counts[f"not {language}"] += 1
                elif not words[0] <= len(text.split()) <= words[1]:
                    counts[f"not {words[0]} to {words[1]} words"] += 1
                elif digest in seen:
                    counts["repeated"] += 1
                else:
                    seen.add(digest)
                    yield pmid, text
            before += size


def sentences(text):
    """The sentences of a text."""
    return SENTENCE_END.split(text)


def speakable(sentence, words=(4, 40)):
    """Whether a sentence can be spoken as it is written: no digits, symbols or abbreviations in capitals alone."""
    return (
        words[0] <= len(sentence.split()) <= words[1]
        and SPEAKABLE.fullmatch(sentence) is not None
        and not re.search(r"[A-Z]{2}", sentence)
    )
