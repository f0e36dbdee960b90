"""Kaldi data directories as a whole: read strictly, written atomically."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import one_line, write_text
from espnet_llmvq.data.checks import inspect, select, survey
from espnet_llmvq.data.made import MadeDir
from espnet_llmvq.data.tables import by_speaker, level, parse_entities


@dataclass
class DataDir:
    """The tables of one data directory; every table of utterances has the same ids.

    `segments` is {utt: (recording, start s, end s)} or None; then `wav_scp` has utterance ids.
    `extra` is {file name: {id: [rest of line, ...]}} for the optional files.
    """

    wav_scp: dict
    text: dict
    utt2spk: dict
    segments: dict | None = None
    extra: dict = field(default_factory=dict)

    @property
    def utts(self):
        """Utterance ids in C-locale order."""
        return sorted(self.text)

    @property
    def spk2utt(self):
        """{spk: [utt, ...]}, derived from utt2spk so that they cannot disagree."""
        return by_speaker(self.utt2spk)

    @property
    def entities(self):
        """{utt: [(slot, value), ...]} of the `entities` file; UserError for an item without "="."""
        return parse_entities({utt: lines[0] for utt, lines in self.extra.get("entities", {}).items()})

    def samples(self, path):
        """{utt: samples} of a directory that `llmvq data format` wrote; `path` names it in UserErrors."""
        if self.segments is not None or "utt2num_samples" not in self.extra:
            raise _unformatted(path)
        return {utt: _count(path, utt, count) for utt, (count,) in self.extra["utt2num_samples"].items()}

    def location(self, utt):
        """(audio path, start s, end s or None) of an utterance."""
        if self.segments is None:
            return self.wav_scp[utt], 0.0, None
        rec, start, end = self.segments[utt]
        return self.wav_scp[rec], start, end

    @classmethod
    def load(cls, path, dropped=None):
        """Read a directory; audio files are not opened and empty transcripts are allowed.

        Order, repeated lines and a stale spk2utt are forgiven. Any other defect raises UserError.
        With a list `dropped`, what llmvq data fix would drop is left out, and (id, reason) appended.
        """
        tables, segments, problems = inspect(path, allow_empty_text=True)
        forgiven = ("rewrite",) if dropped is None else ("rewrite", "drop")
        _check(path, problems, forgiven)
        drops = [p for p in problems if p.repair == "drop"]
        if drops:
            kept, gone, _ = select(path, tables, drops)
            if not kept["utt"]:
                raise UserError(f"{path}: no utterance would be left: {drops[0]}")
            dropped += gone
            for name, rows in tables.items():
                of = level(name) or ("rec" if "segments" in tables and name == "wav.scp" else "utt")
                tables[name] = [r for r in rows if name == "spk2utt" or r.key in kept[of]]
            segments = {utt: s for utt, s in segments.items() if utt in kept["utt"]}
        core = [{r.key: r.value for r in tables[n]} for n in ("wav.scp", "text", "utt2spk")]
        extra = {name: {} for name in filter(level, tables)}
        for name, table in extra.items():
            for row in tables[name]:
                if name.endswith(".ctm"):
                    table.setdefault(row.key, []).append(row.value)
                else:
                    table[row.key] = [row.value]
        cut = {u: s[:3] for u, s in segments.items()} if "segments" in tables else None
        return cls(*core, cut, extra)

    def subset(self, keys):
        """A new DataDir with these utterances; optional files and recordings follow them."""
        keys = set(keys)
        unknown = min(keys - self.text.keys(), default=None)
        if unknown is not None:
            raise UserError(f"utterance {unknown!r} is not in this data directory (correct its id)")
        segments, recs = None, keys
        if self.segments is not None:
            segments = {u: self.segments[u] for u in self.utts if u in keys}
            recs = {segment[0] for segment in segments.values()}
        utt2spk = {u: self.utt2spk[u] for u in self.utts if u in keys}
        kept = {"utt": keys, "spk": set(utt2spk.values()), "rec": recs}
        extra = {name: {k: v for k, v in table.items() if k in kept[level(name)]} for name, table in self.extra.items()}
        wav_scp = {r: w for r, w in self.wav_scp.items() if r in recs}
        return DataDir(wav_scp, {u: self.text[u] for u in utt2spk}, utt2spk, segments, extra)

    def files(self):
        """{file name: content} as they are written."""
        core = {"wav.scp": self.wav_scp, "text": self.text, "utt2spk": self.utt2spk}
        core["spk2utt"] = {spk: " ".join(utts) for spk, utts in self.spk2utt.items()}
        if self.segments is not None:
            core["segments"] = {u: f"{r} {s!r} {e!r}" for u, (r, s, e) in self.segments.items()}
        tables = {name: {k: [v] for k, v in table.items()} for name, table in core.items()} | self.extra
        content = {}
        for name, table in tables.items():
            gap = "\t" if name == "entities" else " "
            if name.partition(".")[0] == "text":
                table = {key: [one_line(line) for line in lines] for key, lines in table.items()}
            lines = [f"{k}{gap}{v}".rstrip(" \t") for k in sorted(table) for v in table[k]]
            content[name] = "".join(line + "\n" for line in lines)
        return content

    def write(self, path):
        """Write the directory `path`, in one step. False if it was written like this before and is as it was.

        Raises UserError for a directory that others made, and where there is no utterance.
        """
        content = hashlib.sha256(json.dumps(self.files(), sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
        return MadeDir(path, content=content).make(self.write_tables)

    def write_tables(self, path):
        """Write all tables into a directory, in the place of those that are there; others in it stay.

        Raises UserError if all are empty.
        """
        if not self.text:
            raise UserError(f"{path}: no utterance is left for it; choose, or hold out, fewer")
        for name, text in self.files().items():
            write_text(Path(path) / name, text, known=True)


def formatted_rows(path):
    """Yield (utterance, audio path, samples, transcript) of a directory that llmvq data format wrote, by id.

    Raises UserError as `DataDir.load` and `DataDir.samples`. Of sorted tables, as format writes them, memory does not
    grow but for some 100 bytes an utterance while they are checked; others are loaded.
    """
    tables, problems = survey(path, allow_empty_text=True)
    _check(path, problems, ("rewrite",))
    if "segments" in tables or "utt2num_samples" not in tables:
        raise _unformatted(path)
    names = ("wav.scp", "utt2num_samples", "text")
    if any(Path(problem.file).name in names for problem in problems):
        data = DataDir.load(path)
        for utt, samples in sorted(data.samples(path).items()):
            yield utt, data.wav_scp[utt], samples, data.text[utt]
        return
    for wav, samples, text in zip(*(tables[name] for name in names), strict=True):
        yield wav.key, wav.value, _count(path, samples.key, samples.value), text.value


def _check(path, problems, forgiven):
    """Raise UserError for the first of the Problems of a directory that have other repairs than the forgiven ones."""
    if wrong := [p for p in problems if p.repair not in forgiven]:
        more = f"; {len(wrong) - 1} more from llmvq data validate {path}" * (len(wrong) > 1)
        raise UserError(f"{wrong[0]}{more}")


def _count(path, utt, value):
    if not value.isdecimal():
        raise UserError(f"{path}/utt2num_samples: {utt}: {value!r} is not a count; format it again (stage 3)")
    return int(value)


def _unformatted(path):
    return UserError(f"{path}: is not formatted; run llmvq data format (stage 3)")
