"""Compare two hypothesis files of one set: difference, paired test, and which utterances changed.

The difference is B minus A. The test exchanges the two files at random in each utterance, or in
each speaker's utterances; its p-values are corrected for the number of metrics.
"""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_outputs, write_json
from espnet_llmvq.cli.parser import Parser, add_overwrite
from espnet_llmvq.cli.score import add_scoring_options, add_set_options, load, reference_files, scoring_options


def get_parser():
    parser = Parser(description=__doc__.split("\n")[0], epilog=" ".join(__doc__.split("\n")[2:]))
    parser.add_argument("a", metavar="A", help="hypotheses")
    parser.add_argument("b", metavar="B", help="other hypotheses, compared with A")
    add_set_options(parser)
    add_scoring_options(parser)
    parser.add_argument("--show", type=int, default=5, help="utterances to print that gained, and that lost, most")
    parser.add_argument("--json", metavar="FILE", help="also write the comparison to this file")
    add_overwrite(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    options = scoring_options(args)
    check_outputs([args.json], [args.a, args.b, *reference_files(args)])
    if args.show < 0:
        raise UserError(f"--show {args.show}: give 0 or more")
    from espnet_llmvq.score.one_set import Files, changed, comparisons_table, scores_table, word_outcomes
    from espnet_llmvq.score.table import text_table
    from espnet_llmvq.score.wer import format_alignments

    reference, metrics = load(args, options)
    names = {"A": args.a, "B": args.b}
    files = Files(reference, metrics, names, options)
    comparisons = files.comparisons("A")
    for name, path in names.items():
        print(f"{name}: {path}")
    print(f"\n{text_table(scores_table(files.entries))}\nB - A:\n{text_table(comparisons_table(comparisons))}")
    a, b = files.scores["A"], files.scores["B"]
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
    for line in files.remarks():
        print(line)
    print(f"resampled: {options.statistics.resample}; {options.statistics}")
    if args.json:
        values = {(e["file"], e["metric"]): e["value"] for e in files.entries}
        entries = [{**{k.lower(): values[k, row["metric"]] for k in names}, **row} for row in comparisons]
        content = {
            **{name.lower(): path for name, path in names.items()},
            "comparisons": entries,
            "utterances": {"fewer": fewer, "more": more, "all": len(gains)},
            "words": {"both": both, "only_a": only_a, "only_b": only_b, "neither": none},
            "derailments": files.derailments,
        }
        write_json(args.json, content)
