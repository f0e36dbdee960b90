"""Systems and sets of an experiment, and its results, rows of `results.json`, as tables."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

from espnet_llmvq.base.errors import UserError, check_name

DOMAINS = {"id": "ID", "ood": "OOD"}
SMALL = 500  # words; a smaller set is marked
# prefix of the metrics, what they are of, {metric: prefix of its columns}
QUESTIONS = (
    ("mc", "multiple choice of four, chance is 25 %", {"mc": ""}),
    ("sqa", "open questions", {"sqa_exact": "exact: ", "sqa_contained": "contained: "}),
)
FEW = 20  # resampling units; intervals of fewer are too narrow


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
    """A column of the table. `domain` is "id" or "ood", `text` the reference file.

    The others are optional: normaliser (else that of the experiment); entities, utt2spk and
    word_list, files; metrics, further ones joined by commas ("bleu", "chrf"); name of this set.
    """

    name: str
    domain: str
    text: str
    normaliser: str = ""
    entities: str = ""
    utt2spk: str = ""
    word_list: str = ""
    metrics: str = ""


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
    """Return the EvalSet of `name|id or ood|reference text[|key=value...]`."""
    required, *more = [field.strip() for field in spec.split("|")][:3], *spec.split("|")[3:]
    if len(required) != 3 or not all(required):
        raise UserError(
            f"--set {spec!r}: write 'name|id or ood|reference text', for example "
            "'test_id|id|dump/test_id/text', then perhaps '|normaliser=whisper_english'"
        )
    check_name(f"domain of the set {required[0]}", required[1], DOMAINS)
    keys, options = [field.name for field in fields(EvalSet)][3:], {}
    for item in more:
        key, equals, value = item.strip().partition("=")
        check_name(f"key of the set {required[0]}", key, keys)
        if not equals or not value:
            raise UserError(f"--set {spec!r}: {key} has no value; write '{key}=VALUE'")
        options[key] = value
    return EvalSet(*required, **options)


def check_unique(kind, items):
    """Raise UserError if two of `items` have the same name."""
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{kind} {name!r} is given twice; give each one its own name")


def number(value):
    """Return a number rounded to four decimals for JSON; None if there is none."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def signed(value):
    """Return a number with sign and two decimals, or "-" if there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:+.2f}"


def bounds(row):
    """Return the interval of a row as "[low, high]", or ""."""
    low, high = row.get("low"), row.get("high")
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def cell(row):
    """Return value and interval of a row, such as "12.42 [10.08, 14.91]"; "-" if not defined."""
    if row is None or row["value"] is None:
        return "-"
    return f"{row['value']:.2f} {bounds(row)}".rstrip()


def change(row):
    """Return the cell of a difference with its interval, signs always shown; "-" without one."""
    if row is None or row["value"] is None:
        return "-"
    between = "" if row["low"] is None else f" [{signed(row['low'])}, {signed(row['high'])}]"
    return signed(row["value"]) + between


def domains(rows):
    """Return the domains in `rows`, in-domain first."""
    return [domain for domain in DOMAINS if any(row["domain"] == domain for row in rows)]


def set_names(rows, metric):
    """Return {name: domain} of the test sets, not the means, that have `metric`."""
    return {
        row["set"]: row["domain"]
        for row in rows
        if row["metric"] == metric and not row["set"].startswith(("mean_", "micro_", "ood/"))
    }


def _names(rows, metrics):
    """Return the systems of `rows` that have one of `metrics`."""
    return list(dict.fromkeys(row["system"] for row in rows if row["metric"] in metrics))


def _bold(column, better):
    """Return cells with the best values bold, once rounded as shown, if there are several."""
    values = [float(c.split()[0]) if c not in ("", "-") else None for c in column]
    known = [value for value in values if value is not None]
    if len(column) < 2 or not known:
        return column
    best = min(known) if better == "low" else max(known)
    return [f"**{value:.2f}**{c[len(c.split()[0]) :]}" if value == best else c for c, value in zip(column, values)]


def _with_notes(header, first, rows, notes):
    """Put the systems' notes in a second column if there are any. first: rows without a system."""
    if not any(notes.values()):
        return header, first + rows
    texts = [""] * len(first) + list(notes.values())
    return [header[0], "note", *header[1:]], [[row[0], note, *row[1:]] for row, note in zip(first + rows, texts)]


