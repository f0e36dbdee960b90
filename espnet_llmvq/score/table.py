"""Error rates of several systems on in-domain and out-of-domain sets, as rows and as tables."""

from dataclasses import dataclass
from pathlib import Path

from espnet_llmvq.errors import UserError, check_name

DOMAINS = {"id": "ID", "ood": "OOD"}


@dataclass(frozen=True)
class System:
    """A row of the table. `pattern` is its hypothesis file with `{set}` for the set's name."""

    name: str
    label: str
    pattern: str
    note: str = ""

    def hyp_path(self, set_name):
        return Path(self.pattern.replace("{set}", set_name))


@dataclass(frozen=True)
class EvalSet:
    """A column of the table. `domain` is "id" or "ood", `text` the reference file."""

    name: str
    domain: str
    text: str


def parse_system(spec):
    """Return the System of `name|label|hypothesis pattern[|note]`."""
    fields = [field.strip() for field in spec.split("|")]
    if len(fields) not in (3, 4) or not all(fields[:3]) or "{set}" not in fields[2]:
        raise UserError(
            f"--system {spec!r}: write 'name|label|hypothesis file[|note]' with {{set}} in the "
            "file, for example 'lora|SLAM-ASR + LoRA|exp/lora/decode_{set}/hyp.jsonl'"
        )
    return System(*fields)


def parse_set(spec):
    """Return the EvalSet of `name|id or ood|reference text`."""
    fields = [field.strip() for field in spec.split("|")]
    if len(fields) != 3 or not all(fields):
        raise UserError(
            f"--set {spec!r}: write 'name|id or ood|reference text', for example "
            "'test_id|id|dump/test_id/text'"
        )
    check_name(f"domain of the set {fields[0]}", fields[1], DOMAINS)
    return EvalSet(*fields)


def check_unique(kind, items):
    """Raise UserError if two of `items` have the same name."""
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{kind} {name!r} is given twice; give each one its own name")


def domains(sets):
    """Return the domains that `sets` cover, in-domain first."""
    return [domain for domain in DOMAINS if any(s.domain == domain for s in sets)]


def macro_mean(system, domain, sets, scores, metric):
    """Return the unweighted mean, over the sets of `domain`, of a system's "wer" or "cer"."""
    values = [getattr(scores[system.name, s.name], metric) for s in sets if s.domain == domain]
    return sum(values) / len(values)


def result_rows(systems, sets, scores, seed):
    """Return the entries of `results.json`.

    scores: {(system name, set name): Score}. The macro means are the sets `mean_id` and
    `mean_ood`; their utterances and words are those of all their sets.
    """
    rows = []

    def add(system, set_name, domain, metric, value, members):
        rows.append(
            {
                "system": system.name,
                "set": set_name,
                "domain": domain,
                "metric": metric,
                "value": round(value, 4),
                "utterances": sum(m.utterances for m in members),
                "words": sum(m.words for m in members),
                "seed": seed,
            }
        )

    for system in systems:
        for metric in ("wer", "cer"):
            for s in sets:
                score = scores[system.name, s.name]
                add(system, s.name, s.domain, metric, getattr(score, metric), [score])
            for domain in domains(sets):
                mean = macro_mean(system, domain, sets, scores, metric)
                members = [scores[system.name, s.name] for s in sets if s.domain == domain]
                add(system, f"mean_{domain}", domain, metric, mean, members)
    return rows


def _with_notes(header, rows, systems):
    """Put the systems' notes in a second column if there are any."""
    if not any(system.note for system in systems):
        return header, rows
    notes = [""] * (len(rows) - len(systems)) + [system.note for system in systems]
    return [header[0], "note", *header[1:]], [
        [row[0], note, *row[1:]] for row, note in zip(rows, notes)
    ]


def rate_table(systems, sets, scores, metric, baseline, oov=None):
    """Return (header, rows of strings) of the systems' "wer" or "cer" in percent.

    The first row holds words, utterances and, where `oov` ({set name: percent}) is given, the
    out-of-vocabulary rate of each set. The last columns are the macro means and the change of
    the out-of-domain mean relative to the system named `baseline`. The lowest of each column
    is bold, once rounded as shown, if there is more than one system.
    """
    header = ["system"] + [f"{s.name} ({DOMAINS[s.domain]})" for s in sets]
    columns = [[getattr(scores[system.name, s.name], metric) for system in systems] for s in sets]
    for domain in domains(sets):
        header.append(f"{DOMAINS[domain]} mean")
        columns.append([macro_mean(system, domain, sets, scores, metric) for system in systems])
    cells = [[f"{value:.2f}" for value in column] for column in columns]
    if "ood" in domains(sets):
        means = columns[-1]
        base = means[[system.name for system in systems].index(baseline)]
        header.append(f"OOD mean vs {baseline} (%)")
        cells.append([f"{100 * (m - base) / base:+.1f}" if base else "" for m in means])
    if len(systems) > 1:
        for column in cells:
            best = min((float(cell) for cell in column if cell), default=None)
            column[:] = [f"**{c}**" if c and float(c) == best else c for c in column]

    sizes = [scores[systems[0].name, s.name] for s in sets]
    first = ["words / utterances" + (" / OOV %" if oov else "")]
    for s, size in zip(sets, sizes):
        share = f" / {oov[s.name]:.2f}" if oov else ""
        first.append(f"{size.words} / {size.utterances}{share}")
    first += [""] * (len(header) - len(first))
    rows = [first] + [
        [system.label, *(column[i] for column in cells)] for i, system in enumerate(systems)
    ]
    return _with_notes(header, rows, systems)


def error_table(systems, sets, scores):
    """Return (header, rows of strings) of substitutions / deletions / insertions, in words."""
    header = ["system"] + [f"{s.name} ({DOMAINS[s.domain]})" for s in sets]
    rows = []
    for system in systems:
        found = [scores[system.name, s.name] for s in sets]
        cells = [f"{c.substitutions} / {c.deletions} / {c.insertions}" for c in found]
        rows.append([system.label, *cells])
    return header, rows


def _padded(header, rows):
    table = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return widths, [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        for row in table
    ]


def text_table(header, rows):
    """Return a plain table: first column to the left, the others to the right."""
    return "".join("  ".join(row).rstrip() + "\n" for row in _padded(header, rows)[1])


def markdown_table(header, rows):
    """Return a Markdown table padded so that it also reads well as plain text."""
    widths, table = _padded(header, rows)
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "".join("| " + " | ".join(row) + " |\n" for row in [table[0], rule, *table[1:]])
