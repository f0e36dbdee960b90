"""The rows of `results.json` as tables, and the sections that RESULTS.md, that of pooled seeds and the report share."""

import json
from pathlib import Path

from espnet_llmvq.base.files import write_json, write_text
from espnet_llmvq.score.derail import KINDS as DERAILMENTS
from espnet_llmvq.score.measure import METRICS, names_of
from espnet_llmvq.score.origins import PARTS
from espnet_llmvq.score.questions import GAP, QUESTION_METRICS, QUESTIONS, SPEECH, TEXT
from espnet_llmvq.score.rows import COMPARED, DOMAINS, MACRO, MEANS, MICRO, RATIO, SET
from espnet_llmvq.score.table import SMALL, Cell, Column, Row, Table, cell_of, mark_best, markdown_table, rows_tsv

PREFERRED = "preferred.json"  # of `llmvq lm preferred`
ERRORS = "ERRORS.md"  # of each set, where errors come from
TABLES = ("RESULTS.md", ERRORS, "results.json", "results.tsv", "comparisons.json")  # what `write_tables` writes
KINDS = (SET, *MEANS, RATIO)  # the order of columns
ORIGINS = "; ".join(f"{short}: {what}" for short, what in PARTS.values())
DERAILMENT_HEADINGS = (*DERAILMENTS, "any", "utterances", "WER", "WER without any")


