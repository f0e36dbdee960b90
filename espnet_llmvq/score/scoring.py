"""Score the systems of a ResultTable on its sets, and write what comes of it."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from espnet_llmvq.base.config import from_mapping, read_yaml
from espnet_llmvq.base.environment import FILE as ENVIRONMENT
from espnet_llmvq.base.environment import get_commit, get_version
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_outputs, write_text
from espnet_llmvq.bridge.collapse import MARK, read_warnings
from espnet_llmvq.data.normalise import get_normaliser
from espnet_llmvq.score.compare import measured
from espnet_llmvq.score.derail import KINDS, derailment_rows
from espnet_llmvq.score.details import details_dir, details_of, write_details
from espnet_llmvq.score.figure import FIGURE, write_changes
from espnet_llmvq.score.files import read_facts, read_transcript
from espnet_llmvq.score.measure import evaluate, load_reference, names_of
from espnet_llmvq.score.options import Options
from espnet_llmvq.score.origins import Sounds
from espnet_llmvq.score.published import Published
from espnet_llmvq.score.questions import find_answers, question_rows
from espnet_llmvq.score.results import TABLES, Results, write_tables
from espnet_llmvq.score.rows import comparison_rows, result_rows
from espnet_llmvq.score.table import FEW, SMALL, Cell, Column, Row, Table, latex_table
from espnet_llmvq.score.wer import oov_rate, total, word_counts

FILES = (*TABLES, FIGURE, "results.tex", "derailments.json", "published.json")  # what `write_results` writes


@dataclass(frozen=True)
class Scored:
    """A ResultTable, scored.

    results: rows and comparisons. sections: of RESULTS.md. derailments: entries of derailments.json. published: papers
    that have one of the systems.
    """

    results: Results
    sections: list
    derailments: list
    published: list
    confidence: float


def load_sets(table, options):
    """({set: Reference}, {set: its metrics}) of a ResultTable."""
    references, metrics, sounds, trained = {}, {}, Sounds(options.voice), {}
    train = read_transcript(table.train_text, options.rules) if table.train_text else None
    for s in table.sets:
        for name in s.metrics:
            check_name(f"metric of the set {s.name}", name, names_of("asked"))
        normaliser, files = s.normaliser or table.normaliser, (s.entities, s.word_list, s.utt2spk)
        reference = load_reference(s.text, normaliser, *files, options.statistics.resample, options.rules)
        if train and normaliser not in trained:
            trained[normaliser] = word_counts(train, get_normaliser(normaliser))
        references[s.name] = replace(reference, trained=trained.get(normaliser), sounds=sounds)
        metrics[s.name] = references[s.name].metrics((*names_of("always", "parts", "numbers"), *s.metrics))
    return references, metrics


def all_answers(table):
    """What `find_answers` finds of the systems, in their directories, and of the answers that the table names."""
    directories = {system.name: Path(system.model) for system in table.systems if system.model}
    for one in table.answers:
        if not Path(one.directory).is_dir():
            raise UserError(f"answers {one.name!r}: {one.directory} is no directory; ask first, or leave them out")
        directories[one.name] = Path(one.directory)
    return find_answers(directories, table.normaliser)


def check_written(table, out_dir):
    """Raise UserError if `score_all` and `write_results` would replace what they read, or what others wrote."""
    places = [details_dir(out_dir, system, s.name) for system in table.systems for s in table.sets]
    outputs = [path for place in places for path in details_of(place)] + [Path(out_dir, name) for name in FILES]
    inputs = [system.hyp_path(s.name) for system in table.systems for s in table.sets]
    inputs += [path for s in table.sets for path in (s.text, s.utt2spk, s.entities, s.word_list)]
    check_outputs(outputs, [*inputs, table.train_text, *table.published])


def score_all(table, options=None, out_dir="exp"):
    """Evaluate every system on every set -> Scored. Writes the details of each to OUT_DIR/details/SYSTEM/SET.

    Raises UserError for hypotheses that are not there, for bad input that `options` do not treat, and where files of
    others would be replaced.
    """
    check_written(table, out_dir)
    from tqdm import tqdm

    options = options or Options()
    statistics, sets = options.statistics, table.sets
    published = [from_mapping(Published, read_yaml(path), path).only(table.labels) for path in table.published]
    published = [one for one in published if one.rows]
    answers = all_answers(table)
    references, metrics = load_sets(table, options)
    pairs = [(system, s) for system in table.systems for s in sets]
    for system, s in pairs:
        path = system.hyp_path(s.name)
        if not path.is_file():
            message = f"{path}: no hypotheses of {system.name} on {s.name}"
            raise UserError(f"{message}; decode them first or leave out the system")
    notes, counts, scores, derailments = [], {}, {}, []
    for s in sets:
        # Names, not paths: tables do not depend on where the files are.
        for path in (s.text, s.entities, s.utt2spk, s.word_list):
            notes += [f"{s.name}{n[len(path) :]}" for n in references[s.name].notes if n.startswith(path + ":")]
    for system, s in tqdm(pairs, "scoring", disable=None):  # None: no bar in log files
        path, reference = system.hyp_path(s.name), references[s.name]
        one = evaluate(reference, path, metrics[s.name], options.rules, options.prompt, options.audit)
        notes += [f"{system.name} on {s.name}{note[len(str(path)) :]}" for note in one.notes]
        counts[system.name, s.name] = measured(one, metrics[s.name], reference.units(), statistics, s.name)
        scores[system.name, s.name] = total(one.scores)
        derailments += derailment_rows(system.name, s.name, one.derailed, list(one.hyps), one.counts["wer"])
        write_details(details_dir(out_dir, system, s.name), reference, one)
    notes += collapse_notes(table) + cautions(references, answers)
    known = (table.systems, sets, references, counts)
    results = Results(
        result_rows(*known, table.seed, statistics.confidence, options.rules)
        + question_rows(answers, table.normaliser, table.seed, statistics),
        comparison_rows(*known, table.baseline, statistics),
        table.baseline,
        table.labels,
        {system.name: system.note for system in table.systems},
        {s: oov_rate(r.words, r.trained) for s, r in references.items()} if table.train_text else None,
    )
    asked = {key: next(iter(by_system.values())).options for key, by_system in answers.items()}
    facts = {name: entity_facts(r, counts[table.systems[0].name, name]) for name, r in references.items()}
    sections = results.sections(published, 1 - statistics.confidence, facts, asked)
    errors, derailed = results.error_table(scores), results.derailment_table(derailments)
    legend = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    sections += [
        (errors.title, [errors]),
        (derailed.title, [derailed if derailed.rows else "None.\n", f"{legend}.\n"]),
        *[("Treatment of the input, and cautions", ["".join(f"- {note}\n" for note in notes)])] * bool(notes),
        *[("Commands", made_by(table))] * bool(table.commands or any(table.differences.values())),
        ("Environment", [environment(table, options)]),
    ]
    return Scored(results, sections, derailments, published, statistics.confidence)


def write_results(scored, out_dir):
    """Write RESULTS.md, results.json, results.tsv, results.tex, comparisons.json, derailments.json, published.json, and
    changes.svg."""
    more = {"published": [asdict(one) for one in scored.published]} if scored.published else {}
    write_text(Path(out_dir, "results.tex"), latex(scored.sections, scored.confidence))
    write_tables(out_dir, "Results", scored.sections, scored.results, derailments=scored.derailments, **more)
    write_changes(scored.results, out_dir)


def latex(sections, confidence):
    """results.tex: the tables of a RESULTS.md that have intervals."""
    tables = [block for _, blocks in sections for block in blocks if isinstance(block, Table) and block.has_intervals]
    texts = [latex_table(table, f"{table.title}, with {100 * confidence:g} % intervals.") for table in tables]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(texts)


def entity_facts(reference, counts):
    """A sentence on the entities and the list of a Reference, "" if it has neither. counts: Measured of any system."""
    parts = []
    if reference.entities is not None:
        whole = [int(counts.counts[name][:, 1].sum()) for name in ("eer", "eer_norm")]
        values = {value for items in reference.entities.values() for _, value in items}
        parts.append(f"{whole[0]} entities ({whole[1]} normalised), {len(values)} different")
    if reference.entities is not None or reference.listed is not None:
        inside, outside = (int(counts.counts[name][:, 1].sum()) for name in ("wer_in", "wer_out"))
        parts.append(f"{inside} words inside and {outside} outside the list.")
    return "; ".join(parts)


def cautions(references, answers):
    """Notes on small sets, few resampling units and few questions."""
    small = [name for name, reference in references.items() if reference.small]
    notes = [f"small, under {SMALL} words, no ground for conclusions: {', '.join(small)}"] * bool(small)
    units = [(name, int(r.units().max()) + 1, f"{r.resample}s") for name, r in references.items()]
    units += [(name, len(next(iter(of_set.values())).asked), "questions") for (_, name), of_set in answers.items()]
    few = [f"{name}: only {count} {what} to resample" for name, count, what in units if count < FEW]
    return notes + [f"{note}; intervals are too narrow" for note in few]


def collapse_notes(table):
    """Notes on systems whose bridge had collapsed when their training ended."""
    known = [system for system in table.systems if system.model]
    return [f"{s.name}: {MARK} in training, {text}" for s in known for text in read_warnings(s.model)]


def made_by(table):
    """What made the results, as blocks: commands, and the settings of systems that differ from the baseline's."""
    blocks = ["".join(f"    {line}\n" for line in table.commands)] * bool(table.commands)
    keys = list(dict.fromkeys(key for settings_of in table.differences.values() for key in settings_of))
    rows = [
        Row(table.labels[name], [Cell(str(settings_of[key]) if key in settings_of else "") for key in keys], name)
        for name, settings_of in table.differences.items()
    ]
    title = f"Settings that differ from those of {table.baseline}"
    settings = Table(title, [Column(key) for key in keys], rows)
    return blocks + [f"{title}:\n", settings] * bool(keys)