def metric_table(rows, metric, better="low", labels=None, notes=None, oov=None, bold=True):
    """Return (header, rows of strings): systems by sets, values of `metric` with intervals.

    rows: entries of `results.json`. The first two lines hold words (marked if the set is small),
    utterances and, with `oov` ({set: percent}), the out-of-vocabulary rate; and the normaliser.
    labels, notes: {system: text}. bold: the best of each column is.
    """
    sets, names = set_names(rows, metric), _names(rows, (metric,))
    found = {(r["system"], r["set"]): r for r in rows if r["metric"] == metric}
    sizes, normalisers, columns = [], [], []
    for name in sets:
        row = next(found[system, name] for system in names if (system, name) in found)
        small = " (small)" if row["words"] < SMALL else ""
        share = f" / {oov[name]:.2f}" if oov else ""
        sizes.append(f"{row['words']}{small} / {row['utterances']}{share}")
        normalisers.append(row.get("normaliser", ""))
        column = [cell(found.get((system, name))) for system in names]
        columns.append(_bold(column, better) if bold else column)
    header = ["system"] + [f"{name} ({DOMAINS[domain]})" for name, domain in sets.items()]
    first = [["words / utterances" + (" / OOV %" if oov else ""), *sizes]]
    first += [["normaliser", *normalisers]]
    lines = [[(labels or {}).get(name, name), *(column[i] for column in columns)] for i, name in enumerate(names)]
    return _with_notes(header, first, lines, {name: (notes or {}).get(name, "") for name in names})


def domain_table(rows, comparisons, metric, baseline, labels=None, notes=None):
    """Return (header, rows of strings): means by domain, ratio, and change against the baseline.

    rows, comparisons: entries of `results.json` and `comparisons.json`. Macro means give each set
    the same weight, micro means each word.
    """
    names = _names(rows, (metric,))
    found = {(r["system"], r["set"]): r for r in rows if r["metric"] == metric}
    found |= {(r["system"], r["set"]): r for r in rows if r["metric"] == f"{metric}_ratio"}
    header, columns = ["system"], []
    for kind in ("mean", "micro"):
        for domain in domains(rows):
            header.append(f"{DOMAINS[domain]} {'macro' if kind == 'mean' else kind} mean")
            cells = [cell(found.get((name, f"{kind}_{domain}"))) for name in names]
            columns.append(_bold(cells, "low"))
    if len(domains(rows)) == 2:
        header.append("OOD / ID")
        columns.append([cell(found.get((name, "ood/id"))) for name in names])
    changes = {(r["system"], r["set"]): r for r in comparisons if r["metric"] == metric and r["system"]}
    for domain in domains(rows) * (len(names) > 1):
        header.append(f"{DOMAINS[domain]} macro mean vs {baseline} (%)")
        column = []
        for name in names:
            row = changes.get((name, f"mean_{domain}"))
            if row is None or row["relative"] is None:
                column.append("")
                continue
            low, high = signed(row["relative_low"]), signed(row["relative_high"])
            column.append(f"{signed(row['relative'])} [{low}, {high}]")
        columns.append(column)
    normaliser = {r["set"]: r["normaliser"] for r in rows if r["metric"] == metric}
    kinds = [f"{kind}_{domain}" for kind in ("mean", "micro") for domain in domains(rows)]
    used = [normaliser.get(kind, "") for kind in kinds]
    first = [["normaliser", *used, *[""] * (len(columns) - len(used))]]
    lines = [[(labels or {}).get(name, name), *(column[i] for column in columns)] for i, name in enumerate(names)]
    return _with_notes(header, first, lines, {name: (notes or {}).get(name, "") for name in names})


def set_table(rows, set_name, metrics, better, labels=None, headings=None, counted=None):
    """Return (header, rows of strings): systems by `metrics` of one set, the normaliser above.

    better: {metric: "low" or "high"}. headings: {metric: heading}, else its name. counted: {metric: heading
    of a column beside it} with the two counts it is the ratio of.
    """
    names = _names([r for r in rows if r["set"] == set_name], metrics)
    found = {(r["system"], r["metric"]): r for r in rows if r["set"] == set_name}
    metrics = [metric for metric in metrics if any((name, metric) in found for name in names)]
    header, normalisers, columns = ["system"], ["normaliser"], []
    for metric in metrics:
        having = [found.get((name, metric)) for name in names]
        header.append((headings or {}).get(metric, metric))
        normalisers.append(next(row for row in having if row)["normaliser"])
        columns.append(_bold([cell(row) for row in having], better[metric]))
        if metric in (counted or {}):
            header.append(counted[metric])
            normalisers.append("")
            columns.append([f"{row['count']} / {row['of']}" if row else "-" for row in having])
    lines = [[(labels or {}).get(name, name), *(column[i] for column in columns)] for i, name in enumerate(names)]
    return header, [normalisers, *lines]


