#!/usr/bin/env python3
"""Prepare mini LibriSpeech as llmasr1 does, and for each domain text, a test set with entities, and its words.

train, valid, test_libri and others: see llmasr1. test_NAME: of a domain. text/domain.txt: sentences of all domains,
as many of each; domain_tts/text: others, to be spoken; domains/NAME/valid.txt: others, held out. prompt_words.txt:
words of the domains, of each as many, for a recogniser that is told of them. No sentence shares --words words in a row
with an utterance of any set, or holds all of a test utterance.
"""

import json
import random
from pathlib import Path

import domain
import mini

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_lines
from espnet_llmvq.cli.parser import Parser, positive, run
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.decontaminate import decontaminate, table
from espnet_llmvq.data.manifest import read_lines
from espnet_llmvq.data.normalise import basic, get_normaliser
from espnet_llmvq.data.subset import spread
from espnet_llmvq.data.synthesise import synthesise

NEEDS = {
    "s2i": "the coffee orders of speech-to-intent-benchmark",
    "alnum": "spelled names, numbers and addresses",
    "medquad": "answers of MedQuAD, a paragraph a line",
    "mts_dialog": "turns of MTS-Dialog, one a line",
}
# Of synthetic test sets: variants that speak in no training here, nor in that of llmasr1's CTC head.
TEST_VOICES = "en-us+Andrea en-us+max en-gb+linda en-gb+Michael en-gb-scotland+Annie en-029+ed".split()
# Sizes: of the recipe, of smoke runs, and what they are.
SIZES = {
    "lines": (6000, 60, "sentences of text/domain.txt, in equal parts of the domains"),
    "tts": (1500, 12, "sentences to be spoken, likewise"),
    "lm_valid": (100, 10, "sentences of each domain that are held out"),
}
SPARE = 1.15  # so many sentences are made for one that is wanted, as some are too close to a set
PROMPT_TOKENS = 224  # that Whisper reads of words it is told, of which MARKS may be marks
MARKS = 4


def get_parser():
    parser = Parser(prog="local/data.py", description=__doc__)
    parser.add_argument("--domains", nargs="+", default=domain.names(), metavar="NAME", help="folders of local/domains")
    parser.add_argument("--mini_librispeech", default="", help='as of llmasr1; "download": fetch it')
    parser.add_argument("--downloads", default="downloads", help="where to fetch it to")
    parser.add_argument("--url", default=mini.URL, help="where from: OpenSLR or a mirror of it")
    for name, what in NEEDS.items():
        parser.add_argument(f"--{name}", default="", help=f"{what}; empty: without the domains that need it")
    for name, (size, _, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=positive, default=size, help=what)
    parser.add_argument("--words", type=positive, default=7, help="in a row that a sentence may not share with a set")
    parser.add_argument("--test_utterances", type=positive, metavar="N", help="of test sets that have more; else all")
    parser.add_argument(
        "--whisper", type=Path, metavar="DIR", help="that prompt_words.txt is for; else counted in bytes"
    )
    parser.add_argument("--datadir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--seed", type=int, default=1, help="of draws")
    parser.add_argument("--smoke", default="false", choices=("true", "false"), help="true: few sentences, utterances")
    parser.add_argument("--nj", type=int, default=2, help="processes that speak")
    return parser


def read_domains(args):
    """{name: (Card, Domain)} of those whose corpora are given. Raises UserError where there is none."""
    places = {name: getattr(args, name) for name in NEEDS}
    cards, lacking = domain.cards_of(dict.fromkeys(args.domains), places)
    for name, needs in lacking.items():
        named = ", ".join(f"{need.upper()} ({NEEDS[need]})" for need in needs)
        print(f"{name}: left out, as {named} is not set; see db.sh")
    if not cards:
        raise UserError(f"none of the domains {' '.join(args.domains)} has its corpora; set CORPORA, or see db.sh")
    each = int(SPARE * (args.lines + args.tts) / len(cards)) + 2 * args.lm_valid
    return {name: (card, domain.make(name, card, places, each, args.seed)) for name, card in cards.items()}


def test_set(name, card, made, args):
    """Write the test set of a domain, of at most --test_utterances. Returns what all of it says, {utt: text}."""
    smoke = args.smoke == "true"
    most = mini.SMOKE_UTTERANCES if smoke else args.test_utterances
    out, entities = args.datadir / f"test_{name}", made.test.entities if made.test else {}
    if made.spoken:
        said = {utt: text for utt, text, _ in made.spoken}
        entities = {utt: items for utt, _, items in made.spoken}
    else:
        said = dict(made.test.text)
    kept = domain.counted(entities, card.slots)
    if not kept:
        raise UserError(f"test_{name}: no utterance has an entity{f' of {card.slots}' * bool(card.slots)}")
    chosen = sorted(kept, key=lambda utt: (len(said[utt].split()) if smoke else 0, utt))
    if most and len(chosen) > most:
        chosen = chosen[:most] if smoke else spread(chosen, most)
    if made.spoken:
        utterances = [(utt, said[utt]) for utt in chosen]
        of = {utt: kept[utt] for utt in chosen}
        synthesise(utterances, out, voices=TEST_VOICES, seed=args.seed, nj=args.nj, entities=of)
    else:
        data = made.test.subset(chosen)
        data.extra["entities"] = {utt: ["\t".join(f"{s}={v}" for s, v in kept[utt])] for utt in chosen}
        data.write(out)
    count, kind = sum(len(kept[utt]) for utt in chosen), f"{card.speech} speech"
    print(f"test_{name}: {len(chosen)} of {len(said)} utterances, {count} entities, {kind}")
    return said


