"""What the report shows: hypotheses scored by utterance, media, and notes on what is missing."""

from dataclasses import dataclass, field
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge import collapse
from espnet_llmvq.data.normalise import get_normaliser
from espnet_llmvq.report import analysis, media, plots
from espnet_llmvq.report.utterances import confusions, errors, make_diff, worst
from espnet_llmvq.score import derail
from espnet_llmvq.score.files import match_utterances, read_transcript
from espnet_llmvq.score.rows import COMPARED, SET, read_rows
from espnet_llmvq.score.table import Cell, Column, Row, Table
from espnet_llmvq.score.wer import score_utterances, split_words, total

TOLERANCE = 0.005  # of a rate in percent: half of its last digit as shown
LONGEST = 300  # characters of a derailed hypothesis
DERAILED = ("system", "set", "kind", "count", "utterances", "wer_all", "wer_without", "examples")


@dataclass
class ScoredSet:
    """One set: raw texts and the UtteranceScores of each system that has hypotheses for it."""

    name: str
    text: str
    refs: dict
    hyps: dict = field(default_factory=dict)  # {system: {utterance: text}}
    scores: dict = field(default_factory=dict)  # {system: [UtteranceScore]}


def of_sets(rows):
    """Entries of `results.json` that are word error rates of sets."""
    return [row for row in rows if (row["metric"], row["kind"]) == (COMPARED, SET)]


def score_sets(systems, sets, rows, normaliser, missing):
    """The ScoredSets of `sets` that can be scored; add to `missing` why others cannot.

    A set is normalised as its entries in `rows` say, else by the normaliser called `normaliser`.
    """
    named = {r["set"]: r["normaliser"] for r in of_sets(rows) if r.get("normaliser")}
    scored_sets = []
    for s in sets:
        normalise = get_normaliser(named.get(s.name, normaliser))
        try:
            scored = ScoredSet(s.name, s.text, read_transcript(s.text))
        except UserError as err:
            missing.append(f"Utterances of {s.name}: {err}")
            continue
        ref_words = split_words(scored.refs, normalise)
        for system in systems:
            path = system.hyp_path(s.name)
            try:
                hyps = match_utterances(scored.refs, read_transcript(path), s.text, path)
                scores = score_utterances(ref_words, split_words(hyps, normalise))
                total(scores)  # UserError if there is no word
            except UserError as err:
                missing.append(f"Utterances of {system.name} on {s.name}: {err}")
                continue
            scored.hyps[system.name], scored.scores[system.name] = hyps, scores
        if scored.scores:
            scored_sets.append(scored)
    return scored_sets


def disagreements(scored, rows):
    """A sentence for each word error rate in `rows` that the hypotheses do not confirm."""
    values = {(r["system"], r["set"]): r["value"] for r in of_sets(rows)}
    sentences = []
    for s in scored:
        for system, scores in s.scores.items():
            value, wer = values.get((system, s.name)), total(scores).wer
            if isinstance(value, (int, float)) and abs(value - wer) > TOLERANCE:
                sentences.append(
                    f"{system} on {s.name}: the hypotheses have a word error rate of {wer:.2f}, "
                    f"results.json says {value:.2f}. Score again."
                )
    return sentences


def error_rows(scored, labels):
    """The rows of the error breakdown: counts, rates, and a bar on a common scale.

    The scale ends at 100 %, as that of the forest plot does.
    """
    totals = [
        (s.name, labels.get(system, system), total(scores)) for s in scored for system, scores in s.scores.items()
    ]
    lines = []
    longest = min(100.0, max((score.wer for _, _, score in totals), default=0))
    for name, label, score in totals:
        counts = (score.substitutions, score.deletions, score.insertions)
        rates = [100 * count / score.words for count in counts]
        lines.append(
            {
                "set": name,
                "system": label,
                "words": score.words,
                "counts": list(zip(counts, rates)),
                "wer": score.wer,
                "bar": plots.bar(rates, longest),
            }
        )
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
        by_utt = {system: {score.utt: score for score in s.scores[system]} for system in s.scores}
        entries = []
        for utt, systems in worst(s.scores, count).items():
            hyps = [
                {
                    "system": labels.get(system, system),
                    "text": s.hyps[system][utt],
                    "score": by_utt[system][utt],
                    "errors": errors(by_utt[system][utt]),
                    "diff": make_diff(by_utt[system][utt]),
                }
                for system in s.scores
            ]
            entries.append(
                {
                    "utt": utt,
                    "ref": s.refs[utt],
                    "words": sum(pair[0] != "I" for pair in hyps[0]["score"].pairs),
                    "most": max(hyp["errors"] for hyp in hyps),
                    "worst_of": [labels.get(system, system) for system in systems],
                    "hyps": hyps,
                    **_audio(utt, s.name, locations, silent, budget, missing),
                }
            )
        by_set.append((s.name, entries))
    return by_set


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
    """[(caption, data URI)] of the figures of the analysis."""
    figures_shown = []
    for path in media.find_figures(results_dir):
        text = media.caption(path, results_dir)
        uri = budget.data_uri("image/png", path.read_bytes(), f"figure {text}")
        if uri:
            figures_shown.append((text, uri))
    return figures_shown


def derailments(path, scored, labels):
    """The derailments of `derailments.json`: (Table of systems by sets, [(label, Table of kinds, examples)]).

    An example is (kinds, set, utterance, reference, hypothesis), raw texts; those of sets in `scored` are found. Raises
    UserError for a file that is not there or not what scoring writes.
    """
    rows = read_rows(path, DERAILED)
    index = {(r["system"], r["set"], r["kind"]): r for r in rows}
    systems, sets = (list(dict.fromkeys(r[key] for r in rows)) for key in ("system", "set"))
    columns = [Column(name, kind=SET, name=name) for name in sets]
    lines = [
        Row(labels.get(s, s), [Cell((index.get((s, name, "any")) or {}).get("count"), form="d") for name in sets], s)
        for s in systems
    ]
    texts, details = {s.name: s for s in scored}, []
    headings = [*derail.KINDS, "any", "utterances", "WER", "WER without any"]
    for system in systems:
        kinds, examples = [], {}
        for name in sets:
            whole = index.get((system, name, "any"))
            if not (whole and whole["count"]):
                continue
            counts = [Cell(index[system, name, kind]["count"], form="d") for kind in [*derail.KINDS, "any"]]
            counts.append(Cell(whole["utterances"], form="d"))
            kinds.append(Row(name, [*counts, Cell(whole["wer_all"]), Cell(whole["wer_without"])], name))
            for kind in derail.KINDS:
                for utt in index[system, name, kind]["examples"]:
                    examples.setdefault((name, utt), []).append(kind)
        if kinds:
            shown = []
            for (name, utt), kinds_of in examples.items():
                hyps = texts[name].hyps.get(system, {}) if name in texts else {}
                if utt in hyps:
                    shown.append((kinds_of, name, utt, texts[name].refs[utt], shorten(hyps[utt])))
            table = Table("", [Column(heading) for heading in headings], kinds, first="set")
            details.append((labels.get(system, system), table, shown))
    return Table("Derailed utterances", columns, lines), details


def shorten(text):
    """A text of at most LONGEST characters, what is left out said behind it."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST} more characters)"


def environment(markdown):
    """[(name, value)] of the list under "## Environment" in RESULTS.md."""
    _, _, section = f"\n{markdown}".partition("\n## Environment\n")
    facts = []
    for line in section.partition("\n## ")[0].splitlines():
        name, colon, value = line.removeprefix("- ").partition(": ")
        if line.startswith("- ") and colon:
            facts.append((name, value))
    return facts
