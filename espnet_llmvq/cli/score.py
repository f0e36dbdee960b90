"""Score hypothesis files against a reference, with intervals and, for several, paired tests.

Files are Kaldi text (`utterance words...`), `.trn` (`words (utterance)`) or `.jsonl` ({"id": ..., "text": ...} a line).
Rates are over the whole set: errors of all utterances divided by all reference words (CER: characters, the spaces
between words included; TER: tokens of raw text). Several files are compared with the first. Bad input is an error
unless an option says how to treat it; the treatment is printed.
"""

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_outputs, write_json
from espnet_llmvq.cli.parser import Parser, add_options, add_overwrite, options_of
from espnet_llmvq.data.normalise import NORMALISERS, described, get_normaliser
from espnet_llmvq.score.options import AuditRules, Options, Rules, Statistics


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


def add_scoring_options(parser):
    """Add the options of bootstrap and tests, of the treatment of bad input, and of the audit of derailments."""
    for cls in (Statistics, Rules, AuditRules, Options):
        add_options(parser, cls)


def scoring_options(args):
    """The Options of parsed ones. Raises UserError for impossible values."""
    parts = [options_of(cls, args) for cls in (Statistics, Rules, AuditRules)]
    return options_of(Options, args, **dict(zip(("statistics", "rules", "audit"), parts)))


def reference_files(args):
    """Files that `load` reads, None for what is not given."""
    return args.ref, args.entities, args.word_list, args.utt2spk


def load(args, options):
    """(Reference, its metrics in order) of parsed options."""
    from espnet_llmvq.score.measure import load_reference, names_of

    wanted = args.metric or ("wer", "cer")
    for name in wanted:
        check_name("metric", name, names_of("always", "asked"))
    ref, *files = reference_files(args)
    reference = load_reference(ref, args.normaliser, *files, options.statistics.resample, options.rules)
    return reference, reference.metrics(wanted)


def get_parser():
    parser = Parser(description=__doc__.split("\n")[0], epilog=" ".join(__doc__.split("\n")[2:]))
    parser.add_argument("--hyp", required=True, action="append", help="hypotheses; give it again for more files")
    add_set_options(parser)
    parser.add_argument("--train_text", help="training transcript: prints the OOV rate")
    add_scoring_options(parser)
    parser.add_argument("--json", metavar="FILE", help="also write everything printed to this file")
    parser.add_argument(
        "--out_dir",
        help="write ref.trn, hyp.trn, result.txt, utterances.tsv, speakers.tsv of each file to OUT_DIR/NAME",
    )
    add_overwrite(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    options = scoring_options(args)
    inputs = [*args.hyp, args.train_text, *reference_files(args)]
    check_outputs([args.json], inputs)
    if len(set(args.hyp)) < len(args.hyp):
        raise UserError("--hyp: a file is given twice; give each one once")
    from espnet_llmvq.score.files import read_transcript
    from espnet_llmvq.score.one_set import Files, comparisons_table, scores_table
    from espnet_llmvq.score.table import number, text_table
    from espnet_llmvq.score.wer import oov_rate, word_counts

    reference, metrics = load(args, options)
    files = Files(reference, metrics, {path: path for path in args.hyp}, options, args.out_dir, inputs)
    print(text_table(scores_table(files.entries)), end="")
    comparisons = files.comparisons(args.hyp[0])
    if comparisons:
        print(f"\nagainst {args.hyp[0]}, {len(comparisons)} comparisons:")
        print(text_table(comparisons_table(comparisons)))
    oov = None
    if args.train_text:
        known = word_counts(read_transcript(args.train_text, options.rules), get_normaliser(args.normaliser))
        oov = oov_rate(reference.words, known)
        print(f"OOV rate ({described(args.normaliser)}): {oov:.2f} % of the reference words")
    for line in files.remarks():
        print(line)
    resample = options.statistics.resample
    print(f"{len(reference.refs)} utterances; resampled: {resample}; {options.statistics}")
    if args.json:
        content = {
            "scores": files.entries,
            "comparisons": comparisons,
            "derailments": files.derailments,
            "oov": number(oov),
            "utterances": len(reference.refs),
            "small": reference.small,
            "resample": resample,
            "notes": files.notes,
        }
        write_json(args.json, content)
