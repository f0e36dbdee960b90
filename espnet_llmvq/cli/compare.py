"""Compare two hypothesis files of one set: difference, paired test, and which utterances changed.

The difference is B minus A. The test exchanges the two files at random in each utterance, or in
each speaker's utterances; its p-values are corrected for the number of metrics.
"""

import json

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.cli.score import add_set_options, load, print_derailments, print_notes
from espnet_llmvq.score.options import (
    add_input_options,
    add_statistics_options,
    check_statistics,
    input_rules,
    statistics_note,
)


def get_parser():
    parser = Parser(description=__doc__.split("\n")[0], epilog=" ".join(__doc__.split("\n")[2:]))
    parser.add_argument("a", metavar="A", help="hypotheses")
    parser.add_argument("b", metavar="B", help="other hypotheses, compared with A")
    add_set_options(parser)
    add_statistics_options(parser)
    add_input_options(parser)
    parser.add_argument("--show", type=int, default=5, help="utterances to print that gained, and that lost, most")
    parser.add_argument("--json", metavar="FILE", help="also write the comparison to this file")
    return parser


def changed(scores_a, scores_b):
    """Return [(errors of B - errors of A, utterance)] of two lists of UtteranceScores, in order."""
    return [
        (sum(p[0] != "=" for p in b.pairs) - sum(p[0] != "=" for p in a.pairs), a.utt)
        for a, b in zip(scores_a, scores_b)
    ]


def word_outcomes(scores_a, scores_b):
    """Return (both right, only A right, only B right, both wrong) over the reference words."""
    counts = [0, 0, 0, 0]
    for a, b in zip(scores_a, scores_b):
        right = ([p[0] == "=" for p in s.pairs if p[0] != "I"] for s in (a, b))
        for in_a, in_b in zip(*right):
            counts[2 * (not in_a) + (not in_b)] += 1
    both, only_a, only_b, none = counts
    return both, only_a, only_b, none


def main(argv=None):
    args = get_parser().parse_args(argv)
    rules, audit_rules = input_rules(args)
    check_statistics(args)
    if args.show < 0:
        raise UserError(f"--show {args.show}: give 0 or more")
    from espnet_llmvq.score.compare import compare, measured, verdict
    from espnet_llmvq.score.derail import derailment_rows
    from espnet_llmvq.score.measure import TESTED, evaluate
    from espnet_llmvq.score.stats import holm
    from espnet_llmvq.score.table import cell, number, signed, text_table
    from espnet_llmvq.score.wer import format_alignments

    reference, metrics = load(args, rules)
    names = {"A": args.a, "B": args.b}
    found = {name: evaluate(reference, path, metrics, rules, args.prompt, audit_rules) for name, path in names.items()}
    units = reference.units()
    systems = {
        name: measured(evaluation, metrics, units, args.replicates, args.draw_seed)
        for name, evaluation in found.items()
    }
    made = {
        metric: compare(*(systems["B"], systems["A"], metric, args.permutations, args.confidence), args.draw_seed)
        for metric in metrics
        if metric in TESTED
    }
    corrected = dict(zip(made, holm([comparison.p for comparison in made.values()])))
    rows, entries = [], []
    for metric, comparison in made.items():
        values = [number(systems[name].estimate(metric).value) for name in "AB"]
        words = verdict(comparison, corrected[metric], args.confidence, "B", "A")
        rows.append(
            [
                metric,
                reference.normaliser_of(metric),
                *(cell({"value": value}) for value in values),
                f"{signed(comparison.change)} [{signed(comparison.low)}, {signed(comparison.high)}]",
                f"{comparison.p:.4f}",
                f"{corrected[metric]:.4f}",
                f"{comparison.improvement:.3f}",
                words,
            ]
        )
        entries.append(
            {
                "metric": metric,
                "normaliser": reference.normaliser_of(metric),
                **dict(zip(("a", "b"), values)),
                **{key: number(value) for key, value in vars(comparison).items()},
                "p_holm": number(corrected[metric]),
                "comparisons": len(made),
                "verdict": words,
            }
        )
    for name, path in names.items():
        print(f"{name}: {path}")
    header = ["metric", "normaliser", "A", "B", "B - A", "p", "p corrected", "P(B better)", "verdict"]
    print(text_table(header, rows), end="")
    a, b = found["A"].scores, found["B"].scores
    gains = changed(a, b)
    fewer, more = sum(g < 0 for g, _ in gains), sum(g > 0 for g, _ in gains)
    print(f"utterances: {fewer} with fewer errors in B, {more} with more, {len(gains) - fewer - more} with as many")
    both, only_a, only_b, none = word_outcomes(a, b)
    print(f"reference words: {both} right in both, {only_a} in A only, {only_b} in B only, {none} in neither")
    order = {score.utt: i for i, score in enumerate(a)}
    for title, sign in (("gained most in B", 1), ("lost most in B", -1)):
        chosen = sorted((sign * gain, utt) for gain, utt in gains if sign * gain < 0)[: args.show]
        if chosen:
            print(f"\n{title}:")
        for _, utt in chosen:
            for name, scores in (("A", a), ("B", b)):
                print(f"\n{name} {format_alignments([scores[order[utt]]])}", end="")
    print()
    derailed = []
    for name in "AB":
        counts = found[name].counts["wer"]
        derailed += derailment_rows(name, "", found[name].derailed, list(reference.refs), counts)
    print_derailments(derailed)
    print_notes(reference, reference.notes + found["A"].notes + found["B"].notes)
    print(f"resampled: {args.resample}; {statistics_note(args)}")
    if args.json:
        content = {
            **{name.lower(): path for name, path in names.items()},
            "comparisons": entries,
            "utterances": {"fewer": fewer, "more": more, "all": len(gains)},
            "words": {"both": both, "only_a": only_a, "only_b": only_b, "neither": none},
            "derailments": derailed,
        }
        write_text(args.json, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
