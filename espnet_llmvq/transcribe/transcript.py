"""What a sound was transcribed to, and how it is written: text, JSON, SRT, VTT."""

import html
import json
import textwrap
from dataclasses import dataclass

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.base.files import one_line

LINE, LINES = 42, 2  # characters of a subtitle line, lines of a subtitle
CUE = 6.0  # seconds of a subtitle at most, where word times are known


@dataclass(frozen=True)
class Segment:
    """A piece of a recording or stream. start, end: seconds. words: with times in the recording.

    words is None when no times were asked for, or when the encoder cannot spell the text within the piece. White space
    of the text becomes single spaces. at_limit: the text was cut off by the length limit, which is mostly a loop.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None = None
    at_limit: bool = False

    def __post_init__(self):
        object.__setattr__(self, "text", one_line(self.text))


@dataclass(frozen=True)
class Transcript:
    """A transcribed recording. audio: its path, or "sound N"; duration: seconds."""

    audio: str
    duration: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """All texts, joined by spaces."""
        return " ".join(s.text for s in self.segments if s.text)


def to_text(transcript):
    """A line a segment that has text."""
    return "".join(f"{s.text}\n" for s in transcript.segments if s.text)


def to_json(transcript):
    """JSON in one line; times are rounded to milliseconds."""
    segments = []
    for s in transcript.segments:
        entry = {"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text}
        if s.words is not None:
            numbers = ("start", "end", "confidence")
            entry["words"] = [{"word": w.word, **{k: round(getattr(w, k), 3) for k in numbers}} for w in s.words]
        segments.append({**entry, "at_limit": True} if s.at_limit else entry)
    duration = round(transcript.duration, 3)
    content = {"audio": transcript.audio, "duration": duration, "text": transcript.text, "segments": segments}
    return json.dumps(content, ensure_ascii=False) + "\n"


def cues(transcript):
    """[(start, end, text)] of subtitles: of at most two lines and `CUE` seconds, if there are word times."""
    found = []
    for s in transcript.segments:
        if not s.text:
            continue
        if not s.words:
            found.append((s.start, s.end, textwrap.fill(s.text, LINE)))
            continue
        rows = [[]]
        for word in s.words:
            lines = textwrap.wrap(" ".join(w.word for w in [*rows[-1], word]), LINE)
            if rows[-1] and (len(lines) > LINES or word.end - rows[-1][0].start > CUE):
                rows.append([])
            rows[-1].append(word)
        found += [(row[0].start, row[-1].end, textwrap.fill(" ".join(w.word for w in row), LINE)) for row in rows]
    return found


def clock(seconds, mark):
    """hh:mm:ss and milliseconds after `mark`."""
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}{mark}{ms % 1000:03d}"


def to_srt(transcript):
    """SubRip."""
    return "".join(
        f"{i}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n\n"
        for i, (start, end, text) in enumerate(cues(transcript), 1)
    )


def to_vtt(transcript):
    """WebVTT; markup in the text is escaped."""
    parts = [
        f"{clock(start, '.')} --> {clock(end, '.')}\n{html.escape(text, quote=False)}\n\n"
        for start, end, text in cues(transcript)
    ]
    return "WEBVTT\n\n" + "".join(parts)


FORMATS = {"text": (".txt", to_text), "json": (".json", to_json), "srt": (".srt", to_srt), "vtt": (".vtt", to_vtt)}
