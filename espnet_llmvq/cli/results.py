"""Score all systems on all sets and write the tables of the experiment (stage 13).

Writes OUT_DIR/RESULTS.md, results.json, results.tsv, results.tex, comparisons.json,
derailments.json and, with --published, published.json; beside each hypothesis file ref.trn, hyp.trn,
result.txt (alignments), utterances.tsv and, with speakers, speakers.tsv.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

from espnet_llmvq.base.config import read_yaml
from espnet_llmvq.base.environment import FILE, get_commit, get_version
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import write_text
from espnet_llmvq.bridge.collapse import MARK, read_warnings
from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.data.normalise import NORMALISERS
from espnet_llmvq.score import published, table
from espnet_llmvq.score.files import read_transcript
from espnet_llmvq.score.options import (
    add_input_options,
    add_statistics_options,
    check_statistics,
    input_rules,
    statistics_note,
)

DECODE_STAGE = 12
DEFAULT_METRICS = ("wer", "cer", "ter")
HEADINGS = {
    "eer": "EER, raw text",
    "eer_norm": "EER, normalised",
    "entity_recall": "recall, raw text",
    "entity_recall_norm": "recall, normalised",
    "entity_precision": "precision, raw text",
    "entity_precision_norm": "precision, normalised",
    "entity_false": "false per 100 utterances, raw text",
    "entity_false_norm": "false per 100 utterances, normalised",
    "wer_in": "WER inside",
    "wer_out": "WER outside",
}
COUNTED = {
    "eer": "missed / entities",
    "eer_norm": "missed / entities",
    "wer_in": "errors / words inside",
    "wer_out": "errors / words outside",
}


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--system",
        required=True,
        action="append",
        metavar="NAME|LABEL|FILE[|NOTE]",
        help="a system, in the order of the table; FILE is its hypotheses, with {set} for the set",
    )
    parser.add_argument(
        "--set",
        required=True,
        action="append",
        metavar="NAME|DOMAIN|TEXT[|KEY=VALUE...]",
        help="a test set: its name, id or ood (in or out of domain), and its reference; keys are "
        "normaliser, entities, utt2spk, word_list (files) and metrics (bleu, chrf)",
    )
    parser.add_argument("--train_text", help="training transcript, for the out-of-vocabulary rate")
    parser.add_argument("--baseline", help="system to compare with (the first if not given)")
    parser.add_argument(
        "--answers",
        action="append",
        default=[],
        metavar="NAME|LABEL|DIR",
        help="a further row of the tables of questions; those of systems are found beside their hypotheses",
    )
    parser.add_argument(
        "--published",
        action="append",
        default=[],
        help="YAML file with a paper's figures for some systems, printed beside ours; repeated",
    )
    parser.add_argument("--normaliser", default="basic", help=f"of sets without their own: {', '.join(NORMALISERS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs, to be recorded")
    parser.add_argument("--out_dir", default="exp", help="directory of the results")
    add_statistics_options(parser)
    add_input_options(parser)
    return parser


def load_set(test_set, args, rules):
    """Return (Reference, metrics) of an EvalSet."""
    from espnet_llmvq.score.measure import load_reference

    extra = [name for name in test_set.metrics.split(",") if name]
    for name in extra:
        check_name(f"metric of the set {test_set.name}", name, ("bleu", "chrf"))
    reference = load_reference(
        test_set.text,
        test_set.normaliser or args.normaliser,
        test_set.entities or None,
        test_set.word_list or None,
        test_set.utt2spk or None,
        args.resample,
        rules,
    )
    return reference, reference.metrics((*DEFAULT_METRICS, *extra))


def oov_rates(references, train_text, rules):
    """Return {set: OOV rate in percent}, each with the set's normaliser."""
    from espnet_llmvq.data.normalise import get_normaliser
    from espnet_llmvq.score.wer import oov_rate, split_words

    train, vocabulary = read_transcript(train_text, rules), {}
    for reference in references.values():
        name = reference.normaliser
        if name not in vocabulary:
            vocabulary[name] = split_words(train, get_normaliser(name))
    return {s: oov_rate(r.words, vocabulary[r.normaliser]) for s, r in references.items()}


def read_facts(path):
    """Return the facts that decoding left beside a hypothesis file, {} if it left none."""
    path = path.with_name(FILE)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object; delete it, or decode again")
    return found


