"""What the report shows: hypotheses scored by utterance, media, and notes on what is missing."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from espnet_llmvq.align.ctm import read_ctm
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge import collapse
from espnet_llmvq.data.normalise import get_normaliser
from espnet_llmvq.report import analysis, media, plots
from espnet_llmvq.report.utterances import confusions, make_diff, worst
from espnet_llmvq.score import derail
from espnet_llmvq.score.measure import evaluate, load_reference
from espnet_llmvq.score.results import DERAILMENT_HEADINGS, by_system, derailment_cells, preferred_table
from espnet_llmvq.score.rows import COMPARED, SET, read_rows, rules_of
from espnet_llmvq.score.table import Cell, Column, Row, Table
from espnet_llmvq.score.wer import total

TOLERANCE = 0.005  # of a rate in percent: half of its last digit as shown
LONGEST = 300  # characters of a derailed hypothesis
COUNTED = ("system", "set", "value", "count", "of")
DERAILED = ("system", "set", "kind", "count", "utterances", "wer_all", "wer_without", "examples")


@dataclass
class ScoredSet:
    """One set: raw texts and the UtteranceScores of each system that has hypotheses for it."""

    name: str
    text: str
    refs: dict
    hyps: dict = field(default_factory=dict)  # {system: {utterance: text}}
    scores: dict = field(default_factory=dict)  # {system: [UtteranceScore]}
    word_times: str = ""  # CTM of the references


def of_sets(rows):
    """Entries of `results.json` that are word error rates of sets."""
    return [row for row in rows if (row["metric"], row["kind"]) == (COMPARED, SET)]


def score_sets(systems, sets, rows, normaliser, missing):
    """The ScoredSets of `sets` that can be scored; add to `missing` why others cannot.

    A set is normalised, and bad input treated, as its entries in `rows` say; without any by the normaliser called
    `normaliser`.
    """
    known, scored_sets = {row["set"]: row for row in of_sets(rows)}, []
    for s in sets:
        row = known.get(s.name, {})
        name, rules = row.get("normaliser") or normaliser, rules_of(row)
        get_normaliser(name)
        try:
            reference = load_reference(s.text, name, rules=rules)
        except UserError as err:
            missing.append(f"Utterances of {s.name}: {err}")
            continue
        scored = ScoredSet(s.name, s.text, reference.refs, word_times=s.word_times)
        for system in systems:
            try:
                one = evaluate(reference, system.hyp_path(s.name), (), rules)
            except UserError as err:
                missing.append(f"Utterances of {system.name} on {s.name}: {err}")
                continue
            scored.hyps[system.name], scored.scores[system.name] = one.hyps, one.scores
        if scored.scores:
            scored_sets.append(scored)
    return scored_sets


def totals(scored):
    """[(set name, system, Score)]."""
    return [(s.name, system, total(scores)) for s in scored for system, scores in s.scores.items()]


def disagreements(scored, rows):
    """A sentence for each word error rate in `rows` that the hypotheses do not confirm."""
    values = {(r["system"], r["set"]): r["value"] for r in of_sets(rows)}
    sentences = []
    for name, system, score in totals(scored):
        value = values.get((system, name))
        if isinstance(value, (int, float)) and abs(value - score.wer) > TOLERANCE:
            sentences.append(
                f"{system} on {name}: the hypotheses have a word error rate of {score.wer:.2f}, "
                f"results.json says {value:.2f}. Score again."
            )
    return sentences


def error_rows(scored, labels):
    """The rows of the error breakdown: counts, rates, and a bar on a common scale.

    The scale ends at 100 %, as that of the forest plot does.
    """
    lines = []
    longest = min(100.0, max((score.wer for *_, score in totals(scored)), default=0))
    for name, system, score in totals(scored):
        counts = (score.substitutions, score.deletions, score.insertions)
        rates = [100 * count / score.words for count in counts]
        row = {"set": name, "system": labels.get(system, system), "words": score.words, "wer": score.wer}
        lines.append({**row, "counts": list(zip(counts, rates)), "bar": plots.bar(rates, longest)})
    return lines


def confusion_lists(scored, labels, count):
    """[(system label, confusions over all sets)]."""
    together = {}
    for s in scored:
        for system, scores in s.scores.items():
            together.setdefault(system, []).extend(scores)
    return [(labels.get(sy, sy), confusions(scores, count)) for sy, scores in together.items()]


def worst_utterances(scored, labels, count, budget, missing):
    """[(set name, [utterance])] of the worst utterances, with diffs and audio."""
    by_set = []
    for s in scored:
        locations, silent = {}, None
        try:
            locations = media.audio_locations(s.text)
        except UserError as err:
            silent = str(err)
            missing.append(f"Audio of {s.name}: {err}")
        times = {}
        try:
            times = read_ctm(s.word_times) if s.word_times else {}
        except UserError as err:
            missing.append(f"Word times of {s.name}: {err}")
        by_utt = {system: {score.utt: score for score in s.scores[system]} for system in s.scores}
        entries = []
        for utt, systems in worst(s.scores, count).items():
            scores = {system: of_utt[utt] for system, of_utt in by_utt.items()}
            hyps = [
                (labels.get(system, system), s.hyps[system][utt], score.errors, make_diff(score))
                for system, score in scores.items()
            ]
            entries.append(
                {
                    "utt": utt,
                    "ref": s.refs[utt],
                    "timed": timed(s.refs[utt], times.get(utt, ())),
                    "words": scores[systems[0]].words,
                    "most": max(score.errors for score in scores.values()),
                    "worst_of": [labels.get(system, system) for system in systems],
                    "hyps": hyps,
                    **_audio(utt, s.name, locations, silent, budget, missing),
                }
            )
        by_set.append((s.name, entries))
    return by_set


def timed(ref, words):
    """[(word, start, end)] of a reference, in seconds, from its `align.ctm.Word`s; [] without these.

    Words are written as in the reference if there are as many.
    """
    written = ref.split()
    if len(written) != len(words):
        written = [word.word for word in words]
    return [(text, round(word.start, 3), round(word.end, 3)) for text, word in zip(written, words)]


def _audio(utt, name, locations, silent, budget, missing):
    """{"audio": data URI or None, "silent": why there is none}."""
    if silent:
        return {"audio": None, "silent": silent}
    try:
        if utt not in locations:
            raise UserError(f"{utt} is not in the wav.scp of {name}")
        kind, data = media.encode_audio(*locations[utt])
    except UserError as err:
        missing.append(f"Audio of {utt} ({name}): {err}")
        return {"audio": None, "silent": str(err)}
    uri = budget.data_uri(kind, data, f"audio of {utt} ({name})")
    return {"audio": uri, "silent": None if uri else "left out, as the page would be too large"}


def read_analysis(exp_dir, results_dir, labels, missing):
    """The analysis as {"utterances", "tables"} or None, and sentences on collapsed bridges.

    Sentences come from the trainings under `exp_dir` and from the analysis. labels: {system: label}.
    """
    collapses, shown = [], None
    for path in sorted(Path(exp_dir).glob(f"*/{collapse.FILE}")):
        try:
            collapses += [f"{path.parent.name}, {text}" for text in collapse.read_warnings(path.parent)]
        except UserError as err:
            missing.append(f"Diagnostics of {path.parent.name}: {err}")
    path = Path(results_dir) / "analysis" / analysis.FILE
    try:
        content = analysis.read(path)
        if content is None:
            missing.append(f"Analysis: {path} is not there.")
        else:
            collapses += content["warnings"]
            tables = analysis.tables(content["rows"], {**content["labels"], **labels})
            shown = {"utterances": content["utterances"], "tables": tables}
    except UserError as err:
        missing.append(f"Analysis: {err}")
    return shown, collapses


def figures(results_dir, budget):
    """[(caption, data URI)] of the figures that the analysis left in RESULTS_DIR/analysis."""
    found = {path.stem.replace("_", " "): path for path in sorted((results_dir / "analysis").glob("*.png"))}
    uris = {name: budget.data_uri("image/png", path.read_bytes(), f"figure {name}") for name, path in found.items()}
    return [(name, uri) for name, uri in uris.items() if uri]


def preferred(path, labels):
    """The Table of `preferred.json`, None where it is not. Raises UserError for what is not that."""
    return preferred_table(read_rows(path, COUNTED), labels) if path.exists() else None


def derailments(path, scored, labels):
    """The derailments of `derailments.json`: (Table of systems by kinds, [(label, Table of sets by kinds, examples)]).

    An example is (kinds, set, utterance, reference, hypothesis), raw texts; those of sets in `scored` are found. Raises
    UserError for a file that is not there or not what scoring writes.
    """
    rows = read_rows(path, DERAILED)
    texts, lines, details = {s.name: s for s in scored}, [], []
    for system, found in by_system(rows).items():
        label = labels.get(system, system)
        counts = [sum(of_set[kind]["count"] for of_set in found.values()) for kind in ("any", *derail.KINDS)]
        of = sum(of_set["any"]["utterances"] for of_set in found.values())
        cells = [Cell(counts[0], form="d", note=f"of {of:,}"), *(Cell(count, form="d") for count in counts[1:])]
        lines.append(Row(label, cells, system))
        derailed = {name: of_set for name, of_set in found.items() if of_set["any"]["count"]}
        examples = {}
        for name, of_set in derailed.items():
            hyps = texts[name].hyps.get(system, {}) if name in texts else {}
            for kind in derail.KINDS:
                for utt in of_set[kind]["examples"]:
                    if utt in hyps:
                        examples.setdefault((name, utt, texts[name].refs[utt], shorten(hyps[utt])), []).append(kind)
        if derailed:
            kinds = [Row(name, derailment_cells(of_set), name) for name, of_set in derailed.items()]
            table = Table("", list(map(Column, DERAILMENT_HEADINGS)), kinds, first="set")
            details.append((label, table, [(kinds_of, *example) for example, kinds_of in examples.items()]))
    columns = [Column(kind.replace("_", " ")) for kind in ("any", *derail.KINDS)]
    return Table("Derailed utterances of all sets", columns, lines), details


def shorten(text):
    """A text of at most LONGEST characters, what is left out said behind it."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST} more characters)"


def environment(markdown):
    """[(name, value)] of the list under "## Environment" in RESULTS.md."""
    _, _, section = f"\n{markdown}".partition("\n## Environment\n")
    return re.findall(r"^- (.*?): (.*)$", section.partition("\n## ")[0], re.MULTILINE)
