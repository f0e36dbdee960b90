#!/usr/bin/env python3
"""Prepare mini LibriSpeech, split by speakers, further test sets of the corpora that are given, and text.

train, valid, test_libri: parts of train-clean-5, with speakers of their own. Texts are in lower case, and else as the
corpora have them. test_alnum: prompts, which are no transcripts, and their parts as entities. dev_*: utterances of
these corpora that are in no test set, to choose by. lm/train.txt: the transcripts of train and, written like them, the
lines of --lm_text that share no words in a row with any of the sets; lm/general.txt: some of these. tts_text: sentences
of --tts_from to be spoken, likewise.
"""

import random
import re
from pathlib import Path

import an4  # local/data.py of that recipe
import coffee  # likewise
import commonvoice
import download
import librispeech

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_lines
from espnet_llmvq.cli.parser import Parser, positive, run
from espnet_llmvq.data import importer
from espnet_llmvq.data.decontaminate import decontaminate, table
from espnet_llmvq.data.lhotse import find_audio
from espnet_llmvq.data.manifest import Faults, Item, read_lines
from espnet_llmvq.data.normalise import basic
from espnet_llmvq.data.subset import spread
from espnet_llmvq.data.tables import read_scp

# Speakers of train-clean-5; all others are for training.
SPEAKERS = {"test_libri": "118 226 1970 3242 4640 7859".split(), "valid": "669 1867 3664 5789".split()}
URL = "https://www.openslr.org/resources/31"
SMOKE_LINES = 300  # of each text
# Of each test set and of valid, the shortest: an LLM that has learned nothing writes to its limit.
SMOKE_UTTERANCES, SMOKE_VALID = 3, 4
SMOKE_SENTENCES = 8  # to be spoken
SHORT, LONG = 8000, 16000  # lines of general text of 4 to 9 words, and of 10 to 40

# {option: (set, what it is)}, in the order of `READERS`
CORPORA = {
    "commonvoice": ("test_commonvoice", "Common Voice, English"),
    "an4": ("test_an4", "AN4"),
    "s2i": ("test_coffee", "the coffee orders of speech-to-intent-benchmark"),
    "arctic": ("test_arctic", "a voice reading Arctic prompts"),
    "alnum": ("test_alnum", "spelled names, numbers and addresses"),
    "so762": ("test_so762", "speechocean762"),
    "fsdd": ("test_digits", "Free Spoken Digits"),
}

# Of the corpora that have enough for both. Also of what the recipe's own number of test utterances leaves, so that
# who tests on fewer chooses on none that others test on.
TEST_UTTERANCES = 150
DEV = {"test_coffee": "dev_coffee", "test_arctic": "dev_arctic", "test_so762": "dev_so762"}


def lower(data):
    """A DataDir with its texts in lower case."""
    data.text = {utt: text.lower() for utt, text in data.text.items()}
    return data


def read_mini(root):
    """{set: DataDir} of mini LibriSpeech. Raises UserError for what is missing or damaged."""
    faults, items, lies_in = Faults(), {}, {}
    for part, whole in librispeech.MINI_PARTS.items():
        if part == "train-clean-5" or (librispeech.home(root) / part).is_dir():
            items[part] = librispeech.read(root, part, faults)
            lies_in.update(dict.fromkeys((item.speaker for item in items[part]), whole))
    genders = librispeech.read_genders(root, lies_in, faults)
    faults.check()
    found = {part: importer.to_data_dir(of_part, faults) for part, of_part in items.items()}
    faults.check()
    whole = found.pop("train-clean-5")
    for speaker in sum(SPEAKERS.values(), []):
        if speaker not in whole.spk2utt:
            raise UserError(f"{root}: train-clean-5 has no speaker {speaker}; unpack train-clean-5.tar.gz again")
    held = {speaker: name for name, speakers in SPEAKERS.items() for speaker in speakers}
    names = ["train", *SPEAKERS]
    utts = {name: [u for u, spk in whole.utt2spk.items() if held.get(spk, "train") == name] for name in names}
    if not utts["train"]:
        raise UserError(f"{root}: train-clean-5 has no speakers but those held out; unpack train-clean-5.tar.gz again")
    sets = {name: whole.subset(utts[name]) for name in names}
    sets |= {part.replace("-", "_"): data for part, data in found.items()}
    for data in sets.values():
        if genders:
            data.extra["spk2gender"] = {speaker: [genders[speaker]] for speaker in data.spk2utt}
    return {name: lower(data) for name, data in sets.items()}


def read_commonvoice(root):
    """Common Voice: ``root/test``, or the public layout."""
    if (root / "test" / "wav.scp").is_file():
        return importer.read_kaldi(root / "test")
    faults = Faults()
    data = importer.to_data_dir(commonvoice.read(root, "test", faults), faults)
    faults.check()
    return data