def question_tables(rows, labels=None):
    """Return [((kind, set), heading, header, rows of strings)] of questions: text, speech and gap of each system.

    rows: entries of `results.json`; those of questions have metrics such as mc_text. One table a set and kind.
    """
    tables = []
    for kind, title, metrics in QUESTIONS:
        sets = {r["set"]: r["utterances"] for r in rows if r["metric"].startswith(f"{kind}_")}
        for name, size in sets.items():
            found = {(r["system"], r["metric"]): r for r in rows if r["set"] == name}
            names = list(dict.fromkeys(s for s, metric in found if metric.startswith(f"{kind}_")))
            header, columns = ["system"], []
            for metric, heading in metrics.items():
                for form in ("text", "speech", "gap"):
                    header.append(heading + form)
                    having = [found.get((system, f"{metric}_{form}")) for system in names]
                    cells = [(change if form == "gap" else cell)(row) for row in having]
                    columns.append(cells if form == "gap" else _bold(cells, "high"))
            lines = [[(labels or {}).get(s, s), *(column[i] for column in columns)] for i, s in enumerate(names)]
            tables.append(((kind, name), f"{name}: {title}, {size} questions", header, lines))
    return tables


def comparison_table(comparisons, level=0.05):
    """Return (header, rows of strings) of entries of `comparisons.json`.

    An asterisk marks a p-value that is at most `level` after correction.
    """
    header = ["system", "set", "metric", "normaliser", "change", "interval", "p", "p corrected"]
    lines = []
    for row in comparisons:
        p = ["", ""]
        if row["p"] is not None:
            star = "*" if row["p_holm"] <= level else ""
            p = [f"{row['p']:.4f}", f"{row['p_holm']:.4f}{star}"]
        chance = row["improvement"]
        lines.append(
            [row["system"], row["set"], row["metric"], row["normaliser"], signed(row["change"])]
            + [f"[{signed(row['low'])}, {signed(row['high'])}]", *p]
            + ["-" if chance is None else f"{chance:.3f}"]
        )
    return [*header, "P(better)"], lines


def error_table(systems, sets, scores):
    """Return (header, rows of strings) of substitutions / deletions / insertions, in words.

    scores: {(system name, set name): Score}.
    """
    header = ["system"] + [f"{s.name} ({DOMAINS[s.domain]})" for s in sets]
    rows = []
    for system in systems:
        found = [scores[system.name, s.name] for s in sets]
        cells = [f"{c.substitutions} / {c.deletions} / {c.insertions}" for c in found]
        rows.append([system.label, *cells])
    return header, rows


def derailment_table(rows, kinds, labels=None):
    """Return (header, rows of strings) of entries of `derailments.json`, those that occurred.

    kinds: the kinds in the order of the columns, "any" among them.
    """
    header = ["system", "set", *kinds, "utterances", "WER", "WER without any"]
    found = {(r["system"], r["set"], r["kind"]): r for r in rows}
    lines = []
    for system, name in dict.fromkeys((r["system"], r["set"]) for r in rows):
        whole = found[system, name, "any"]
        if whole["count"]:
            counts = [str(found[system, name, kind]["count"]) for kind in kinds]
            without = whole["wer_without"]
            rates = [f"{whole['wer_all']:.2f}", "-" if without is None else f"{without:.2f}"]
            label = (labels or {}).get(system, system)
            lines.append([label, name, *counts, str(whole["utterances"]), *rates])
    return header, lines


def rows_tsv(rows):
    """Return flat dicts with the same keys as tab-separated lines; None is an empty field."""
    lines = ["\t".join(rows[0])] if rows else []
    lines += ["\t".join("" if v is None else str(v) for v in row.values()) for row in rows]
    return "".join(line + "\n" for line in lines)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{char: "\\" + char for char in "&%$#_"},
    }
)


def latex_table(header, rows, caption):
    """Return a LaTeX table (package booktabs); bold cells of Markdown become \\textbf."""

    def line(cells):
        texts = []
        for text in map(str, cells):
            start, bold, rest = text.partition("**")
            if bold and "**" in rest:
                inner, _, rest = rest.partition("**")
                bold, rest = rf"\textbf{{{inner.translate(_LATEX)}}}", rest
            texts.append(start.translate(_LATEX) + bold + rest.translate(_LATEX))
        return " & ".join(texts) + r" \\" + "\n"

    columns = "l" + "r" * (len(header) - 1)
    return (
        rf"\begin{{table}}[t]\centering\caption{{{caption.translate(_LATEX)}}}"
        "\n"
        rf"\begin{{tabular}}{{{columns}}}\toprule"
        "\n" + line(header) + "\\midrule\n" + "".join(line(row) for row in rows) + "\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def _padded(header, rows):
    table = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return widths, [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))] for row in table
    ]


def text_table(header, rows):
    """Return a plain table: first column to the left, the others to the right."""
    return "".join("  ".join(row).rstrip() + "\n" for row in _padded(header, rows)[1])


def markdown_table(header, rows):
    """Return a Markdown table padded so that it also reads well as plain text."""
    widths, table = _padded(header, rows)
    # A column may be empty; its rule needs a hyphen all the same.
    rule = ["-" * max(w, 1) if i == 0 else "-" * max(w - 1, 1) + ":" for i, w in enumerate(widths)]
    return "".join("| " + " | ".join(row) + " |\n" for row in [table[0], rule, *table[1:]])
