#!/usr/bin/env python3
"""Which slots of a domain's entities count, by what the CTC head alone recalls of them, before any row is trained.

A slot counts if --low to --high percent of its instances are recalled, normalised, and it has --least or more of them.
What is never heard no text can bring, and what is always heard needs none. README.md has the rule.

    local/slots.py data/test_coffee exp/encoder/decode_ctc_test_coffee/hyp.jsonl
"""

from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, positive, run
from espnet_llmvq.data.normalise import NORMALISERS, get_normaliser
from espnet_llmvq.score.entities import check_entities, entity_counts, read_entities
from espnet_llmvq.score.files import match_utterances, read_transcript


def recalls(refs, hyps, entities, normalise):
    """{slot: (instances, recalled)} in normalised text, in the order of the names."""
    refs, hyps = ({utt: normalise(text) for utt, text in texts.items()} for texts in (refs, hyps))
    found = {}
    for slot in sorted({slot for items in entities.values() for slot, _ in items}):
        own = {utt: [(s, normalise(v)) for s, v in items if s == slot] for utt, items in entities.items()}
        counts = entity_counts(refs, hyps, own).values()
        found[slot] = tuple(sum(row[i] for row in counts) for i in (0, 1))
    return found


def counting(found, low, high, least):
    """The slots that count. found: as `recalls`; low, high: percent, both ends included."""
    return [slot for slot, (n, k) in found.items() if n >= least and low * n <= 100 * k <= high * n]


def get_parser():
    parser = Parser(prog="local/slots.py", description=__doc__)
    parser.add_argument("data_dir", type=Path, help="test set with `entities`, all slots of them")
    parser.add_argument("hypotheses", help="of `ctc` for it")
    parser.add_argument("--normaliser", default="whisper_english", choices=sorted(NORMALISERS), help="of the set")
    parser.add_argument("--low", type=float, default=10.0, help="percent")
    parser.add_argument("--high", type=float, default=60.0, help="percent")
    parser.add_argument("--least", type=positive, default=20, help="instances")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    text, path = str(args.data_dir / "text"), str(args.data_dir / "entities")
    refs, hyps = read_transcript(text), read_transcript(args.hypotheses)
    hyps = match_utterances(refs, hyps, text, args.hypotheses)
    entities = check_entities(read_entities(path), refs, path)
    found = recalls(refs, hyps, entities, get_normaliser(args.normaliser))
    if not found:
        raise UserError(f"{path}: holds no entity")
    kept = counting(found, args.low, args.high, args.least)
    for slot, (instances, recalled) in found.items():
        share = 100 * recalled / instances if instances else 0.0
        print(f"{slot}: {recalled} of {instances} ({share:.1f} %){', counts' * (slot in kept)}")
    print(f"slots: [{', '.join(kept)}]" if kept else "no slot counts: the domain is told, but is in no mean")


if __name__ == "__main__":
    run(main)