def read_s2i(root):
    """The coffee orders with their entities, as that recipe has them."""
    found, entities = coffee.read_orders(root)
    data = an4.data_dir(coffee.lower(found))
    data.extra["entities"] = {
        utt: ["\t".join(f"{slot}={value}" for slot, value in items)] for utt, items in entities.items() if items
    }
    return data


def parts_of(prompt):
    """(slot, value) pairs of a prompt: a number of digits, the street and the unit of an address, or names."""
    if prompt.isdecimal():
        return (("number", prompt),)
    if address := re.fullmatch(r"(\d+ .*\D) (\d+)", prompt):
        return ("street", address[1]), ("unit", address[2])
    return tuple(("name", name) for name in prompt.split())


def read_alnum(root):
    """Prompts of names, numbers and addresses: ``root/test`` with `prompt` in the place of `text`."""
    home, faults = root / "test", Faults()
    prompts, wavs, speakers = (read_scp(home / name) for name in ("prompt", "wav.scp", "utt2spk"))
    items = []
    for utt, prompt in prompts.items():
        if utt not in wavs or utt not in speakers:
            faults.add(home / "prompt", f"{utt}: not in {'utt2spk' if utt in wavs else 'wav.scp'} (complete it)")
            continue
        text = prompt.lower()
        audio = find_audio(wavs[utt], home)
        items.append(Item(home / "prompt", audio, text, utt, utt, speakers[utt], parts_of(text)))
    faults.check()
    data = importer.to_data_dir(items, faults)
    faults.check()
    return data


READERS = {
    "commonvoice": read_commonvoice,
    "an4": lambda root: an4.data_dir(an4.read_an4(root, "test")),
    "s2i": read_s2i,
    "arctic": lambda root: an4.data_dir(coffee.read_kathleen(root)),
    "alnum": read_alnum,
    "so762": lambda root: an4.data_dir(an4.read_kaldi_parts(root, ["test"], "so762")),
    "fsdd": lambda root: an4.data_dir(an4.read_fsdd(root)),
}


def get_parser():
    parser = Parser(prog="local/data.py", description=__doc__)
    parser.add_argument(
        "--mini_librispeech", default="", help='the folder LibriSpeech, or the one it is in; "download": fetch it'
    )
    parser.add_argument("--downloads", default="downloads", help="where to fetch it to")
    parser.add_argument("--url", default=URL, help="where from: OpenSLR or a mirror of it")
    for name, (test_set, what) in CORPORA.items():
        parser.add_argument(f"--{name}", default="", help=f"{what}; empty: no {test_set}")
    parser.add_argument("--lm_text", nargs="*", default=[], metavar="FILE", help="text, a sentence or paragraph a line")
    parser.add_argument("--tts_from", nargs="*", default=[], metavar="FILE", help="text of which sentences are spoken")
    parser.add_argument("--tts", type=positive, default=3500, help="how many")
    parser.add_argument("--words", type=positive, default=7, help="in a row that a line may not share with a set")
    parser.add_argument(
        "--test_utterances", type=positive, metavar="N", help="of test sets that have more, N, evenly spread; else all"
    )
    parser.add_argument("--dev_utterances", type=positive, metavar="N", help="N more of some of them, as dev_*")
    parser.add_argument("--datadir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--smoke", default="false", choices=("true", "false"), help="true: little text, few utterances")
    parser.add_argument("--nj", type=int, default=2, help="as the stage script gives it; nothing here takes long")
    return parser


def find_mini(args):
    """The folder of mini LibriSpeech, fetched if asked for."""
    if not args.mini_librispeech:
        raise UserError(
            "MINI_LIBRISPEECH is not set: write into db.sh where it is, or MINI_LIBRISPEECH=download (460 MB)"
        )
    if args.mini_librispeech != "download":
        return Path(args.mini_librispeech)
    for part in librispeech.MINI_PARTS:
        download.download(part, args.downloads, args.url)
    return Path(args.downloads)


def write_said(args, sets):
    """Write what the sets say, tested on or not, for text to be cleared of it. Returns the files, named as the sets."""
    home = args.datadir / "lm" / "said"
    for name, data in sets.items():
        write_lines(home / name, (f"{utt} {data.text[utt]}" for utt in data.utts))
    return [home / name for name in sets]


def take(data, utts, most, smoke):
    """`most` of the utterances of a DataDir: evenly spread or, for a smoke run, those of fewest words."""
    chosen = sorted(utts, key=lambda utt: len(data.text[utt].split()))[:most] if smoke else spread(utts, most)
    return data.subset(chosen)