class Results:
    """Rows of `results.json` and `comparisons.json`, and all that their tables show.

    baseline: the system that `comparisons` compare with. labels, notes: {system: text}. oov: {set: percent}, rate of
    words that the training transcript lacks, or None.
    """

    def __init__(self, rows, comparisons=(), baseline="", labels=None, notes=None, oov=None):
        self.rows, self.comparisons, self.baseline = rows, comparisons, baseline
        self.labels, self.notes, self.oov = labels or {}, notes or {}, oov
        self.index = {(r["system"], r["kind"], r["set"], r["metric"]): r for r in rows}
        known = [row["domain"] for row in rows]
        self.domains = [domain for domain in DOMAINS if domain in known]

    def systems(self, metrics):
        """Names of the systems that have one of `metrics`."""
        return list(dict.fromkeys(row["system"] for row in self.rows if row["metric"] in metrics))

    def has(self, metric):
        """Whether a set has this metric."""
        return any(row["metric"] == metric and row["kind"] == SET for row in self.rows)

    def table(self, title, names, columns, lines=(), noted=False):
        """Table of [(Column, its cells, one of each of the systems `names`)]. noted: with the notes on systems."""
        rows = []
        for i, name in enumerate(names):
            note = self.notes.get(name, "") if noted else ""
            rows.append(Row(self.labels.get(name, name), [cells[i] for _, cells in columns], name, note))
        return Table(title, [column for column, _ in columns], rows, lines)

    def columns(self, metric, kinds):
        """[(first entry, Column, cells)] of a metric: sets in their order, means and ratios by domain."""
        names, order = self.systems([metric]), {}
        better = METRICS[metric].better if metric in METRICS else ""
        for row in self.rows:
            of_metric = row["metric"] == (f"{metric}_{RATIO}" if row["kind"] == RATIO else metric)
            if row["kind"] in kinds and of_metric:
                order.setdefault((row["kind"], row["set"]), row)
        domains = list(DOMAINS)
        ranked = sorted(
            order.values(),
            key=lambda r: (KINDS.index(r["kind"]), domains.index(r["domain"]) if r["kind"] in MEANS else 0),
        )
        for row in ranked:
            entries = [self.index.get((name, row["kind"], row["set"], row["metric"])) for name in names]
            cells = [cell_of(one) for one in entries]
            yield row, column_of(row), cells if row["kind"] == RATIO else mark_best(cells, better)

    def metric_table(self, metric, kinds=(SET,)):
        """Systems by sets, values of `metric`. Lines before them hold words and utterances, and the normaliser."""
        columns, sizes, normalisers, oov = [], [], [], self.oov if metric == COMPARED else None
        for row, column, cells in self.columns(metric, kinds):
            small = " (small)" if column.small else ""
            share = f" / {oov[row['set']]:.2f}" if oov and row["kind"] == SET else ""
            sizes.append(f"{row.get('words')}{small} / {row.get('utterances')}{share}")
            normalisers.append(row.get("normaliser") or "")
            columns.append((column, cells))
        lines = [("words / utterances" + (" / OOV %" if oov else ""), sizes), ("normaliser", normalisers)]
        return self.table(title_of(metric), self.systems([metric]), columns, lines, metric == COMPARED)

    def domain_table(self):
        """Means of WER by domain, their ratio, and their change against the baseline in percent.

        Macro means give each set the same weight, micro means each word.
        """
        names, columns, normalisers = self.systems([COMPARED]), [], []
        for row, column, cells in self.columns(COMPARED, (*MEANS, RATIO)):
            columns.append((column, cells))
            normalisers.append("" if row["kind"] == RATIO else row["normaliser"])
        changes = {(r["system"], r["domain"]): r for r in self.comparisons if r["kind"] == MACRO}
        for domain in self.domains * (len(names) > 1):
            cells = []
            for name in names:
                row = changes.get((name, domain))
                values = (row["relative"], row["relative_low"], row["relative_high"]) if row else ()
                cells.append(Cell(*values, form="+.2f", none=""))
            columns.append((Column(f"{DOMAINS[domain]} macro mean vs {self.baseline} (%)"), cells))
            normalisers.append("")
        lines = [("normaliser", normalisers)]
        return self.table("In domain and out of domain (WER, %)", names, columns, lines, noted=True)

    def comparison_table(self, level=0.05):
        """Changes against the baseline; an asterisk marks a p-value of at most `level` after correction."""
        headings = ("set", "metric", "normaliser", "change", "interval", "p", "p corrected", "P(better)")
        rows = []
        for r in self.comparisons:
            change, p = Cell(r["change"], r["low"], r["high"], form="+.2f"), r["p"]
            texts = [r["set"], r["metric"], r["normaliser"], change.text, change.interval]
            star = "*" if p is not None and r["p_holm"] <= level else ""
            texts += ["", ""] if p is None else [f"{p:.4f}", f"{r['p_holm']:.4f}{star}"]
            cells = [*map(Cell, texts), Cell(r["improvement"], form=".3f")]
            rows.append(Row(r["system"], cells, r["system"]))
        return Table(f"WER against {self.baseline} (points)", [Column(heading) for heading in headings], rows)

    def of_set(self, name, metrics):
        """(systems with one of `metrics` on the set `name`, {metric: entry of each, or None})."""
        entries = {(r["system"], r["metric"]): r for r in self.rows if (r["set"], r["kind"]) == (name, SET)}
        names = list(dict.fromkeys(system for system, metric in entries if metric in metrics))
        return names, {metric: [entries.get((system, metric)) for system in names] for metric in metrics}

    def set_tables(self):
        """[(set, Tables)] of sets with entities or a word list: systems by metrics."""
        groups = {"entities (%)": names_of("entities"), "inside and outside of the list (%)": names_of("list")}
        by_set, every = [], sum(groups.values(), [])
        for name in dict.fromkeys(r["set"] for r in self.rows if r["metric"] in every and r["kind"] == SET):
            tables = []
            for title, metrics in groups.items():
                names, entries = self.of_set(name, metrics)
                columns, normalisers = [], []
                for metric, having in entries.items():
                    if not any(having):
                        continue
                    cells = mark_best([cell_of(row) for row in having], METRICS[metric].better)
                    columns.append((Column(METRICS[metric].short), cells))
                    normalisers.append(next(row for row in having if row)["normaliser"])
                    # Pooled seeds have no counts.
                    if METRICS[metric].counted and all(row is None or row["count"] is not None for row in having):
                        counts = [Cell(f"{row['count']} / {row['of']}" if row else None) for row in having]
                        columns.append((Column(METRICS[metric].counted), counts))
                        normalisers.append("")
                if columns:
                    lines = [("normaliser", normalisers)]
                    tables.append(self.table(f"{name}: {title}", names, columns, lines))
            by_set.append((name, tables))
        return by_set

    def error_tables(self):
        """[(mean or set, Tables)] of where word errors come from: parts of the WER, and its rates on kinds of words.

        Of each domain the parts are macro means and the kinds of words micro means, as a set may have none of a kind.
        """
        groups = [(DOMAINS[domain], (MACRO, f"mean_{domain}"), (MICRO, f"micro_{domain}")) for domain in self.domains]
        sets = dict.fromkeys(r["set"] for r in self.rows if r["kind"] == SET and r["domain"])
        groups += [(name, (SET, name), (SET, name)) for name in sets]
        found = []
        for name, of_parts, of_kinds in groups:
            shown = [
                self.origin_table(
                    f"{name}: parts of the WER{{}} (% of words)", *of_parts, (COMPARED, *names_of("parts"))
                ),
                self.origin_table(f"{name}: WER on kinds of words{{}} (%)", *of_kinds, names_of("numbers", "trained")),
            ]
            found += [(name, [table for table in shown if table])] * any(shown)
        return found

    def origin_table(self, title, kind, where, metrics):
        """Table of systems by metrics in the rows of `kind` and set `where`, None if only WER is there.

        The title gets the kind of mean. Where metrics are of different words a line says of how many, and cells
        have their errors.
        """
        every = [self.index.get((system, kind, where, m)) for system in self.systems([COMPARED]) for m in metrics]
        if not any(row and row["metric"] != COMPARED for row in every):
            return None
        names, columns, sizes, normalisers = self.systems([COMPARED]), [], [], []
        own = COMPARED not in metrics
        for metric in metrics:
            having = [self.index.get((system, kind, where, metric)) for system in names]
            row = next(filter(None, having), None)
            if row is None:
                continue
            counted = [f"{r['count']} errors" if own and r and r["count"] is not None else "" for r in having]
            cells = [cell_of(r, note=note) for r, note in zip(having, counted)]
            ranked = "" if METRICS[metric].measured == "parts" else "low"  # fewer of one part may be more of another
            columns.append((Column(METRICS[metric].short or metric.upper()), mark_best(cells, ranked)))
            sizes.append(str(row["of"]))
            normalisers.append(row["normaliser"])
        lines = [*[("words", sizes)] * own, ("normaliser", normalisers)]
        return self.table(title.format(f", {kind} mean" * (kind in MEANS)), names, columns, lines)

    def question_tables(self):
        """[((kind, set), Table)] of questions: accuracy in writing and spoken, and the gap, of each system."""
        tables = []
        for kind, title, metrics in QUESTIONS:
            sets = {r["set"]: r["utterances"] for r in self.rows if r["metric"].startswith(f"{kind}_")}
            for name, size in sets.items():
                forms = [(metric, form) for metric in metrics for form in (TEXT, SPEECH, GAP)]
                names, entries = self.of_set(name, [f"{metric}_{form}" for metric, form in forms])
                columns = []
                for (metric, form), having in zip(forms, entries.values()):
                    cells = [cell_of(row, form="+.2f" if form == GAP else ".2f") for row in having]
                    columns.append((Column(metrics[metric] + form), mark_best(cells, "" if form == GAP else "high")))
                title_here = f"{name}: {title}, {size} questions"
                tables.append(((kind, name), self.table(title_here, names, columns)))
        return tables

    def error_table(self, scores):
        """Substitutions / deletions / insertions. scores: {(system, set): Score}."""
        names, columns = self.systems([COMPARED]), []
        for row, column, _ in self.columns(COMPARED, (SET,)):
            counts = [scores[name, row["set"]] for name in names]
            cells = [Cell(f"{s.substitutions} / {s.deletions} / {s.insertions}") for s in counts]
            columns.append((column, cells))
        return self.table("Substitutions / deletions / insertions (words)", names, columns)

    def derailment_table(self, derailments):
        """Entries of `derailments.json`: a row for each system and set in which some occurred."""
        rows = [
            Row(self.labels.get(system, system), [Cell(name), *derailment_cells(of_set)], system)
            for system, sets in by_system(derailments).items()
            for name, of_set in sets.items()
            if of_set["any"]["count"]
        ]
        return Table("Derailments (utterances)", [Column("set"), *map(Column, DERAILMENT_HEADINGS)], rows)

    def sections(self, published=(), level=0.05, facts=None, asked=None):
        """[(title, blocks)] of RESULTS.md that follow from the rows; a block is a Table or Markdown text.

        published: `Published` figures. facts: {set: sentence} on its entities. asked: {(kind, set): options} of
        questions.
        """
        compared = self.comparison_table(level)
        tables = [self.metric_table(COMPARED), self.domain_table(), *[compared] * bool(compared.rows)]
        sections = [(table.title, [table]) for table in tables]
        sections += [section for one in published for section in one.sections(self)]
        others = [name for name in names_of("always", "asked") if name != COMPARED and self.has(name)]
        sections += [(title_of(name), [self.metric_table(name)]) for name in others]
        blocks = []
        for name, tables in self.set_tables():
            fact = (facts or {}).get(name)
            blocks += [f"### {name}\n", *[f"{fact}\n"] * bool(fact), *tables]
        sections += [("Entities and word lists (%)", blocks)] * bool(blocks)
        origins = [(title, tables) for title, tables in self.error_tables() if title in DOMAINS.values()]
        blocks = [table for _, tables in origins for table in tables] + [f"{ORIGINS}. Each set: {ERRORS}.\n"]
        sections += [("Where word errors come from", blocks)] * bool(origins)
        blocks = []
        for key, table in self.question_tables():
            options = {k: v for k, v in (asked or {}).get(key, {}).items() if k != "examples"}
            options = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in options.items()]
            blocks += [f"### {table.title}\n", table, *[f"`{'; '.join(options)}`\n"] * bool(options)]
        title = "Questions in writing and spoken (accuracy, %; gap in points)"
        return sections + [(title, blocks)] * bool(blocks)

    def report_tables(self):
        """The tables of the report: each metric on sets and means, entities by set, questions."""
        apart = {row["metric"] for row in self.rows if row["kind"] == RATIO}
        apart |= {*names_of("entities", "list", "parts", "numbers", "trained"), *QUESTION_METRICS}
        metrics = [m for m in dict.fromkeys(row["metric"] for row in self.rows) if m not in apart]
        tables = [self.metric_table(metric, KINDS) for metric in metrics]
        tables += [table for _, of_set in self.set_tables() for table in of_set]
        return tables + [table for _, table in self.question_tables()]


