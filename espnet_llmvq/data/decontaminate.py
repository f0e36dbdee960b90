"""Text without the lines that share words with given utterances, so that what is tested has not been read before."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_outputs, write_text
from espnet_llmvq.base.made import Made
from espnet_llmvq.data.manifest import read_lines
from espnet_llmvq.data.normalise import basic
from espnet_llmvq.data.tables import read_scp


def runs(text, length):
    """All runs of `length` words of a text, in lower case without punctuation; none of a shorter one."""
    words = basic(text).split()
    return [" ".join(words[i : i + length]) for i in range(len(words) - length + 1)]


def text_of(path):
    """The `text` file of a data directory, or the file itself."""
    return os.path.join(path, "text") if os.path.isdir(path) else path


def decontaminate(texts, against, out, length=7):
    """Write to `out` the lines of plain text files that share no `length` words in a row with an utterance.

    against: data directories, or files such as their `text`. OUT.dropped.tsv has the other lines: file:line, set,
    utterance, the first words that they share with it; a row for each set. Returns {set: (lines, utterances)} that
    share words, and the counts of all lines and of those that were dropped. Unchanged input is not done again.

    Raises UserError for files that cannot be read or replaced, and where no line is left.
    """
    dropped, sets = f"{out}.dropped.tsv", {path: text_of(path) for path in map(str, against)}
    check_outputs([out, dropped], [*texts, *sets.values()])
    inputs = {f"text {i}": path for i, path in enumerate(texts, 1)} | sets
    made = Made(out, inputs, length=length)
    if not made.fresh():
        kept, rows, shares, total = sift(
            texts, {name: read_scp(path, empty=True) for name, path in sets.items()}, length
        )
        if not kept:
            raise UserError(f"{out}: no line is left of {total}; are the texts those of the sets?")
        write_text(dropped, "".join("\t".join(row) + "\n" for row in rows))
        write_text(out, "".join(f"{line}\n" for line in kept))
        made.note([os.path.basename(dropped)], shares=shares, lines=[total, total - len(kept)])
    facts = made.facts()
    return {name: tuple(counts) for name, counts in facts["shares"].items()}, *facts["lines"]


def sift(texts, sets, length):
    """(lines kept, rows of dropped ones, {set: [lines, utterances]}, count of all lines).

    texts: plain text files; sets: {set: {utterance: text}}. Blank lines do not count.
    Raises UserError for files that cannot be read.
    """
    known = {name: {} for name in sets}  # {set: {run: its utterances}}
    for name, table in sets.items():
        for utt, text in table.items():
            for run in runs(text, length):
                known[name].setdefault(run, set()).add(utt)
    kept, rows, total = [], [], 0
    lines, utterances = dict.fromkeys(sets, 0), {name: set() for name in sets}
    for path in texts:
        for number, line in enumerate(read_lines(path), 1):
            found, clear = runs(line, length), True
            total += bool(line.strip())
            for name, of in known.items():
                shared = [run for run in found if run in of]
                if shared:
                    clear = False
                    lines[name] += 1
                    utterances[name].update(*(of[run] for run in shared))
                    rows.append((f"{path}:{number}", name, min(of[shared[0]]), shared[0]))
            if clear and line.strip():
                kept.append(line)
    return kept, rows, {name: [lines[name], len(utterances[name])] for name in sets}, total


def table(out, shares, total, dropped):
    """What `decontaminate` did, as lines of text."""
    said = [f"{name}: {lines} lines share words with {utts} utterances" for name, (lines, utts) in shares.items()]
    listed = f", listed in {out}.dropped.tsv" if dropped else ""
    return "\n".join([*said, f"{out}: {total - dropped} of {total} lines; {dropped} left out{listed}"])