def write_sets(args, sets):
    """Write the sets, of test sets so many utterances as are asked for, and of what they leave the development sets."""
    smoke, most, dev = args.smoke == "true", args.test_utterances, args.dev_utterances
    if smoke:
        most, dev = SMOKE_UTTERANCES, dev and SMOKE_UTTERANCES
        sets["valid"] = take(sets["valid"], sets["valid"].utts, SMOKE_VALID, smoke)
    for name in [name for name in sets if name not in ("train", "valid")]:
        whole = sets[name]
        if most and len(whole.utts) > most:
            sets[name] = take(whole, whole.utts, most, smoke)
        if dev and name in DEV:
            tested = {
                *sets[name].utts,
                *(() if smoke else spread(whole.utts, min(TEST_UTTERANCES, len(whole.utts) // 2))),
            }
            rest = [utt for utt in whole.utts if utt not in tested]
            if len(rest) < dev:
                raise UserError(
                    f"DEV_UTTERANCES={dev}: {DEV[name]} would need as many, {name} leaves {len(rest)} of"
                    f" {len(whole.utts)}; ask for fewer, or set TEST_UTTERANCES lower"
                )
            sets[DEV[name]] = take(whole, rest, dev, smoke)
    for name, data in sets.items():
        written = data.write(args.datadir / name)
        words = sum(len(text.split()) for text in data.text.values())
        state = "" if written else ", as before"
        print(f"{name}: {len(data.text)} utterances, {len(data.spk2utt)} speakers, {words} words{state}")


def write_texts(args, sets, said):
    """Write lm/train.txt and lm/valid.txt of the sets' transcripts and --lm_text."""
    home, most = args.datadir / "lm", SMOKE_LINES if args.smoke == "true" else None
    spoken, valid = ([sets[name].text[utt] for utt in sets[name].utts] for name in ("train", "valid"))
    written = []
    if args.lm_text:
        clear = home / "text.txt"
        print(table(clear, *decontaminate(args.lm_text, said, clear, args.words)))
        written = read_lines(clear)
    if most:
        spoken, written, valid = (an4.thin(lines, most) for lines in (spoken, written, valid))
    written = [line for line in map(basic, written) if line]
    write_lines(home / "train.txt", spoken + written)
    write_lines(home / "valid.txt", valid)
    if written:
        write_lines(home / "general.txt", general(written))
    print(f"lm: {len(spoken) + len(written)} lines, {len(spoken)} of them transcripts; {len(valid)} held out")


def general(lines):
    """Lines of general text to be read as if heard: without digits, a third of them short, in any order."""
    lines, drawn = sorted({line for line in lines if not re.search(r"\d", line)}), random.Random(1)
    kinds = (SHORT, range(4, 10)), (LONG, range(10, 41))
    found = []
    for most, words in kinds:
        fitting = [line for line in lines if len(line.split()) in words]
        found += drawn.sample(fitting, min(most, len(fitting)))
    drawn.shuffle(found)
    return found


def sentences(lines):
    """Sentences of 8 to 30 words without digits, of lines of running text, as transcripts are written."""
    parts = (basic(part) for line in lines for part in re.split(r"(?<=[.!?;]) ", line))
    return [part for part in parts if 8 <= len(part.split()) <= 30 and not re.search(r"\d", part)]


def write_tts_text(args, said):
    """Write the Kaldi text tts_text: sentences of --tts_from for stage 2 to speak, none that the sets have."""
    clear = args.datadir / "tts.txt"
    print(table(clear, *decontaminate(args.tts_from, said, clear, args.words)))
    found = sentences(read_lines(clear))
    wanted = SMOKE_SENTENCES if args.smoke == "true" else args.tts
    if len(found) < wanted:
        raise UserError(f"{clear} has {len(found)} sentences to speak, --tts asks for {wanted}")
    drawn = random.Random(1).sample(found, wanted)
    write_lines(args.datadir / "tts_text", (f"tts{i:05d} {sentence}" for i, sentence in enumerate(drawn)))
    print(f"tts_text: {wanted} sentences, {sum(len(s.split()) for s in drawn)} words")


def main(argv=None):
    args = get_parser().parse_args(argv)
    further = {}
    # Before mini LibriSpeech, which may have to be fetched.
    for name, (test_set, what) in CORPORA.items():
        if root := getattr(args, name):
            if not Path(root).is_dir():
                raise UserError(f"{name.upper()}={root} is no directory; set it to {what} (db.sh), or leave it empty")
            further[test_set] = lower(READERS[name](Path(root)))
        else:
            print(f"{test_set}: left out, as {name.upper()} is not set ({what}; see db.sh)")
    sets = read_mini(find_mini(args)) | further
    said = write_said(args, sets)
    write_sets(args, sets)
    write_texts(args, sets, said)
    if args.tts_from:
        write_tts_text(args, said)


if __name__ == "__main__":
    run(main)