def clear_of(sentences, said, normaliser):
    """The sentences that do not hold all of a test utterance, whatever is before and after it.

    Single words are not looked for: nobody could talk about coffee without "latte".
    """
    normalise = get_normaliser(normaliser or "basic")
    held = [f" {text} " for text in map(normalise, said) if len(text.split()) > 1]
    return [s for s in sentences if not any(h in padded for padded in [f" {normalise(s)} "] for h in held)]


def in_text(entities, sentences):
    """(entities whose words a sentence has, all entities) of {utt: [(slot, value)]}."""
    lines = [f" {sentence} " for sentence in sentences]
    values = [basic(value) for items in entities.values() for _, value in items]
    known = {value: any(f" {value} " in line for line in lines) for value in set(values)}
    return sum(known[value] for value in values), len(values)


def write_text(name, card, made, said, against, args, parts):
    """Write the texts of a domain. parts: {text: sentences wanted}. Returns {text: sentences}; they share none."""
    home = args.datadir / "domains" / name
    write_lines(home / "drawn.txt", made.sentences)
    print(table(home / "clear.txt", *decontaminate([home / "drawn.txt"], against, home / "clear.txt", args.words)))
    clear = clear_of(read_lines(home / "clear.txt"), said.values(), card.normaliser)
    wanted = sum(parts.values())
    if len(clear) < wanted:
        raise UserError(
            f"{name}: {len(clear)} sentences are left of {len(made.sentences)}, {wanted} are wanted; lower --lines or "
            "--tts"
        )
    random.Random(f"{args.seed}-{name}").shuffle(clear)
    found, at = {}, 0
    for part, size in parts.items():
        found[part], at = clear[at : at + size], at + size
    write_lines(home / "valid.txt", found["valid"])
    if made.words:
        write_lines(home / "words.tsv", [f"{slot}\t{word}" for slot, word in made.words])
    return found


def limits_of(whisper):
    """(tokens that a Whisper reads of a prompt, function: tokens of a text); without its directory bytes."""
    if not whisper:
        return PROMPT_TOKENS, len
    from tokenizers import Tokenizer

    try:
        most = json.loads((whisper / "config.json").read_text(encoding="utf-8"))["max_target_positions"] // 2
        encode = Tokenizer.from_file(str(whisper / "tokenizer.json")).encode
    except Exception as err:  # that of tokenizers has no class of its own
        raise UserError(f"--whisper {whisper}: config.json or tokenizer.json cannot be read: {err}") from None
    return most, lambda text: len(encode(text, add_special_tokens=False).ids)


def prompt_words(lists, most, size):
    """Words in turns of the lists, as many as a recogniser reads. most, size: as `limits_of`."""
    turns = [word for i in range(max(map(len, lists), default=0)) for words in lists for word in words[i : i + 1]]
    chosen = []
    for word in dict.fromkeys(turns):
        if size(" " + ", ".join([*chosen, word])) > most - MARKS:
            break
        chosen.append(word)
    return chosen


def plain_words(made):
    """The words of a domain without those that draw from others."""
    return [word for _, word in made.words if "{" not in word]


def main(argv=None):
    args = get_parser().parse_args(argv)
    # Of llmasr1: its LLM has read more than the transcripts, and is taken as it is; nothing is chosen here.
    args.lm_text, args.dev_utterances = [], None
    if args.smoke == "true":
        vars(args).update({name: size for name, (_, size, _) in SIZES.items()})
    limits = limits_of(args.whisper)
    found = read_domains(args)  # before anything is written or fetched
    books = mini.read_mini(mini.find_mini(args))
    against = mini.write_said(args, books)
    mini.write_sets(args, books)
    mini.write_texts(args, books, against)
    said = {name: test_set(name, card, made, args) for name, (card, made) in found.items()}
    for name, texts in said.items():
        against.append(args.datadir / "lm" / "said" / f"test_{name}")
        write_lines(against[-1], (f"{utt} {texts[utt]}" for utt in sorted(texts)))
    parts = {"valid": args.lm_valid, "text": -(-args.lines // len(found)), "tts": -(-args.tts // len(found))}
    texts = {
        name: write_text(name, card, made, said[name], against, args, parts) for name, (card, made) in found.items()
    }
    for name, of_domain in texts.items():
        known, count = in_text(DataDir.load(args.datadir / f"test_{name}").entities, of_domain["text"])
        print(f"{name}: its text has {known} of the {count} entities of test_{name}")
    lines = [line for of_domain in texts.values() for line in of_domain["text"]]
    random.Random(args.seed).shuffle(lines)
    write_lines(args.datadir / "text" / "domain.txt", lines)
    spoken = [f"{name}-{i:05d} {line}" for name in sorted(texts) for i, line in enumerate(texts[name]["tts"])]
    write_lines(args.datadir / "domain_tts" / "text", spoken)
    words = prompt_words([plain_words(made) for _, made in found.values()], *limits)
    write_lines(args.datadir / "prompt_words.txt", words)
    print(f"text/domain.txt: {len(lines)} sentences; domain_tts/text: {len(spoken)}; prompt_words.txt: {len(words)}")


if __name__ == "__main__":
    run(main)
