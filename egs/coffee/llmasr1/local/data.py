#!/usr/bin/env python3
"""Prepare real speech of other domains for training, coffee orders for testing, and written text about ordering coffee.

train, valid: AN4, speechocean762 and the voice Kathleen; valid has other speakers than train. test_an4, test_so762: the
test parts of the first two. test_coffee: the orders, with entities. lm/, text/domain.txt, domain_tts/text: texts. All
in lower case without punctuation. No sentence about coffee is one of test_coffee, or orders what one of them orders.
"""

import json
import random
from pathlib import Path

import an4  # local/an4.py, local/data.py of that recipe
import numpy as np
import orders

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_lines
from espnet_llmvq.cli.parser import Parser, run
from espnet_llmvq.data import importer
from espnet_llmvq.data.manifest import read_lines
from espnet_llmvq.data.tables import parse_entities, read_scp

PLACES = {
    "an4": "AN4, https://github.com/cmusphinx/an4",
    "so762": "speechocean762, https://www.openslr.org/101",
    "kathleen": "the voice Kathleen, https://github.com/rhasspy/dataset-voice-kathleen",
    "s2i": "the coffee orders, https://github.com/Picovoice/speech-to-intent-benchmark",
}
# Lines of texts: of the recipe, of smoke runs, and what they are.
SIZES = {
    "lm_spelled": (4000, 50, "LM lines of AN4's grammar"),
    "lm_domain": (6000, 150, "LM lines about coffee"),
    "lm_text": (20000, 150, "LM lines of --text, at most"),
    "lm_valid": (200, 20, "lines of lm/valid_domain.txt"),
    "domain": (1500, 12, "lines of text/domain.txt and of domain_tts/text"),
}


def check_places(places):
    """Raise UserError that names each corpus that is not there, with the variable to set."""
    lines = [
        f"{name.upper()}={path} is no directory; set {name.upper()} to {PLACES[name]}"
        for name, path in places.items()
        if not Path(path).is_dir()
    ]
    if lines:
        raise UserError("\n  ".join(["corpora are missing (see db.sh; CORPORA sets all of them):", *lines]))


def read_kathleen(root):
    """Read ``root/all``, or the corpus in any form that importer.read knows; a sorted list."""
    root = Path(root)
    if (root / "all" / "wav.scp").is_file():
        return an4.read_kaldi_parts(root, ["all"], "kathleen")
    _, data = importer.read(root)
    return sorted(
        an4.Utterance(f"kathleen-{utt}", "kathleen", data.wav_scp[utt], data.text[utt].split()) for utt in data.utts
    )


def read_so762(root, share, rng):
    """Read speechocean762 -> (train, valid, test): valid is its dev part, or `share` of the speakers of train."""
    root = Path(root)
    train, test = (an4.read_kaldi_parts(root, [part], "so762") for part in ("train", "test"))
    if (root / "dev" / "wav.scp").is_file():
        return train, an4.read_kaldi_parts(root, ["dev"], "so762"), test
    speakers = sorted({u.spk for u in train})
    held = set(rng.permutation(speakers)[: max(1, round(share * len(speakers)))])
    return [u for u in train if u.spk not in held], [u for u in train if u.spk in held], test


