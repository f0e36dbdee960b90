"""Options that the scoring commands share, and what is made of them."""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.derail import AuditRules
from espnet_llmvq.score.files import TREATMENTS, Rules


def add_input_options(parser):
    """Add an option for each treatment of bad input, the encoding, and the audit's thresholds."""
    helps = {
        "missing": "utterance without a hypothesis; empty: its words are deletions",
        "extra": "hypothesis without a reference; drop: left out",
        "duplicate": "utterance given twice in a file; first or last: that line counts",
        "empty_hyp": "hypothesis without words; keep: the reference's words are deletions",
        "empty_ref": "reference without words; keep: what is said is insertions; drop: left out",
        "unmapped": "utterance without a speaker; own: a speaker of its own",
        "entity_absent": "entity that its raw reference does not hold; drop: left out",
    }
    for name, allowed in TREATMENTS.items():
        text = f"{helps[name]}; one of {', '.join(allowed)}"
        parser.add_argument(f"--{name}", default="error", help=text)
    parser.add_argument("--encoding", default="utf-8", help="of references and hypotheses")
    parser.add_argument("--prompt", default="", help="template of the prompt, to find its text in hypotheses")
    rules = AuditRules()
    parser.add_argument(
        "--loop_repeats",
        type=int,
        default=rules.loop_repeats,
        help="words said so often in a row are a loop, unless the reference has them",
    )
    parser.add_argument(
        "--length_ratio",
        type=float,
        default=rules.length_ratio,
        help="times the words of the reference, and --length_words more: runaway length",
    )
    parser.add_argument("--length_words", type=int, default=rules.length_words, help="see --length_ratio")


def add_statistics_options(parser, resample=True):
    """Add the options of bootstrap and tests; resample: also by what unit."""
    if resample:
        parser.add_argument("--resample", default="utterance", help="what is drawn: utterance or speaker")
    parser.add_argument("--replicates", type=int, default=1000, help="bootstrap replicates")
    parser.add_argument("--permutations", type=int, default=10000, help="exchanges of the paired test")
    parser.add_argument("--confidence", type=float, default=0.95, help="of intervals; level of tests")
    parser.add_argument("--draw_seed", type=int, default=1, help="of bootstrap and test")


def input_rules(args):
    """Return (Rules, AuditRules) of parsed options; UserError for impossible values."""
    if args.loop_repeats < 2 or args.length_ratio < 1 or args.length_words < 0:
        raise UserError(
            "--loop_repeats must be at least 2, --length_ratio at least 1 and --length_words at "
            f"least 0, not {args.loop_repeats}, {args.length_ratio:g} and {args.length_words}"
        )
    rules = Rules(**{name: getattr(args, name) for name in TREATMENTS}, encoding=args.encoding)
    return rules, AuditRules(args.loop_repeats, args.length_ratio, args.length_words)


def check_statistics(args):
    """Raise UserError for impossible values of the statistics options."""
    for name in ("replicates", "permutations"):
        if getattr(args, name) < 100:
            raise UserError(f"--{name} {getattr(args, name)}: give at least 100")
    if not 0.5 <= args.confidence < 1:
        raise UserError(f"--confidence {args.confidence:g}: give a share such as 0.95")
    if args.draw_seed < 0:
        raise UserError(f"--draw_seed {args.draw_seed}: give 0 or more")


def statistics_note(args):
    """Return a line that says how intervals and p-values were made."""
    return (
        f"intervals: {100 * args.confidence:g} %, BCa bootstrap of {args.replicates} replicates; "
        f"p: {args.permutations} random exchanges of the two systems, two-sided, corrected by Holm; "
        f"seed {args.draw_seed}"
    )
