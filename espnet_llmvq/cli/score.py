"""Score hypothesis files against a reference, with intervals and, for several, paired tests.

Files are Kaldi text (`utterance words...`), `.trn` (`words (utterance)`) or `.jsonl`
({"id": ..., "text": ...} a line). Rates are over the whole set: errors of all utterances divided
by all reference words (CER: characters, the spaces between words included; TER: tokens of raw
text). Several files are compared with the first. Bad input is an error unless an option says
how to treat it; the treatment is printed.
"""

import json

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import write_text
from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.data.normalise import NORMALISERS
from espnet_llmvq.score.options import (
    add_input_options,
    add_statistics_options,
    check_statistics,
    input_rules,
    statistics_note,
)


def add_set_options(parser):
    """Add the options that describe the reference."""
    parser.add_argument("--ref", required=True, help="reference transcript")
    parser.add_argument("--normaliser", default="basic", help=f"one of {', '.join(NORMALISERS)}; for both sides")
    parser.add_argument(
        "--metric",
        action="append",
        help="wer, cer, ter, bleu or chrf; give it again for more (wer and cer if not given). "
        "--entities and --word_list add theirs",
    )
    parser.add_argument("--entities", help="file of entities, utt<TAB>slot=value<TAB>slot=value...")
    parser.add_argument("--word_list", help="file with an entry a line: WER inside and outside of the list")
    parser.add_argument("--utt2spk", help="speakers, utt<SPACE>speaker")


def load(args, rules):
    """Return (Reference, its metrics in order) of parsed options."""
    from espnet_llmvq.score.measure import ENTITY_METRICS, LIST_METRICS, METRICS, load_reference

    wanted = args.metric or ("wer", "cer")
    known = [name for name in METRICS if name not in (*ENTITY_METRICS, *LIST_METRICS)]
    for name in wanted:
        check_name("metric", name, known)
    reference = load_reference(
        args.ref, args.normaliser, args.entities, args.word_list, args.utt2spk, args.resample, rules
    )
    return reference, reference.metrics(wanted)


def get_parser():
    parser = Parser(description=__doc__.split("\n")[0], epilog=" ".join(__doc__.split("\n")[2:]))
    parser.add_argument("--hyp", required=True, action="append", help="hypotheses; give it again for more files")
    add_set_options(parser)
    parser.add_argument("--train_text", help="training transcript: prints the OOV rate")
    add_statistics_options(parser)
    add_input_options(parser)
    parser.add_argument("--json", metavar="FILE", help="also write everything printed to this file")
    parser.add_argument(
        "--out_dir",
        help="write ref.trn, hyp.trn, result.txt, utterances.tsv, speakers.tsv of each file to OUT_DIR/NAME",
    )
    return parser


def entry(path, reference, evaluation, found, metric, confidence):
    """Return what is told of one metric of one file, as a dict."""
    from espnet_llmvq.score.measure import METRICS
    from espnet_llmvq.score.stats import interval
    from espnet_llmvq.score.table import number

    estimate = found.estimate(metric)
    low, high = interval(estimate, confidence)
    row = {
        "file": path,
        "metric": metric,
        "normaliser": reference.normaliser_of(metric),
        "value": number(estimate.value),
        "low": number(low),
        "high": number(high),
    }
    if METRICS[metric].of:
        part, whole = found.counts[metric].sum(axis=0)
        row |= {"count": int(part), "of": int(whole), "unit": METRICS[metric].of}
    if metric == "wer":
        from espnet_llmvq.score.wer import total

        counts = total(evaluation.scores)
        row |= {"sub": counts.substitutions, "del": counts.deletions, "ins": counts.insertions}
    return row


def print_scores(entries):
    """Print a line for each metric of each file."""
    from espnet_llmvq.score.table import bounds, text_table

    rows = []
    for e in entries:
        metric = e["metric"].upper() if len(e["metric"]) == 3 else e["metric"]
        value = "-" if e["value"] is None else f"{e['value']:.2f}"
        of = f"{e['count']} / {e['of']} {e['unit']}" if "of" in e else ""
        ops = f"{e['sub']} / {e['del']} / {e['ins']}" if "sub" in e else ""
        rows.append([e["file"], metric, e["normaliser"], value, bounds(e), of, ops])
    header = ["file", "metric", "normaliser", "value", "interval", "count", "S / D / I"]
    print(text_table(header, rows), end="")