def by_system(derailments):
    """Entries of `derailments.json` as {system: {set: {kind: entry}}}."""
    found = {}
    for entry in derailments:
        found.setdefault(entry["system"], {}).setdefault(entry["set"], {})[entry["kind"]] = entry
    return found


def derailment_cells(of_set):
    """Cells below `DERAILMENT_HEADINGS`. of_set: {kind: entry} of a system on a set."""
    counts = [of_set[kind]["count"] for kind in (*DERAILMENTS, "any")] + [of_set["any"]["utterances"]]
    return [Cell(n, form="d") for n in counts] + [Cell(of_set["any"][key]) for key in ("wer_all", "wer_without")]


def preferred_table(rows, labels):
    """Table of the entries of `preferred.json`, systems by sets. labels: {system: label}."""
    index = {(row["system"], row["set"]): row for row in rows}
    sets, lines = list(dict.fromkeys(name for _, name in index)), []
    for system in dict.fromkeys(name for name, _ in index):
        found = [index.get((system, name)) for name in sets]
        cells = [cell_of(row, note=f"{row['count']} of {row['of']}" if row else "") for row in found]
        lines.append(Row(labels.get(system, system), cells, system))
    title = "Substituted words that the LLM finds likelier than the right ones (% of them)"
    return Table(title, [Column(name, kind=SET, name=name) for name in sets], lines)