def read_orders(root):
    """Read the coffee orders -> (sorted utterances, {utt: [(slot, value)]}), values as this recipe writes them.

    ``root/test`` with entities, or the public layout, whose labels hold slots and no transcripts: there an order is put
    together from them in one order of words.
    """
    root = Path(root)
    if (root / "test" / "wav.scp").is_file():
        found = an4.read_kaldi_parts(root, ["test"], "s2i")
        entities = parse_entities(read_scp(root / "test" / "entities"))
        for u in found:
            if u.utt not in entities:
                raise UserError(f"{root / 'test' / 'entities'}: no line for {u.utt}")
        return found, {u.utt: [(slot, orders.plain(value)) for slot, value in entities[u.utt]] for u in found}
    labels, found, entities = root / "data" / "label" / "label.json", [], {}
    try:
        table = json.loads(labels.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise UserError(f"S2I={root}: neither test/wav.scp nor a readable data/label/label.json: {err}") from None
    for name, label in sorted(table.items()):
        wav = (root / "data" / "speech" / "clean" / name).absolute()
        if not wav.is_file():
            raise UserError(f"{labels}: {wav} is missing; fetch the corpus again")
        utt, slots = (f"s2i-{wav.stem}", {slot: orders.plain(value) for slot, value in label["slots"].items()})
        with_what = [slots[slot] for slot in ("milkAmount", "sugarAmount") if slot in slots]
        said = [slots.get(slot, "") for slot in ("size", "numberOfShots", "roast", "coffeeDrink")]
        said += [f"with {' and '.join(with_what)}"] if with_what else []
        found.append(an4.Utterance(utt, utt, str(wav), " ".join(said).split()))
        entities[utt] = sorted(slots.items())
    return found, entities


def lower(utterances):
    """The utterances with their words as this recipe writes them."""
    return [u._replace(words=orders.plain(" ".join(u.words)).split()) for u in utterances]


def more_text(path, n, held_out):
    """`n` sentences spread over a file, as written here: those of letters alone that are not in `held_out`."""
    lines = dict.fromkeys(filter(None, map(orders.plain, read_lines(path))))
    letters = set("abcdefghijklmnopqrstuvwxyz' ")
    return an4.thin([line for line in lines if line not in held_out and letters.issuperset(line)], n)


def get_parser():
    parser = Parser(prog="local/data.py", description=__doc__)
    for name, place in PLACES.items():
        parser.add_argument(f"--{name}", required=True, help=place)
    parser.add_argument("--text", default="", help="more English for the language model, a sentence a line")
    parser.add_argument("--datadir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--valid_share", type=float, default=0.08, help="of speakers, held out of train")
    for name, (lines, _, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=lines, help=what)
    parser.add_argument("--smoke", default="false", choices=("true", "false"), help="true: few lines")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--nj", type=int, default=2, help="as the stage script gives it; nothing here takes long")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if args.smoke == "true":
        vars(args).update({name: lines for name, (_, lines, _) in SIZES.items()})
    check_places({name: getattr(args, name) for name in PLACES})
    out = args.datadir
    rng_an4, rng_so762, rng_spelled = (np.random.default_rng([args.seed, i]) for i in range(3))

    an4_all, an4_test = an4.read_an4(args.an4, "train"), an4.read_an4(args.an4, "test")
    an4_train, an4_valid = an4.hold_out_speakers(an4_all, args.valid_share, rng_an4)
    so762_train, so762_valid, so762_test = read_so762(args.so762, args.valid_share, rng_so762)
    coffee, entities = read_orders(args.s2i)
    sets = {
        "train": sorted(an4_train + so762_train + read_kathleen(args.kathleen)),
        "valid": sorted(an4_valid + so762_valid),
        "test_an4": an4_test,
        "test_so762": so762_test,
        "test_coffee": coffee,
    }
    sets = {name: lower(utterances) for name, utterances in sets.items()}
    vocabulary = {word for u in sets["train"] for word in u.words}
    for name, utterances in sets.items():
        data = an4.data_dir(utterances)
        if name == "test_coffee":
            pairs = {utt: [f"{slot}={value}" for slot, value in entities[utt]] for utt in data.text}
            data.extra["entities"] = {utt: ["\t".join(items)] for utt, items in pairs.items()}
        data.write(out / name)
        an4.report(name, utterances, vocabulary)

    drawer = orders.Orders({u.utt: (" ".join(u.words), [v for _, v in entities[u.utt]]) for u in sets["test_coffee"]})
    rngs = {name: random.Random(f"{args.seed}-{name}") for name in ("valid", "lm", "text", "tts")}
    valid_domain = drawer.sentences(args.lm_valid, rngs["valid"])
    held_out = set(valid_domain)
    transcripts = [" ".join(u.words) for u in sets["train"]]
    known = len(an4_train)
    spelled = an4.lm_lines(an4_train, an4_test, known + args.lm_spelled, rng_spelled)[known:]
    lm = transcripts + [orders.plain(line) for line in spelled]
    lm += drawer.sentences(args.lm_domain, rngs["lm"], held_out)
    if args.text:
        tested = {" ".join(u.words) for name, found in sets.items() if name != "train" for u in found}
        lm += more_text(args.text, args.lm_text, tested | held_out)
    spoken = drawer.sentences(args.domain, rngs["tts"], held_out)
    write_lines(out / "lm" / "train.txt", lm)
    write_lines(out / "lm" / "tokenizer.txt", transcripts)
    write_lines(out / "lm" / "valid.txt", [" ".join(u.words) for u in sets["valid"]])
    write_lines(out / "lm" / "valid_domain.txt", valid_domain)
    write_lines(out / "text" / "domain.txt", drawer.sentences(args.domain, rngs["text"], held_out))
    write_lines(out / "domain_tts" / "text", [f"domain_tts-{i:05d} {line}" for i, line in enumerate(spoken, 1)])
    print(f"lm: {len(lm)} lines, {len(transcripts)} of them transcripts; domain: {args.domain} lines, as many to speak")


if __name__ == "__main__":
    run(main)