def print_comparisons(told):
    """Print a line for each comparison with the first file."""
    from espnet_llmvq.score.table import signed, text_table

    rows = [
        [
            row["file"],
            row["metric"],
            row["normaliser"],
            signed(row["change"]),
            f"[{signed(row['low'])}, {signed(row['high'])}]",
            *("-" if row[key] is None else f"{row[key]:.4f}" for key in ("p", "p_holm")),
            "-" if row["improvement"] is None else f"{row['improvement']:.3f}",
            row["verdict"],
        ]
        for row in told
    ]
    if rows:
        header = ["file", "metric", "normaliser", "change", "interval", "p", "p corrected"]
        print(f"\nagainst {told[0]['baseline']}, {len(told)} comparisons:")
        print(text_table([*header, "P(better)", "verdict"], rows))


def print_derailments(rows):
    """Print the kinds of derailment that occur, from entries of `derailment_rows`."""
    for row in rows:
        if row["count"]:
            without = "none left" if row["wer_without"] is None else f"{row['wer_without']:.2f}"
            print(
                f"{row['system']}: derailed ({row['kind']}): {row['count']} of {row['utterances']} "
                f"utterances; WER {row['wer_all']:.2f}, without them {without}"
            )


def print_notes(reference, notes):
    """Print how bad input was treated, and what to bear in mind about small sets."""
    from espnet_llmvq.score.table import FEW

    units = int(reference.units().max()) + 1
    if reference.small:
        print("small: under 500 words; do not draw conclusions from this set alone")
    if units < FEW:
        print(f"few: only {units} {reference.resample}s to resample; intervals are too narrow")
    for note in notes:
        print(f"input: {note}")


def main(argv=None):
    args = get_parser().parse_args(argv)
    rules, audit_rules = input_rules(args)
    check_statistics(args)
    if len(set(args.hyp)) < len(args.hyp):
        raise UserError("--hyp: a file is given twice; give each one once")
    from espnet_llmvq.score.compare import compare, measured, verdict
    from espnet_llmvq.score.derail import derailment_rows
    from espnet_llmvq.score.details import write_details
    from espnet_llmvq.score.files import read_transcript
    from espnet_llmvq.score.measure import TESTED, evaluate
    from espnet_llmvq.score.stats import holm
    from espnet_llmvq.score.table import number
    from espnet_llmvq.score.wer import oov_rate, split_words

    reference, metrics = load(args, rules)
    directories = {path: name for path, name in zip(args.hyp, _names(args.hyp))}
    units, entries, systems, derailed = reference.units(), [], {}, []
    notes = list(reference.notes)
    for path in args.hyp:
        found = evaluate(reference, path, metrics, rules, args.prompt, audit_rules)
        notes += found.notes
        systems[path] = measured(found, metrics, units, args.replicates, args.draw_seed)
        entries += [entry(path, reference, found, systems[path], metric, args.confidence) for metric in metrics]
        derailed += derailment_rows(path, "", found.derailed, list(found.hyps), found.counts["wer"])
        if args.out_dir:
            write_details(f"{args.out_dir}/{directories[path]}", reference, found)
        del found
    print_scores(entries)

    first, *others = args.hyp
    comparisons = []
    for path in others:
        for metric in (name for name in metrics if name in TESTED):
            made = compare(*(systems[path], systems[first], metric, args.permutations, args.confidence), args.draw_seed)
            comparisons.append((path, metric, made))
    told = []
    for (path, metric, made), p in zip(comparisons, holm([made.p for *_, made in comparisons])):
        told.append(
            {
                "file": path,
                "baseline": first,
                "metric": metric,
                "normaliser": reference.normaliser_of(metric),
                **{key: number(value) for key, value in vars(made).items()},
                "p_holm": number(p),
                "comparisons": len(comparisons),
                "verdict": verdict(made, p, args.confidence, path, first),
            }
        )
    print_comparisons(told)
    oov = None
    if args.train_text:
        from espnet_llmvq.data.normalise import get_normaliser

        train = split_words(read_transcript(args.train_text, rules), get_normaliser(args.normaliser))
        oov = oov_rate(reference.words, train)
        print(f"OOV rate ({args.normaliser}): {oov:.2f} % of the reference words")
    print_derailments(derailed)
    print_notes(reference, notes)
    print(f"{len(reference.refs)} utterances; resampled: {args.resample}; {statistics_note(args)}")
    if args.json:
        content = {
            "scores": entries,
            "comparisons": told,
            "derailments": derailed,
            "oov": number(oov),
            "utterances": len(reference.refs),
            "small": reference.small,
            "resample": args.resample,
            "notes": notes,
        }
        write_text(args.json, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _names(paths):
    """Return a directory name for each path: its stem, with a number where stems are the same."""
    from pathlib import Path

    names = []
    for path in paths:
        stem = name = Path(path).stem
        number = 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return names