def title_of(metric):
    """Heading of the tables of a metric, its name if it is none of METRICS."""
    return METRICS[metric].title if metric in METRICS else metric


def column_of(row):
    """The Column of an entry of `results.json`: its set, mean or ratio."""
    kind, name, domain = row["kind"], row["set"], DOMAINS.get(row["domain"], row["domain"])
    if kind in MEANS:
        heading = f"{domain} {kind} mean"
    elif kind == RATIO:
        heading = "OOD / ID"
    else:
        heading = f"{name} ({domain})" if domain else name
    sizes = ("words", "utterances") if kind != RATIO else ()
    details = [f"{row[key]:,} {key}" for key in sizes if row.get(key) is not None]
    details += [f"normaliser {row['normaliser']}"] if row.get("normaliser") else []
    small = kind == SET and row.get("words") is not None and row["words"] < SMALL
    return Column(heading, tuple(details), kind, name, small)


def head(sections):
    """The first two tables, as Markdown."""
    return "\n".join(markdown_table(table) for _, (table, *_) in sections[:2])


def write_tables(out_dir, title, sections, results, **more):
    """Write RESULTS.md, results.json, results.tsv, comparisons.json, and NAME.json of `more`, {name: list}.

    title: of RESULTS.md, with what stands before its `sections`.
    """
    for name, content in {"results": results.rows, "comparisons": results.comparisons, **more}.items():
        write_json(Path(out_dir, f"{name}.json"), content)
    write_text(Path(out_dir, "results.tsv"), rows_tsv(results.rows))
    write_text(Path(out_dir, "RESULTS.md"), f"# {title}\n{markdown(sections)}")
    origins = results.error_tables()
    if origins:
        write_text(Path(out_dir, ERRORS), f"# Where word errors come from\n\n{ORIGINS}.\n{markdown(origins)}")


def markdown(sections):
    """[(title, blocks)] as Markdown."""
    texts = []
    for title, blocks in sections:
        blocks = [markdown_table(block) if isinstance(block, Table) else block for block in blocks]
        texts.append(f"\n## {title}\n\n" + "\n".join(blocks))
    return "".join(texts)
