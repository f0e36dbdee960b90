"""Transcript files: Kaldi `text`, `.trn`, JSON lines; what to do with bad ones; writing in one step.

Bad input is an error that lists the utterances and says the remedy. Where a treatment was asked
for instead (`Rules`), it is named in `notes`, to be printed with the result.
"""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path

from espnet_llmvq.base.config import option
from espnet_llmvq.base.environment import FILE
from espnet_llmvq.base.errors import UserError, check_name, nearest
from espnet_llmvq.base.files import one_line
from espnet_llmvq.data.normalise import visible


@dataclass(frozen=True)
class Rules:
    """What is done with bad input, and the encoding of files. Raises UserError for a treatment that there is not."""

    missing: str = option("error", "utterance without a hypothesis; empty: its words are deletions", ("error", "empty"))
    extra: str = option("error", "hypothesis without a reference; drop: left out", ("error", "drop"))
    duplicate: str = option(
        "error", "utterance given twice in a file; first or last: that line counts", ("error", "first", "last")
    )
    empty_hyp: str = option(
        "keep", "hypothesis without words; keep: the reference's words are deletions", ("keep", "error")
    )
    empty_ref: str = option(
        "error", "reference without words; keep: what is said is insertions; drop: left out", ("error", "keep", "drop")
    )
    unmapped: str = option("error", "utterance without a speaker; own: a speaker of its own", ("error", "own"))
    entity_absent: str = option(
        "error", "entity that its raw reference does not hold; drop: left out", ("error", "drop")
    )
    encoding: str = option("utf-8", "of references and hypotheses")

    def __post_init__(self):
        for field in fields(self):
            if allowed := field.metadata["choices"]:
                check_name(f"value of --{field.name}", getattr(self, field.name), allowed)
        try:
            "".encode(self.encoding)
        except LookupError:
            raise UserError(
                f"unknown --encoding {self.encoding!r}; name one that Python knows, such as "
                "utf-8, latin-1, cp1252, gb18030 or shift_jis"
            ) from None

    @property
    def given(self):
        """{name: value} of those that are not the default's, as results record them."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    def __str__(self):
        """The same as options of a command."""
        return " ".join(f"--{name} {value}" for name, value in self.given.items())


_TRN = re.compile(r"^(.*?)\s*\(((?:[^()\s]|\([^()\s]*\))+)\)$")  # an id may hold words in parentheses: rec(2)
_UNDECODED = re.compile("[\udc80-\udcff]")


def some(items):
    """A string of up to ten of `items` and the number of the others."""
    items = list(items)
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(items[:10]) + more


def read_lines(path, encoding="utf-8"):
    """(number, line) of the lines that are not blank; UserError if not in `encoding`."""
    try:
        data = Path(path).read_bytes()
    except OSError as err:
        raise UserError(f"{path}: cannot read it: {err.strerror}; check the path") from None
    try:
        # Bytes that are none of the encoding become U+DC80 to U+DCFF.
        text = data.removeprefix(b"\xef\xbb\xbf").decode(encoding, "surrogateescape")
    except UnicodeDecodeError as err:  # of UTF-16
        raise UserError(f"{path}: not valid {encoding}: {err}; give its --encoding") from None
    # str.splitlines would also split at characters such as U+2028.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    ids = {n: line.split()[0].encode("utf-8", "surrogateescape") for n, line in lines if _UNDECODED.search(line)}
    bad = [f"line {number} ({utt.decode('utf-8', 'backslashreplace')[:80]})" for number, utt in ids.items()]
    if bad:
        raise UserError(
            f"{path}: not valid {encoding.upper()}: {some(bad)}; convert the file, for example: "
            f"iconv -f latin1 -t utf-8 {path}, or give its --encoding"
        )
    return lines


def _parse_kaldi(line):
    utt, *text = line.split(maxsplit=1)
    return utt, "".join(text)


def _parse_trn(line):
    match = _TRN.match(line)
    if not match:
        raise UserError("not `words (utterance)`")
    return match[2], match[1]


def _parse_json(line):
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise UserError('not a JSON object {"id": ..., "text": ...} on one line')
    for key in ("id", "text"):
        if key in entry and not isinstance(entry[key], str):
            raise UserError(f'no string "{key}", but {json.dumps(entry[key])[:80]}')
        if not isinstance(entry.get(key), str):
            raise UserError(f'no string "{key}"{nearest(key, entry)}')
        if re.search("[\ud800-\udfff]", entry[key]):
            raise UserError(f'"{key}" holds a character that is none (half of a surrogate pair)')
    if entry["id"].split() != [entry["id"]]:
        raise UserError('"id" must be a word, without white space')
    return entry["id"], entry["text"]


_PARSERS = {".trn": _parse_trn, ".jsonl": _parse_json, ".json": _parse_json}


def read_transcript(path, rules=Rules(), notes=None):  # noqa: B008  Rules is frozen
    """{utterance: text} in the order of the file.

    The name tells the format: `*.trn` has `words (utterance)`, `*.jsonl` and `*.json` have one object with "id" and
    "text" a line, anything else has `utterance words...` as Kaldi's `text`. Blank lines are skipped. UserError for a
    file that cannot be read, is not in its encoding, has a malformed line, names an utterance twice, or holds nothing.
    Characters that cannot be seen are left out. A treatment by `rules` is named in the list `notes`.
    """
    if Path(path).suffix in (".ctm", ".stm"):  # which would be read as Kaldi's, times as words
        raise UserError(f"{path}: holds times; write `utterance words...` lines, or `words (utterance)` into a .trn")
    parse = _PARSERS.get(Path(path).suffix, _parse_kaldi)
    texts, first, twice = {}, {}, []
    for number, line in read_lines(path, rules.encoding):
        try:
            utt, text = parse(line)
        except UserError as err:
            raise UserError(
                f"{path}, line {number}: {err}: {line[:80]!r}; correct the line, or name the "
                "file after its format (.trn, .jsonl, otherwise Kaldi text)"
            ) from None
        if utt in texts:
            twice.append(f"{utt} (lines {first[utt]} and {number})")
            if rules.duplicate != "last":
                continue
        texts[utt] = text
        first.setdefault(utt, number)
    if twice and rules.duplicate == "error":
        raise UserError(
            f"{path}: utterances given twice: {some(twice)}; keep one line of each, or give --duplicate first or last"
        )
    if not texts:
        raise UserError(f"{path}: holds no utterances; run the step that writes it again")
    hidden = {utt: text for utt, raw in texts.items() if (text := visible(raw)) != raw}
    texts |= hidden
    if notes is not None:
        if hidden:
            notes.append(f"{path}: {len(hidden)} texts held characters that cannot be seen, which are left out")
        if twice:
            notes.append(f"{path}: {len(twice)} further lines of an utterance, {rules.duplicate} kept")
        if rules.encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
            notes.append(f"{path}: read as {rules.encoding}")
    return texts


def read_at_limit(path, rules=Rules()):  # noqa: B008
    """The set of utterances that a .jsonl file marks `"at_limit": true`; others: empty."""
    if Path(path).suffix not in (".jsonl", ".json"):
        return set()
    entries = [json.loads(line) for _, line in read_lines(path, rules.encoding)]
    # of an utterance that is there twice, the line that `read_transcript` takes
    entries = {entry["id"]: entry for entry in (entries if rules.duplicate == "last" else reversed(entries))}
    return {utt for utt, entry in entries.items() if entry.get("at_limit") is True}


def read_facts(path):
    """Facts that decoding left beside the hypothesis file `path`, {} if none. Raises UserError for a damaged file."""
    path = Path(path).with_name(FILE)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise UserError(f"{path}: not a JSON object; delete it, or decode again")
    return facts


def match_utterances(refs, hyps, ref_path, hyp_path, rules=Rules(), notes=None):  # noqa: B008
    """`hyps` restricted to and in the order of `refs`.

    UserError for hypotheses that are missing or extra, unless `rules` says what to do with them;
    that is named in the list `notes`.
    """
    absent = [utt for utt in refs if utt not in hyps]
    extra = [utt for utt in hyps if utt not in refs]
    if len(absent) == len(refs):
        raise UserError(
            f"{hyp_path}: no utterance of {ref_path} is in it: {len(refs)} references "
            f"({some(absent[:2])} ...), {len(hyps)} hypotheses ({some(extra[:2])} ...); use the "
            "same ids in both files, or give the reference of this set"
        )
    if extra and rules.extra == "error":
        raise UserError(
            f"{hyp_path}: {len(extra)} utterances are not in {ref_path}: {some(extra)}; remove "
            "them, give the reference of this set, or leave them out (--extra drop)"
        )
    if absent and rules.missing == "error":
        raise UserError(
            f"{hyp_path}: {len(absent)} of {len(refs)} utterances of {ref_path} have no "
            f"hypothesis: {some(absent)}; decode them, or count them as empty (--missing empty)"
        )
    if notes is not None:
        if extra:
            notes.append(f"{hyp_path}: {len(extra)} hypotheses without a reference left out")
        if absent:
            notes.append(f"{hyp_path}: {len(absent)} missing hypotheses counted as empty")
    return {utt: hyps.get(utt, "") for utt in refs}


def trn(texts):
    """{utterance: text} as `.trn` lines."""
    return "".join(f"{one_line(text)} ({utt})\n" for utt, text in texts.items())
