"""Score hypothesis files against a reference: word and character error rates.

Files are Kaldi text (`utterance words...`), `.trn` (`words (utterance)`) or `.jsonl`
({"id": ..., "text": ...} a line). Rates are over the whole set: errors of all utterances divided
by all reference words (for CER: characters, the spaces between words included).
"""

import json

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.data.normalise import NORMALISERS, get_normaliser
from espnet_llmvq.errors import check_name
from espnet_llmvq.score.files import match_utterances, read_transcript, write_text
from espnet_llmvq.score.table import text_table
from espnet_llmvq.score.wer import score_utterances, split_words, total

METRICS = ("wer", "cer")


def get_parser():
    parser = Parser(description=__doc__.split("\n")[0], epilog=" ".join(__doc__.split("\n")[2:]))
    parser.add_argument("--ref", required=True, help="reference transcript")
    parser.add_argument(
        "--hyp", required=True, action="append", help="hypotheses; give it again for more files"
    )
    parser.add_argument(
        "--normaliser", default="basic", help=f"one of {', '.join(NORMALISERS)}; for both sides"
    )
    parser.add_argument(
        "--metric", action="append", help="wer or cer; give it again for both (both if not given)"
    )
    parser.add_argument(
        "--missing",
        default="error",
        help="an utterance without a hypothesis: error, or empty (its words count as deletions)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the scores to this file")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    metrics = [check_name("metric", m, METRICS) for m in args.metric or METRICS]
    check_name("value of --missing", args.missing, ("error", "empty"))
    normalise = get_normaliser(args.normaliser)
    refs = read_transcript(args.ref)
    ref_words = split_words(refs, normalise)

    header = ["file", "utterances", "words"]
    header += ["WER", "S", "D", "I"] if "wer" in metrics else []
    header += ["CER"] if "cer" in metrics else []
    rows, entries = [], []
    for path in args.hyp:
        hyps, absent = match_utterances(refs, read_transcript(path), args.ref, path, args.missing)
        score = total(score_utterances(ref_words, split_words(hyps, normalise)))
        row = [path, score.utterances, score.words]
        if "wer" in metrics:
            row += [f"{score.wer:.2f}", score.substitutions, score.deletions, score.insertions]
        if "cer" in metrics:
            row += [f"{score.cer:.2f}"]
        rows.append(row)
        entries.append({"file": path, **score.as_dict(), "missing": absent})
        entries[-1]["normaliser"] = args.normaliser
    print(text_table(header, rows), end="")
    absent = ", ".join(str(entry["missing"]) for entry in entries)
    note = f"{absent} counted as empty" if args.missing == "empty" else "an error"
    print(f"normaliser: {args.normaliser}; missing hypotheses: {note}")
    if args.json:
        write_text(args.json, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run(main)
