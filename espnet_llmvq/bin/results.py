"""Score all systems on all sets and write the table of the experiment (stage 13).

Writes OUT_DIR/results.json, OUT_DIR/RESULTS.md, and `result.txt`, the alignment of every
utterance, beside each hypothesis file.
"""

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.data.normalise import NORMALISERS, get_normaliser
from espnet_llmvq.errors import UserError, check_name
from espnet_llmvq.score import table
from espnet_llmvq.score.files import match_utterances, read_transcript, write_text
from espnet_llmvq.score.wer import (
    format_alignments,
    oov_rate,
    score_utterances,
    split_words,
    total,
)

DECODE_STAGE = 12


def get_commit(file):
    """Return the git commit of the checkout that holds `file`, with "-dirty" if it was changed.

    "unknown" if git does not track `file`, as for an installed package.
    """

    def git(*args):
        command = ["git", "-C", str(Path(file).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(file).name)
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def get_version(package):
    """Return the installed version of `package` without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def environment(seed, normaliser):
    """Return the facts under which the table was made, as Markdown lines."""
    facts = {
        "python": platform.python_version(),
        **{name: get_version(name) for name in ("torch", "espnet", "transformers", "jiwer")},
        "platform": platform.platform(),
        "CPUs": os.cpu_count(),
        "commit": get_commit(__file__),
        "seed": seed,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "normaliser": normaliser,
    }
    return "".join(f"- {name}: {value}\n" for name, value in facts.items())


def score_system(system, test_set, refs, ref_words, normalise):
    """Return the UtteranceScores of a system on a set; UserError without its hypotheses."""
    path = system.hyp_path(test_set.name)
    if not path.is_file():
        raise UserError(
            f"{path}: no hypotheses of {system.name} on {test_set.name}; decode them first "
            f"(stage {DECODE_STAGE}) or leave out --system {system.name}"
        )
    hyps, _ = match_utterances(refs, read_transcript(path), test_set.text, path)
    return score_utterances(ref_words, split_words(hyps, normalise))


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
        metavar="NAME|DOMAIN|TEXT",
        help="a test set: its name, id or ood (in or out of domain), and its reference",
    )
    parser.add_argument("--train_text", help="training transcript, for the out-of-vocabulary rate")
    parser.add_argument("--baseline", help="system to compare with (the first if not given)")
    parser.add_argument("--normaliser", default="basic", help=f"one of {', '.join(NORMALISERS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs, to be recorded")
    parser.add_argument("--out_dir", default="exp", help="directory of the results")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    systems = [table.parse_system(spec) for spec in args.system]
    sets = [table.parse_set(spec) for spec in args.set]
    table.check_unique("--system", systems)
    table.check_unique("--set", sets)
    baseline = args.baseline or systems[0].name
    check_name("baseline", baseline, [system.name for system in systems])
    normalise = get_normaliser(args.normaliser)

    refs = {s.name: read_transcript(s.text) for s in sets}
    words = {name: split_words(texts, normalise) for name, texts in refs.items()}
    oov = None
    if args.train_text:
        train = split_words(read_transcript(args.train_text), normalise)
        oov = {s.name: oov_rate(words[s.name], train) for s in sets}

    from tqdm import tqdm

    scores = {}
    # disable=None: no bar in log files
    for system, s in tqdm([(sy, s) for sy in systems for s in sets], "scoring", disable=None):
        found = score_system(system, s, refs[s.name], words[s.name], normalise)
        scores[system.name, s.name] = total(found)
        write_text(system.hyp_path(s.name).with_name("result.txt"), format_alignments(found))

    rates = (systems, sets, scores)
    wer = table.markdown_table(*table.rate_table(*rates, "wer", baseline, oov))
    cer = table.markdown_table(*table.rate_table(*rates, "cer", baseline))
    errors = table.markdown_table(*table.error_table(*rates))
    out_dir = Path(args.out_dir)
    rows = table.result_rows(*rates, args.seed)
    write_text(out_dir / "results.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write_text(
        out_dir / "RESULTS.md",
        f"# Results\n\n## Word error rate (%)\n\n{wer}\n## Character error rate (%)\n\n{cer}\n"
        f"## Substitutions / deletions / insertions (words)\n\n{errors}\n"
        f"## Environment\n\n{environment(args.seed, args.normaliser)}",
    )
    print(wer, end="")
    print(f"WER in %; normaliser {args.normaliser}; written to {out_dir / 'RESULTS.md'}")


if __name__ == "__main__":
    run(main)
