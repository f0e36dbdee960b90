"""AMI, https://groups.inf.ed.ac.uk/ami: manual annotations 1.6.2 (words/, segments/, corpusResources/) and headsets.

Audio: amicorpus/MEETING/audio/MEETING.Headset-N.wav. Parts are those of the corpus's "full-corpus-ASR" partition.
"""

import re
import xml.etree.ElementTree as ElementTree

from layout import left_out, need, seconds, span_id

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.manifest import Item

MEETINGS = {
    "test": [f"{name}{letter}" for name in ("EN2002", "ES2004", "IS1009", "TS3003") for letter in "abcd"],
    "dev": [
        *(f"{name}{letter}" for name in ("ES2011", "IS1008", "TS3004") for letter in "abcd"),
        *(f"IB40{number}" for number in ("01", "02", "03", "04", "10", "11")),
    ],
}
PARTS = tuple(MEETINGS)
NITE_ID = "{http://nite.sourceforge.net/}id"
WHERE = "set AMI to a folder with ami_public_manual_1.6.2/ and amicorpus/"
RANGE = re.compile(r"(?P<file>[^#]+)#id\((?P<first>[^)]+)\)(?:\.\.id\((?P<last>[^)]+)\))?")


def parse(path):
    """Root element of an XML file. Raises UserError with the line that is no XML."""
    try:
        return ElementTree.parse(need(path, WHERE)).getroot()
    except ElementTree.ParseError as err:
        raise UserError(f"{path}:{err.position[0]}: not XML: {err} (unpack the annotations again)") from None


def read_speakers(path):
    """{(meeting, agent letter): (global name, channel)} of corpusResources/meetings.xml. Raises UserError."""
    speakers = {}
    for meeting in parse(path).iter("meeting"):
        for speaker in meeting.iter("speaker"):
            values = [speaker.get(key) for key in ("nxt_agent", "global_name", "channel")]
            if None not in values:
                agent, name, channel = values
                speakers[meeting.get("observation"), agent] = name, channel
    return speakers


def join(words):
    """Text of <w> elements: punctuation follows its word without a space."""
    text = ""
    for word in words:
        if word.tag == "w" and (word.text or "").strip():
            text += ("" if word.get("punc") == "true" or not text else " ") + word.text.strip()
    return text


def words_between(words, order, href):
    """Elements that `href` names, in the order of their file. Raises ValueError for ids that it does not have."""
    match = RANGE.fullmatch(href or "")
    if not match:
        raise ValueError(f"expected FILE#id(A)..id(B), found {href!r}")
    ends = match["first"], match["last"] or match["first"]
    for name in ends:
        if name not in order:
            raise ValueError(f"no word {name} in words/{match['file']}")
    first, last = (order[name] for name in ends)
    return words[first : last + 1]


def read(root, part, faults):
    """Items of the segments of a part, one a segment that has words, from the headset of its speaker."""
    notes = root / "ami_public_manual_1.6.2"
    notes = notes if notes.is_dir() else root
    speakers = read_speakers(notes / "corpusResources" / "meetings.xml")
    items, silent, reversed_ones = [], 0, 0
    for meeting in MEETINGS[part]:
        found = sorted((notes / "segments").glob(f"{meeting}.?.segments.xml"))
        if not found:
            faults.add(notes / "segments", f"no {meeting}.*.segments.xml (unpack the annotations again)")
        for path in found:
            agent = path.name.split(".")[1]
            if (meeting, agent) not in speakers:
                faults.add(path, f"speaker {agent} of {meeting} is not in corpusResources/meetings.xml")
                continue
            name, channel = speakers[meeting, agent]
            words = list(parse(notes / "words" / f"{meeting}.{agent}.words.xml"))
            order = {word.get(NITE_ID): i for i, word in enumerate(words)}
            recording = f"{meeting}.Headset-{channel}"
            audio = root / "amicorpus" / meeting / "audio" / f"{recording}.wav"
            for segment in parse(path).iter("segment"):
                where = f"{path}: segment {segment.get(NITE_ID)}"
                try:
                    start, end = (seconds(segment.get(f"transcriber_{key}", "")) for key in ("start", "end"))
                    chosen = [words_between(words, order, child.get("href")) for child in segment]
                except ValueError as err:
                    faults.add(where, f"{err} (unpack the annotations again)")
                    continue
                text = join(word for part_words in chosen for word in part_words)
                if not text:
                    silent += 1
                    continue
                # The annotations have a few whose end is not after their start.
                if end <= start:
                    reversed_ones += 1
                    continue
                utt = f"{name}-{meeting}-{channel}-{span_id(start, end)}"
                items.append(Item(where, audio, text, utt, utt, name, (), recording, start, end, whole=False))
    total = len(items) + silent + reversed_ones
    left_out(notes, silent, total, "segments without words")
    left_out(notes, reversed_ones, total, "segments that end before they begin")
    return items