def environment(systems, sets, args):
    """Return, as Markdown lines, how hypotheses were made and, on the line `date`, how scored.

    Only that line depends on when and where this command runs.
    """
    groups = {}
    for system in systems:
        for s in sets:
            found = read_facts(system.hyp_path(s.name))
            text = "".join(f"- {name}: {value}\n" for name, value in found.items())
            groups.setdefault(text, {}).setdefault(system.name, []).append(s.name)
    parts = []
    for text, members in groups.items():
        if len(groups) > 1:
            names = "; ".join(f"{system} on {', '.join(found)}" for system, found in members.items())
            parts.append(f"Decoding of {names}:\n\n")
        parts.append(text or f"- decoding: not recorded (no {FILE} beside the hypotheses)\n")
        parts.append("\n" * (len(groups) > 1))
    versions = ", ".join(f"{name} {get_version(name)}" for name in ("jiwer", "sacrebleu", "numpy"))
    today = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    normalisers = dict.fromkeys(s.normaliser or args.normaliser for s in sets)
    return (
        "".join(parts)
        + f"- seed: {args.seed}\n"
        + f"- normaliser: {', '.join(normalisers)}\n"
        + f"- resampled: {args.resample}\n"
        + f"- {statistics_note(args)}\n"
        + f"- date: {today}, scored with {versions}, commit {get_commit(__file__)}\n"
    )


def entity_section(rows, sets, references, measured, labels):
    """Return Markdown tables of the sets with entities or a word list, "" without any."""
    from espnet_llmvq.score.measure import ENTITY_METRICS, LIST_METRICS, METRICS

    better = {name: metric.better for name, metric in METRICS.items()}
    text = ""
    for s in sets:
        reference = references[s.name]
        if reference.entities is None and reference.listed is None:
            continue
        metrics = reference.metrics(())
        one = next(found for (_, name), found in measured.items() if name == s.name)
        told = []
        if reference.entities is not None:
            whole = [int(one.counts[name][:, 1].sum()) for name in ("eer", "eer_norm")]
            values = {value for items in reference.entities.values() for _, value in items}
            told.append(f"{whole[0]} entities ({whole[1]} normalised), {len(values)} different")
        inside, outside = (int(one.counts[name][:, 1].sum()) for name in LIST_METRICS)
        told.append(f"{inside} words inside and {outside} outside the list")
        text += f"### {s.name}\n\n{'; '.join(told)}.\n\n"
        for chosen in (ENTITY_METRICS, LIST_METRICS):
            names = [name for name in metrics if name in chosen]
            if names:
                drawn = table.set_table(rows, s.name, names, better, labels, HEADINGS, COUNTED)
                text += table.markdown_table(*drawn) + "\n"
    return text


def markdown(systems, sets, results, baseline, args):
    """Return RESULTS.md as text, and the WER tables alone."""
    from espnet_llmvq.score.derail import KINDS
    from espnet_llmvq.score.measure import METRICS

    rows, comparisons = results["rows"], results["comparisons"]
    labels = {system.name: system.label for system in systems}
    notes = {system.name: system.note for system in systems}

    def render(drawn):
        return table.markdown_table(*drawn)

    wer = render(table.metric_table(rows, "wer", "low", labels, notes, results["oov"]))
    domain = render(table.domain_table(rows, comparisons, "wer", baseline, labels, notes))
    sections = [("Word error rate (%)", wer), ("In domain and out of domain (WER, %)", domain)]
    compared = table.comparison_table(comparisons, 1 - args.confidence)
    if compared[1]:
        sections.append((f"WER against {baseline} (points)", render(compared)))
    sections += published.sections(results["published"], rows, render, labels)
    for metric, title in (
        ("cer", "Character error rate (%)"),
        ("ter", "Token error rate (%): 13a tokens, case and punctuation"),
        ("bleu", "BLEU"),
        ("chrf", "chrF"),
    ):
        if table.set_names(rows, metric):
            drawn = table.metric_table(rows, metric, METRICS[metric].better, labels)
            sections.append((title, render(drawn)))
    lists = entity_section(rows, sets, results["references"], results["measured"], labels)
    if lists:
        sections.append(("Entities and word lists (%)", lists.rstrip("\n") + "\n"))
    asked = question_section(results["questions"], results["answers"], labels | results["further labels"])
    if asked:
        sections.append(("Questions in writing and spoken (accuracy, %; gap in points)", asked.rstrip("\n") + "\n"))
    errors = render(table.error_table(systems, sets, results["scores"]))
    sections.append(("Substitutions / deletions / insertions (words)", errors))
    derailed = table.derailment_table(results["derailments"], [*KINDS, "any"], labels)
    legend = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    found = render(derailed) if derailed[1] else "None.\n"
    sections.append(("Derailments (utterances)", f"{found}\n{legend}.\n"))
    if results["notes"]:
        lines = "".join(f"- {note}\n" for note in results["notes"])
        sections.append(("Treatment of the input, and cautions", lines))
    sections.append(("Environment", environment(systems, sets, args)))
    body = "".join(f"\n## {title}\n\n{text}" for title, text in sections)
    return f"# Results\n{body}", f"{wer}\n{domain}"


