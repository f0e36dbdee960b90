"""Choose hypotheses from stored n-best lists by (1 - w) * LLM + w * CTC score (end of stage 12), without decoding."""

import os

from espnet_llmvq.cli.parser import Parser

TUNE = "valid"


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", required=True, help="names of systems of conf_dir/systems.yaml")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--expdir", default="exp", help="where models and n-best lists are")
    parser.add_argument("--encoder", required=True, help="experiment directory of the encoder")
    parser.add_argument("--seed", type=int, default=1, help="the seed the systems were trained with")
    parser.add_argument("--set", action="append", default=[], help="set whose hyp.jsonl is written, repeated")
    parser.add_argument(
        "--ctc_weight",
        default=TUNE,
        help=f"w, from 0 (LLM alone) to 1 (CTC alone); {TUNE!r}: for each system the one of --grid with the fewest "
        "word errors on --tune",
    )
    parser.add_argument("--tune", help="NAME=TEXT: validation set and its reference; prints the WER of each weight")
    parser.add_argument(
        "--grid", default="0 0.05 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1", help="weights tried on --tune"
    )
    parser.add_argument("--normaliser", default="basic", help="of references and hypotheses of --tune")
    return parser


def read_weight(text, where):
    """A weight from 0 to 1. Raises UserError."""
    from espnet_llmvq.base.errors import UserError

    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise UserError(f"{where} {text!r}: expected a number from 0 to 1")
    return weight


def choose(path, weight):
    """{utterance: best entry of its n-best list in the file `path`, None for an empty list}."""
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.decode.nbest import best, read_nbest

    lists = read_nbest(path)
    if weight and all(h["ctc"] is None for found in lists.values() for h in found):
        raise UserError(f"{path}: no CTC scores; decode again with an encoder that has a CTC head, or give weight 0")
    return {utt: found[best(found, weight)] if found else None for utt, found in lists.items()}


def word_errors(chosen, reference, path, normalise):
    """(word errors, words, utterances at the length limit) of what was `choose`n."""
    from espnet_llmvq.score.files import match_utterances
    from espnet_llmvq.score.wer import score_utterances, split_words, total

    refs, ref_path = reference
    hyps = match_utterances(refs, {utt: h["text"] if h else "" for utt, h in chosen.items()}, ref_path, path)
    score = total(score_utterances(split_words(refs, normalise), split_words(hyps, normalise)))
    cut = sum(bool(h and h.get("at_limit")) for h in chosen.values())
    return score.substitutions + score.deletions + score.insertions, score.words, cut


def tune(system, nbest, reference, grid, normalise):
    """Print the WER of each weight on the validation set; return the best one, the lowest of equals."""
    errors = {}
    for weight in grid:
        errors[weight], words, cut = word_errors(choose(nbest, weight), reference, nbest, normalise)
        print(f"[{system.name}] ctc_weight {weight:<5g} WER {100 * errors[weight] / words:6.2f}, {cut} at the limit")
    return min(sorted(errors), key=errors.get)


def rewrite(path, nbest, weight, source):
    """Write the hypothesis file for `weight`, unless it is what it says beside it."""
    import json

    from espnet_llmvq.base.environment import FILE
    from espnet_llmvq.base.errors import reading
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.decode.nbest import write_hypotheses

    chosen, facts = choose(nbest, weight), os.path.join(os.path.dirname(path), FILE)
    remedy = f"remove {os.path.dirname(path)} and decode again (stage 12)"
    with reading(facts, remedy), open(facts, encoding="utf-8") as f:  # decoding wrote it after the n-best lists
        made = json.load(f)
    now = {**made, "ctc_weight": weight, "ctc_weight from": source}
    if weight == 0 and "ctc_weight" not in made:
        return
    if made == now:
        print(f"{path}: ctc_weight {weight:g}, nothing to do")
        return
    # Hypotheses first: a run killed in between is seen, and done again.
    write_hypotheses(path, chosen)
    write_text(facts, json.dumps(now, indent=1) + "\n")
    print(f"{path}: ctc_weight {weight:g} ({source})")


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.data.normalise import get_normaliser
    from espnet_llmvq.decode.nbest import NBEST
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import hypothesis_file, read_systems
    from espnet_llmvq.score.files import read_transcript

    tuned = args.ctc_weight == TUNE
    if not tuned:
        weight = read_weight(args.ctc_weight, "--ctc_weight")
    elif not args.tune:
        raise UserError(f"--ctc_weight {TUNE} needs --tune NAME=TEXT")
    if args.tune:
        name, _, text = args.tune.partition("=")
        reference = read_transcript(text), text
        grid = [read_weight(w, "--grid") for w in args.grid.split()]
        normalise = get_normaliser(args.normaliser)
    for system in read_systems(read_cards(args.conf_dir), args.systems.split(), args.seed):
        if system.decode != "llm":
            continue

        def files(name, system=system):
            path = hypothesis_file(system, args.expdir, args.encoder, name)
            return path, os.path.join(os.path.dirname(path), NBEST)

        if args.tune:
            lowest = tune(system, files(name)[1], reference, grid, normalise)
            if tuned:
                weight = lowest
        for test_set in args.set:
            rewrite(*files(test_set), weight, f"lowest WER on {name}" if tuned else "given")
