#!/usr/bin/env python3
"""Make the corpus: sentences from local/text.py, spoken by espeak-ng, and text for the LM.

Speech: train, valid, test_id (new sentences, training voices), test_voices (unseen voices and
accents), test_noise (test_id in rooms and noise), test_medical (another domain, unseen voices).
Text: lm/train.txt, lm/valid.txt, lm/valid_medical.txt. No sentence of a validation or test set is
in any training text.
"""

import random
import sys
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, run

TRAIN_VOICES = "en-us en-us+f2 en-gb+m3 en-gb+f4".split()
TEST_VOICES = ("en-gb-scotland+m4 en-gb-x-rp+f3 en-029+f5 en-gb-x-gbcwmd+m2 en-us-nyc+croak en-gb-scotland+f5").split()
MEDICAL_VOICES = "en-us+m1 en-us+f1 en-gb+m7 en-gb+f3".split()
# Spoken sets: (text domain, voices, size option). The order is that of drawing: test sets come
# first, so that they stay the same when the sizes of other sets change.
SPOKEN = {
    "test_id": ("everyday", TRAIN_VOICES, "test"),
    "test_voices": ("everyday", TEST_VOICES, "test"),
    "test_medical": ("medical", MEDICAL_VOICES, "test"),
    "valid": ("everyday", TRAIN_VOICES, "valid"),
    "train": ("everyday", TRAIN_VOICES, "train"),
}
# Sizes: of the recipe, of smoke runs, and what they are.
SIZES = {
    "train": (10000, 40, "training utterances"),
    "valid": (150, 8, "validation utterances"),
    "test": (200, 8, "utterances of each test set"),
    "lm_everyday": (20000, 450, "LM lines, those of train included"),
    "lm_medical": (6000, 150, "LM lines, medical domain"),
    "lm_valid": (400, 40, "lines of lm/valid.txt"),
    "lm_valid_medical": (200, 20, "lines of lm/valid_medical.txt"),
}


def get_parser():
    parser = Parser(prog="local/data.py", description=__doc__)
    parser.add_argument("--datadir", default="data", help="directory to write")
    for name, (size, _, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=what)
    parser.add_argument("--broad_share", type=float, default=0.04, help="share of slots with a rarer word")
    parser.add_argument("--core_words", type=int, default=8, help="frequent words of each class that are used")
    parser.add_argument("--smoke", default="false", choices=("true", "false"), help="a few utterances of everything")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    return parser


def draw(options):
    """Draw all sentences -> {name: [(text, entities)]} for the spoken and the LM sets.

    options: sizes, broad_share, seed. All sentences are distinct but for train, which is part of
    lm/train. Raises UserError if the sizes do not fit.
    """
    import text as sentences  # local/text.py

    if options["lm_everyday"] < options["train"]:
        raise UserError(f"--lm_everyday {options['lm_everyday']} must hold the {options['train']} sentences of --train")
    domains = {
        domain: sentences.Generator(domain, options["broad_share"], options["core_words"])
        for domain in ("everyday", "medical")
    }
    taken, sets = set(), {}

    def distinct(name, domain, n):
        rng = random.Random(f"{options['seed']}-{name}")
        return domains[domain].distinct(n, rng, taken)

    held_out = {n: (s[0], options[s[2]]) for n, s in SPOKEN.items() if n != "train"}
    held_out["lm/valid"] = ("everyday", options["lm_valid"])
    held_out["lm/valid_medical"] = ("medical", options["lm_valid_medical"])
    for name, (domain, n) in held_out.items():
        sets[name] = distinct(name, domain, n)
    sets["train"] = distinct("train", "everyday", options["train"])
    more = options["lm_everyday"] - options["train"]
    lm = sets["train"] + distinct("lm_everyday", "everyday", more)
    lm += distinct("lm_medical", "medical", options["lm_medical"])
    random.Random(f"{options['seed']}-shuffle").shuffle(lm)
    sets["lm/train"] = lm

    train = {sentences.normalise(text) for text, _ in lm}
    for name in held_out:
        for text, _ in sets[name]:
            assert sentences.normalise(text) not in train, f"{name}: {text!r} is training text"
    return sets


def main(argv=None):
    args = get_parser().parse_args(argv)
    options = {k: v for k, v in vars(args).items() if k not in ("datadir", "nj", "smoke")}
    if args.smoke == "true":
        options.update({name: size for name, (_, size, _) in SIZES.items()})
    for name in SIZES:
        if options[name] < 1:
            raise UserError(f"--{name} must be at least 1, not {options[name]}")
    if not 0 <= options["broad_share"] <= 1:
        raise UserError(f"--broad_share is a share, not {options['broad_share']}")

    from espnet_llmvq.base.files import write_lines
    from espnet_llmvq.data.copies import perturb_data
    from espnet_llmvq.data.synthesise import synthesise

    out, seed, sets = Path(args.datadir), options["seed"], draw(options)
    for name in ("lm/train", "lm/valid", "lm/valid_medical"):
        write_lines(out / f"{name}.txt", [text for text, _ in sets[name]])
    for name, (_, voices, _) in SPOKEN.items():
        utterances = [(f"{name}-{i:05d}", text) for i, (text, _) in enumerate(sets[name], 1)]
        found = {utt: entities for (utt, _), (_, entities) in zip(utterances, sets[name], strict=True)}
        entities = found if name == "test_medical" else None
        synthesise(utterances, out / name, voices=voices, seed=seed, nj=args.nj, entities=entities)
    conditions = {"noise": ["pink", "babble"], "snr": (5.0, 15.0), "rt60": (0.1, 0.3), "suffix": "-noise"}
    perturb_data(out / "test_id", out / "test_noise", **conditions, seed=seed, nj=args.nj)
    sizes = ", ".join(f"{name} {len(found)}" for name, found in sorted(sets.items()))
    print(f"{out}: {sizes}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