def cautions(sets, references):
    """Return notes on small sets and few resampling units."""
    from espnet_llmvq.score.table import FEW, SMALL

    notes = []
    small = [s.name for s in sets if references[s.name].small]
    if small:
        notes.append(f"small, under {SMALL} words, no ground for conclusions: {', '.join(small)}")
    for s in sets:
        units = int(references[s.name].units().max()) + 1
        if units < FEW:
            kind = references[s.name].resample
            notes.append(f"{s.name}: only {units} {kind}s to resample; intervals are too narrow")
    return notes


def collapse_notes(systems, sets):
    """Return notes on systems whose bridge had collapsed when their training ended."""
    notes = []
    for system in systems:
        # A hypothesis file lies in MODEL/decode_SET.
        models = dict.fromkeys(system.hyp_path(s.name).parent.parent for s in sets)
        notes += [f"{system.name}: {MARK} in training, {text}" for model in models for text in read_warnings(model)]
    return notes


def parse_answers(spec):
    """Return (name, label, directory) of `--answers`."""
    fields = [field.strip() for field in spec.split("|")]
    if len(fields) != 3 or not all(fields) or not Path(fields[2]).is_dir():
        raise UserError(f"--answers {spec!r}: write 'name|label|directory', such as 'llm|LLM alone|exp/llm_alone'")
    return fields


def find_all_answers(systems, sets, further, args):
    """Return what `find_answers` finds of the systems, beside their hypotheses, and of --answers."""
    from espnet_llmvq.score.questions import find_answers

    # A hypothesis file lies in MODEL/decode_SET.
    directories = {system.name: system.hyp_path(sets[0].name).parent.parent for system in systems}
    for name, _, directory in further:
        if name in directories:
            raise UserError(f"--answers {name!r} is the name of another row too; give each its own")
        directories[name] = Path(directory)
    return find_answers(directories, args.normaliser)


def question_section(rows, answers, labels):
    """Return Markdown tables of questions with how they were put, "" if none were."""
    text = ""
    for (kind, name), title, *drawn in table.question_tables(rows, labels):
        options = next(iter(answers[kind, name].values())).options
        told = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in options.items() if k != "examples"]
        text += f"### {title}\n\n{table.markdown_table(*drawn)}\n" + f"`{'; '.join(told)}`\n\n" * bool(told)
    return text


