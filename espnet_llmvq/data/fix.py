"""Repairing data directories where nothing has to be guessed; every line that goes is listed."""

import itertools
import os
import shutil
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import beside, write_text
from espnet_llmvq.data.checks import select, validate
from espnet_llmvq.data.tables import by_speaker, level, managed_files, scan


def fix(path, audio=True, rate=None, nj=2, allow_empty_text=False):
    """Repair `path` in place; the exit status, 0 when it is clean afterwards.

    Old files go to `path`/.backup, dropped ids with reasons to `path`/dropped.tsv. When a problem
    needs a person (conflicting ids, wrong encoding, pipes) nothing at all is changed: status 1.
    Raises UserError when no utterance would be left.
    """
    path = Path(path)
    problems = validate(path, audio, rate, nj, allow_empty_text)
    by_hand, left, repairs, drops = (
        [p for p in problems if p.repair == kind] for kind in ("hand", "convert", "rewrite", "drop")
    )
    if by_hand:
        for problem in by_hand:
            print(problem)
        print(f"{path}: unchanged; problems to correct by hand first: {len(by_hand)}")
        return 1
    tables = {name: scan(path / name)[0] for name in managed_files(path)}
    if repairs or drops:
        segmented = "segments" in tables
        kept, dropped, total = select(path, tables, drops)
        if not kept["utt"]:
            first = "\n  ".join(map(str, drops[:3]))
            raise UserError(f"{path}: unchanged, as no utterance would be left:\n  {first}")
        for problem in repairs:
            print(f"repaired: {problem}")
        for key, reason in dropped:
            print(f"dropped: {key}: {reason}")
        content = {}
        for name, rows in tables.items():
            of = level(name) or ("rec" if segmented and name == "wav.scp" else "utt")
            lines = [(r.key, r.raw) for r in rows if r.key in kept[of]]
            if not name.endswith(".ctm"):
                lines = {key: (key, raw) for key, raw in reversed(lines)}.values()
            content[name] = "".join(f"{raw}\n" for _, raw in sorted(lines, key=lambda x: x[0]))
        speakers = {r.key: r.value for r in tables["utt2spk"] if r.key in kept["utt"]}
        content["spk2utt"] = "".join(f"{spk} {' '.join(utts)}\n" for spk, utts in by_speaker(speakers).items())
        _back_up(path, [*tables, "dropped.tsv"])
        # What is there is in the backup.
        write_text(path / "dropped.tsv", "".join(f"{k}\t{why}\n" for k, why in dropped), known=True)
        for name, text in content.items():
            write_text(path / name, text, known=True)
        count = len(kept["utt"])
        print(f"{path}: kept {count} of {total} utterances; old files are in {path / '.backup'}")
        if dropped:
            print(f"{path}: dropped ids are listed in {path / 'dropped.tsv'}")
    else:
        print(f"{path}: nothing to repair")
    for problem in left:
        print(problem)
    return 1 if left else 0


def _back_up(path, names):
    """Copy files to `path`/.backup; an earlier backup moves to .backup.1, .backup.2, ..."""
    backup = path / ".backup"
    if backup.exists():
        old = (path / f".backup.{number}" for number in itertools.count(1))
        os.rename(backup, next(place for place in old if not place.exists()))
    temporary = beside(backup, "new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name in names:
        if (path / name).exists():
            shutil.copy2(path / name, temporary / name)
    os.rename(temporary, backup)
