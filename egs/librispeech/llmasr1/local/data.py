#!/usr/bin/env python3
"""Prepare LibriSpeech and the further test sets whose corpora are given: Kaldi data directories.

All corpora are read, and all faults of one told, before anything is written.
"""

import importlib
from pathlib import Path

import download
import librispeech
from layout import end_with_recording

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.cli.parser import Parser, run
from espnet_llmvq.data import importer
from espnet_llmvq.data.manifest import Faults

# The corpora beside LibriSpeech, by the name of the reader in local/, of the option, and in capitals of the variable in
# db.sh. The first of a reader's PARTS is the test set.
CORPORA = {
    "commonvoice": "Common Voice 17, English",
    "tedlium3": "TED-LIUM 3",
    "voxpopuli": "VoxPopuli, English",
    "gigaspeech": "GigaSpeech",
    "ami": "AMI, headsets",
    "earnings22": "Earnings-22",
    "spgispeech": "SPGISpeech",
}
LIBRISPEECH_SETS = {"valid": ["dev-clean"], "test_clean": ["test-clean"], "test_other": ["test-other"]}


def reader(name):
    """The module that reads a corpus."""
    return importlib.import_module(name)


def prepare(read, root, part, nj):
    """DataDir of a part. Raises UserError that lists the first faults, with file and line."""
    faults = Faults()
    items = end_with_recording(read(root, part, faults), faults, nj)
    data = importer.to_data_dir(items, faults)
    faults.check()
    if not data.text:
        raise UserError(f"{root}: no utterance of {part}")
    return data


def prepare_librispeech(root, parts, case, nj):
    """DataDir of parts together, with spk2gender; case: `lower`, or `keep` for the capitals of the corpus."""

    def read(root, parts, faults):
        items, lies_in = [], {}
        for part in parts:
            found = librispeech.read(root, part, faults)
            lies_in.update(dict.fromkeys((item.speaker for item in found), part))
            items += found
        genders.update(librispeech.read_genders(root, lies_in, faults))
        return items

    genders = {}
    data = prepare(read, root, parts, nj)
    if case == "lower":
        data.text = {utt: text.lower() for utt, text in data.text.items()}
    if genders:
        data.extra["spk2gender"] = {speaker: [gender] for speaker, gender in genders.items()}
    return data


def parse_more(pairs):
    """[(corpus, part)] of "CORPUS:PART" words. Raises UserError for unknown ones."""
    found = []
    for pair in pairs:
        name, _, part = pair.partition(":")
        check_name("corpus in --more", name, CORPORA)
        found.append((name, check_name(f"part of {name} in --more", part, reader(name).PARTS)))
    return found


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--librispeech", default="", help='the folder LibriSpeech, or the one it is in; "download": fetch it'
    )
    parser.add_argument("--downloads", default="downloads", help="where to fetch it to")
    parser.add_argument("--url", default=download.URL, help="where from: OpenSLR or a mirror of it")
    parts = librispeech.TRAIN_PARTS
    parser.add_argument(
        "--train_parts", nargs="+", default=parts, metavar="PART", help=f"of {', '.join(parts)}: the set train"
    )
    parser.add_argument("--text_case", choices=("lower", "keep"), default="lower", help="of LibriSpeech's transcripts")
    for name, full in CORPORA.items():
        parser.add_argument(f"--{name}", default="", help=f"{full}; empty: no test_{name}")
    parser.add_argument(
        "--more", nargs="*", default=[], metavar="CORPUS:PART", help="further parts, written as CORPUS_PART"
    )
    parser.add_argument("--datadir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--nj", type=int, default=2, help="threads that look into recordings")
    return parser


def find_librispeech(args):
    """The folder that holds the parts, fetched if asked for."""
    if args.librispeech != "download":
        return Path(args.librispeech)
    for part in (*sum(LIBRISPEECH_SETS.values(), []), *args.train_parts):
        download.download(part, args.downloads, args.url)
    return Path(args.downloads) / "LibriSpeech"


def main(argv=None):
    args = get_parser().parse_args(argv)
    if not args.librispeech:
        raise UserError("LIBRISPEECH is not set: write into db.sh where it is, or LIBRISPEECH=download (60 GB)")
    for part in args.train_parts:
        check_name("part in --train_parts", part, librispeech.TRAIN_PARTS)
    roots = {name: Path(getattr(args, name)) for name in CORPORA if getattr(args, name)}
    wanted = {f"test_{name}": (name, reader(name).PARTS[0]) for name in CORPORA}
    for name, part in parse_more(args.more):
        if name not in roots:
            raise UserError(f"--more {name}:{part}: {name.upper()} is not set (see db.sh)")
        wanted[f"{name}_{part}"] = name, part

    # Before LibriSpeech, which may have to be fetched.
    further = {}
    for name, (corpus, part) in wanted.items():
        if corpus in roots:
            further[name] = prepare(reader(corpus).read, roots[corpus], part, args.nj)
        else:
            print(f"{name}: left out, as {corpus.upper()} is not set ({CORPORA[corpus]}; see db.sh)")
    home, sets = find_librispeech(args), {}
    for name, parts in {"train": args.train_parts, **LIBRISPEECH_SETS}.items():
        sets[name] = prepare_librispeech(home, parts, args.text_case, args.nj)
    sets |= further
    for name, data in sets.items():
        written = data.write(args.datadir / name)
        words = sum(len(text.split()) for text in data.text.values())
        state = "" if written else ", as before"
        print(f"{name}: {len(data.text)} utterances, {len(data.spk2utt)} speakers, {words} words{state}")


if __name__ == "__main__":
    run(main)
