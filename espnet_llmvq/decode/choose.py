"""The choice from n-best lists by (1 - w) * LLM + w * CTC score. No torch: nothing is decoded."""

import os

from espnet_llmvq.base.environment import FILE
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_json
from espnet_llmvq.base.made import Made
from espnet_llmvq.decode.nbest import NBEST, best, read_nbest, write_hypotheses
from espnet_llmvq.score.files import match_utterances
from espnet_llmvq.score.wer import score_utterances, split_words, total

GIVEN = "given"  # where a weight is from, if nothing chose it
WEIGHT, SOURCE = "ctc_weight", "ctc_weight from"  # facts beside hypotheses


def beside(hypotheses, name):
    """A file beside a hypothesis file."""
    return os.path.join(os.path.dirname(hypotheses), name)


def choose(path, weight):
    """{utterance: best entry of its n-best list in the file `path`, None for an empty list}.

    weight: with 0 the first of each list.
    """
    lists = read_nbest(path)
    if weight and not all("ctc" in h for entries in lists.values() for h in entries):
        raise UserError(f"{path}: no CTC scores; decode again with an encoder that has a CTC head, or give weight 0")
    return {utt: entries[best(entries, weight)] if entries else None for utt, entries in lists.items()}


def fewest_errors(label, hypotheses, reference, grid, normalise):
    """The weight of the grid with the fewest word errors, the lowest of equals; prints the WER of each.

    hypotheses: hypothesis file of the validation set; reference: ({utterance: text}, its path).
    """
    nbest, (refs, path), errors = beside(hypotheses, NBEST), reference, {}
    for weight in grid:
        chosen = choose(nbest, weight)
        hyps = match_utterances(refs, {utt: h["text"] if h else "" for utt, h in chosen.items()}, path, nbest)
        score = total(score_utterances(split_words(refs, normalise), split_words(hyps, normalise)))
        errors[weight] = score.substitutions + score.deletions + score.insertions
        cut = sum(bool(h and h.get("at_limit")) for h in chosen.values())
        print(f"[{label}] ctc_weight {weight:<5g} WER {100 * errors[weight] / score.words:6.2f}, {cut} at the limit")
    return min(sorted(errors), key=errors.get)


def write_chosen(hypotheses, weight, source):
    """Write a hypothesis file for a weight, and the facts of decoding beside it, unless both are there.

    weight: 0 for the order of the search, which is what decoding alone chooses; source: where it is from, in words.
    Both stand in the facts, but for that order.
    """
    nbest, weighed = beside(hypotheses, NBEST), {}
    decoded = Made(nbest).facts()
    made = Made(hypotheses, {"n-best lists": nbest}, weight=weight, source=source, decoded=decoded)
    if made.fresh():
        return
    chosen = choose(nbest, weight)
    if weight or source != GIVEN:
        weighed = {WEIGHT: weight, SOURCE: source}
    made.forget()  # a run killed in between is seen, and done again
    write_hypotheses(hypotheses, chosen)
    # Scoring prints these, so that its tables do not depend on where they are made.
    write_json(beside(hypotheses, FILE), {**decoded, **weighed}, known=made.has(FILE))
    made.note(files=[FILE])
    if weighed:
        print(f"{hypotheses}: {WEIGHT} {weight:g} ({source})")


def restore(hypotheses):
    """Write a hypothesis file and its facts again, with the weight that it had (0 if that is not known), if they are
    gone or damaged."""
    had = (Made(hypotheses).record() or {}).get("options", {"weight": 0, "source": GIVEN})
    write_chosen(hypotheses, had["weight"], had["source"])