def score_all(systems, sets, args):
    """Evaluate every system on every set -> what the tables are made of, as a dict."""
    from tqdm import tqdm

    from espnet_llmvq.score.compare import measured
    from espnet_llmvq.score.derail import derailment_rows
    from espnet_llmvq.score.details import write_details
    from espnet_llmvq.score.measure import evaluate
    from espnet_llmvq.score.wer import total

    rules, audit_rules = input_rules(args)
    references, metrics, notes = {}, {}, []
    for s in sets:
        references[s.name], metrics[s.name] = load_set(s, args, rules)
        # Names, not paths: tables do not depend on where the files are.
        for path in (s.text, s.entities, s.utt2spk, s.word_list):
            notes += [f"{s.name}{n[len(path) :]}" for n in references[s.name].notes if n.startswith(path + ":")]
    for system in systems:
        for s in sets:
            path = system.hyp_path(s.name)
            if not path.is_file():
                raise UserError(
                    f"{path}: no hypotheses of {system.name} on {s.name}; decode them first "
                    f"(stage {DECODE_STAGE}) or leave out --system {system.name}"
                )
    found, scores, derailments = {}, {}, []
    pairs = [(system, s) for system in systems for s in sets]
    for system, s in tqdm(pairs, "scoring", disable=None):  # None: no bar in log files
        path, reference = system.hyp_path(s.name), references[s.name]
        one = evaluate(reference, path, metrics[s.name], rules, args.prompt, audit_rules)
        notes += [f"{system.name} on {s.name}{note[len(str(path)) :]}" for note in one.notes]
        units = reference.units()
        found[system.name, s.name] = measured(one, metrics[s.name], units, args.replicates, args.draw_seed, s.name)
        scores[system.name, s.name] = total(one.scores)
        derailments += derailment_rows(system.name, s.name, one.derailed, list(one.hyps), one.counts["wer"])
        write_details(path.parent, reference, one)
    notes += collapse_notes(systems, sets)
    notes += cautions(sets, references)
    return {
        "references": references,
        "measured": found,
        "scores": scores,
        "derailments": derailments,
        "notes": notes,
        "oov": oov_rates(references, args.train_text, rules) if args.train_text else None,
    }


def main(argv=None):
    args = get_parser().parse_args(argv)
    systems = [table.parse_system(spec) for spec in args.system]
    sets = [table.parse_set(spec) for spec in args.set]
    table.check_unique("--system", systems)
    table.check_unique("--set", sets)
    names = [system.name for system in systems]
    baseline = args.baseline or names[0]
    check_name("baseline", baseline, names)
    for name in (args.normaliser, *(s.normaliser for s in sets if s.normaliser)):
        check_name("normaliser", name, NORMALISERS)
    check_statistics(args)
    further = [parse_answers(spec) for spec in args.answers]
    figures = [published.make_published(read_yaml(path), path).only(names) for path in args.published]
    from espnet_llmvq.score.experiment import comparison_rows, result_rows
    from espnet_llmvq.score.questions import question_rows

    answers = find_all_answers(systems, sets, further, args)
    results = score_all(systems, sets, args)
    results["answers"] = answers
    results["further labels"] = {name: label for name, label, _ in further}
    results["questions"] = question_rows(
        answers, args.normaliser, args.seed, args.replicates, args.draw_seed, args.confidence
    )
    for (_, name), found in answers.items():
        asked = len(next(iter(found.values())).asked)
        if asked < table.FEW:
            results["notes"].append(f"{name}: only {asked} questions to resample; intervals are too narrow")
    results["published"] = [one for one in figures if one.rows]
    known = (systems, sets, results["references"], results["measured"])
    results["rows"] = result_rows(*known, args.seed, args.confidence)
    results["comparisons"] = comparison_rows(
        *known,
        next(system for system in systems if system.name == baseline),
        (args.permutations, args.confidence, args.draw_seed),
    )
    text, shown = markdown(systems, sets, results, baseline, args)
    out_dir = Path(args.out_dir)
    files = {name: results[name] for name in ("comparisons", "derailments")}
    files["results"] = results["rows"] + results["questions"]
    if results["published"]:
        files["published"] = [asdict(one) for one in results["published"]]
    for name, content in files.items():
        write_text(out_dir / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(out_dir / "results.tsv", table.rows_tsv(files["results"]))
    write_text(out_dir / "results.tex", latex(systems, results, baseline, args))
    write_text(out_dir / "RESULTS.md", text)
    print(shown, end="")
    print(f"WER in % [{100 * args.confidence:g} % interval]; written to {out_dir / 'RESULTS.md'}")


def latex(systems, results, baseline, args):
    """Return results.tex: the two WER tables."""
    labels = {system.name: system.label for system in systems}
    rows, level = results["rows"], f"{100 * args.confidence:g} % intervals"
    sets = table.metric_table(rows, "wer", "low", labels, None, results["oov"])
    domain = table.domain_table(rows, results["comparisons"], "wer", baseline, labels)
    return "% needs \\usepackage{booktabs}\n" + "\n".join(
        table.latex_table(*drawn, f"{title}, with {level}.")
        for drawn, title in (
            (sets, "Word error rate (%)"),
            (domain, "Word error rate (%) in domain (ID) and out of domain (OOD)"),
        )
    )
