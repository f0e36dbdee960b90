"""Domains: each is a folder of local/domains, which says all about it.

NAME/card.yaml has the keys of `Card`. NAME/make.py, where there is one, has `make(places, count, rng)`, which returns a
`Domain`: places {need: path}, count: sentences wanted, rng: random.Random. Without it the card names a text and a test
set. As a command: the options of llmasr.sh that follow from the domains of which all corpora are given.
"""

import importlib.util
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from espnet_llmvq.base.config import from_mapping, read_yaml
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.data import importer
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.manifest import Faults, read_lines
from espnet_llmvq.data.normalise import basic, get_normaliser

HOME = Path(__file__).resolve().parent / "domains"
CARD, MAKE = "card.yaml", "make.py"


@dataclass(frozen=True)
class Card:
    """What a domain is.

    speech: of its test set; synthetic is marked as such wherever it is told. needs: variables of db.sh in small
    letters. normaliser: of its test set, "" for that of the run. slots: of the entities that count, all if empty; the
    others, and utterances without any that counts, are left out. Of a domain without make.py, from the folder of the
    card or absolute: text: a sentence a line; test: a data directory with entities; words: slot<TAB>term a line, the
    most useful ones first, "" for none.
    """

    speech: Literal["real", "synthetic"]
    needs: tuple[str, ...] = ()
    normaliser: str = ""
    slots: tuple[str, ...] = ()
    text: str = ""
    test: str = ""
    words: str = ""


@dataclass
class Domain:
    """What a domain is made of.

    sentences: different ones, as they are spoken, written as transcripts are. words: [(slot, term)] that belong to
    it, none of them taken from the test set; the most useful ones first. test: a `DataDir` with entities, or of
    synthetic speech what `spoken` says.
    """

    sentences: list
    words: list
    test: DataDir | None = None
    spoken: list = field(default_factory=list)  # [(utterance, text, entities)]


def names():
    """All domains that there are."""
    return sorted(path.parent.name for path in HOME.glob(f"*/{CARD}"))


def read_card(name):
    """The `Card` of a domain. Raises UserError for what cannot be."""
    path = HOME / check_name("domain", name, names()) / CARD
    card = from_mapping(Card, read_yaml(path), path)
    if card.normaliser:
        get_normaliser(card.normaliser)
    if not path.with_name(MAKE).is_file() and not (card.text and card.test):
        raise UserError(f"{path}: there is no {MAKE} beside it, so it must have `text` and `test`")
    return card


def cards_of(wanted, places):
    """({name: card} of the wanted domains whose needs are all in `places`, {name: needs that are not})."""
    cards, lacking = {}, {}
    for name in wanted:
        card = read_card(name)
        absent = [need for need in card.needs if not places[check_name(f"need of {name}", need, places)]]
        if absent:
            lacking[name] = absent
        else:
            cards[name] = card
    return cards, lacking


def make(name, card, places, count, seed=1):
    """The `Domain` of that name. Raises UserError for corpora and files that are not there or damaged."""
    folder, needed = HOME / name, {}
    for need in card.needs:
        needed[need] = Path(places[need])
        if not needed[need].exists():
            raise UserError(f"{need.upper()}={places[need]} does not exist; correct it, or leave it empty (db.sh)")
    rng = random.Random(f"{seed}-{name}")
    if not (folder / MAKE).is_file():
        return of_files(folder, card)
    spec = importlib.util.spec_from_file_location(f"domain_{name}", folder / MAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make(needed, count, rng)


def of_files(folder, card):
    """The `Domain` of a card that names files."""
    lines = dict.fromkeys(filter(None, map(basic, read_lines(folder / card.text))))
    data = importer.read_kaldi(folder / card.test)
    if "entities" not in data.extra:
        raise UserError(f"{folder / card.test}/entities: not found; a domain is scored by its entities")
    return Domain(list(lines), read_words(folder / card.words) if card.words else [], data)


def read_words(path):
    """[(slot, term)] of lines slot<TAB>term. Raises UserError with the line of what is none."""
    faults, found = Faults(), []
    for number, line in enumerate(read_lines(path), 1):
        slot, _, term = map(str.strip, line.partition("\t"))
        if slot and term and "\t" not in term:
            found.append((slot, basic(term)))
        else:
            faults.add(f"{path}:{number}", f"expected slot<TAB>term, found {line!r} (correct it)")
    faults.check()
    return found


def counted(entities, slots):
    """{utt: [(slot, value)]} of the entities that count; utterances without any are not in it."""
    kept = {utt: [item for item in items if not slots or item[0] in slots] for utt, items in entities.items()}
    return {utt: items for utt, items in kept.items() if items}


def main(argv):
    """Print the names of the domains that are there, the options of run.sh that follow from them, on a line each.

    argv: NEED=PATH ..., then names of domains.
    """
    places = dict(word.split("=", 1) for word in argv if "=" in word)
    cards, _ = cards_of([word for word in argv if "=" not in word], places)
    print(" ".join(cards))
    print(" ".join(f"test_{name}:ood" for name in cards))
    print(" ".join(f"test_{name}={card.normaliser}" for name, card in cards.items() if card.normaliser))


if __name__ == "__main__":
    from espnet_llmvq.cli.parser import run

    run(main, sys.argv[1:])