def environment(table, options):
    """How hypotheses were made and, on the line `date`, how they were scored, as Markdown.

    Only that line depends on when and where this runs.
    """
    groups, text = {}, ""
    for system in table.systems:
        for s in table.sets:
            facts = read_facts(system.hyp_path(s.name))
            lines = "".join(f"- {name}: {value}\n" for name, value in facts.items())
            groups.setdefault(lines, {}).setdefault(system.name, []).append(s.name)
    for lines, members in groups.items():
        lines = lines or f"- decoding: not recorded (no {ENVIRONMENT} beside the hypotheses)\n"
        if len(groups) > 1:
            names = "; ".join(f"{system} on {', '.join(sets)}" for system, sets in members.items())
            lines = f"Decoding of {names}:\n\n{lines}\n"
        text += lines
    versions = ", ".join(f"{name} {get_version(name)}" for name in ("jiwer", "sacrebleu", "numpy"))
    today = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    normalisers = dict.fromkeys(s.normaliser or table.normaliser for s in table.sets)
    rules = f"- treatment of bad input: {options.rules}\n" if options.rules.given else ""
    return (
        f"{text}- seed: {table.seed}\n"
        f"- normaliser: {', '.join(normalisers)}\n"
        f"{rules}- resampled: {options.statistics.resample}\n"
        f"- {options.statistics}\n"
        f"- date: {today}, scored with {versions}, commit {get_commit(__file__)}\n"
    )
