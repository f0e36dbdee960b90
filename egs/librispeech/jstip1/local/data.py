#!/usr/bin/env python3
"""Prepare what JSTIP needs from public corpora: cased and punctuated speech, domain text, domain test sets, questions.

What is left out, and why, is listed in DATADIR/left_out/. Corpora whose path is empty are left out as a whole.
"""

import collections
import functools
import json
import os
from pathlib import Path

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import write_lines
from espnet_llmvq.base.made import Made, files_digest
from espnet_llmvq.cli.parser import Parser, run
from espnet_llmvq.data.datadir import DataDir

TEST_PARTS = {"test_clean": "test-clean", "test_other": "test-other"}
SMOKE = {
    "pubmed_documents": 200, "tts_sentences": 12, "questions": 12, "lm_sentences": 400, "held_out_share": 0.2,
    "tts_share": 0.2,
}  # fmt: skip
SMOKE_MOST = 60  # utterances of a part of LibriSpeech
SHOTS = 5  # examples at the top of questions/mmlu.jsonl ([2607.01733])


def get_parser():
    parser = Parser(prog="local/data.py", description=__doc__)
    parser.add_argument("--librispeech", default="", help="LibriSpeech (OpenSLR 12); needed")
    parser.add_argument("--librispeech_pc", default="", help="manifests of LibriSpeech-PC (OpenSLR 145)")
    parser.add_argument("--librispeech_books", default="", help="original-books.tar.gz of LibriSpeech, unpacked")
    parser.add_argument("--pubmed", default="", help="baseline files of PubMed")
    parser.add_argument("--primock57", default="", help="clone of PriMock57")
    parser.add_argument("--primock57_entities", default="", help="its entities: a list or a tagger's output")
    parser.add_argument("--minds14", default="", help="MInDS-14 unpacked, or a manifest")
    parser.add_argument("--minds14_entities", default="", help="its entities: a list or a tagger's output")
    parser.add_argument("--mmlu", default="", help="MMLU: tables by subject, or JSON lines")
    parser.add_argument("--sqa", default="", help="spoken questions: OpenAudioBench, or JSON lines")
    parser.add_argument("--datadir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--train_parts", default="", help="parts of LibriSpeech; empty: all three that are there")
    parser.add_argument("--valid_parts", default="dev-clean", help="parts of LibriSpeech")
    parser.add_argument("--pc_text", choices=("text", "text_raw"), default="text", help="which text of LibriSpeech-PC")
    parser.add_argument("--minds14_locales", default="en-US en-GB en-AU", help="locales of MInDS-14")
    parser.add_argument("--pubmed_documents", type=int, default=400000, help="abstracts of text/pubmed.txt")
    parser.add_argument("--pubmed_words", type=int, nargs=2, default=(30, 600), help="least and most of an abstract")
    parser.add_argument("--held_out_share", type=float, default=0.002, help="of abstracts, for lm/valid_domain.txt")
    parser.add_argument("--tts_share", type=float, default=0.05, help="of abstracts, for domain_tts/text")
    parser.add_argument("--tts_sentences", type=int, default=50000, help="most sentences of domain_tts/text")
    parser.add_argument("--lm_sentences", type=int, default=200000, help="most sentences of PubMed in lm/train.txt")
    parser.add_argument("--questions", type=int, default=0, help="most questions of a file, evenly drawn; 0: all")
    parser.add_argument("--question_words", type=int, default=80, help="longer questions are left out")
    parser.add_argument("--tts_command", default="", help="speaks questions without audio; empty: espeak-ng")
    parser.add_argument("--tts_voices", default="en-us", help="voices for them")
    parser.add_argument("--smoke", choices=("true", "false"), default="false", help="a handful of everything")
    parser.add_argument("--seed", type=int, default=1, help="of draws")
    return parser


def made_of(args):
    """Record of data/: the options, the programs, and the files and folders that options name, by size and time."""
    options = {key: value for key, value in vars(args).items() if key not in ("datadir", "nj")}
    named = [value for value in options.values() if isinstance(value, str) and value and os.path.exists(value)]
    programs = sorted(Path(__file__).resolve().parent.glob("*.py"))
    return Made(args.datadir, {path.name: path for path in programs}, **options, corpora=files_digest(named))


class Preparation:
    """Prepares one corpus after the other; args: parsed options. made: the files that were written."""

    def __init__(self, args):
        self.args, self.out, self.made = args, args.datadir, []

    def write(self, name, lines):
        """Write a text file below the data directory."""
        write_lines(self.out / name, lines)
        self.made.append(name)

    def write_set(self, name, data):
        """Write a DataDir below the data directory."""
        data.write(self.out / name)
        self.made.append(f"{name}/wav.scp")

    def left_out(self, name, reasons, total):
        """List what is left out of a set, and say how much it is."""
        path = self.out / "left_out" / f"{name}.tsv"
        self.write(f"left_out/{name}.tsv", [f"{utt}\t{reasons[utt]}" for utt in sorted(reasons)])
        kinds = collections.Counter(reason.split(":")[0] for reason in reasons.values())
        most = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(3))
        if len(reasons) == total:
            raise UserError(f"{name}: nothing is left of {total}; {path} has the reasons")
        share = 100 * (total - len(reasons)) / total
        told = f"; left out, see {path}: {most}" if reasons else ""
        print(f"{name}: {total - len(reasons)} of {total} ({share:.1f} %){told}")

    def librispeech(self):
        """train, valid, test_clean, test_other -> {set: [texts]}"""
        import books  # local/books.py
        import librispeech  # local/librispeech.py, that of llmasr1
        import librispeech_pc  # local/librispeech_pc.py

        from espnet_llmvq.data.importer import to_data_dir
        from espnet_llmvq.data.manifest import Faults

        a = self.args
        if not a.librispeech:
            raise UserError("LIBRISPEECH is not set in db.sh: the speech of training, validation and test")
        if not (a.librispeech_pc or a.librispeech_books):
            raise UserError(
                "neither LIBRISPEECH_PC nor LIBRISPEECH_BOOKS is set in db.sh: JSTIP needs case and punctuation; "
                "LibriSpeech-PC (25 MB, https://www.openslr.org/145) is the simple way"
            )
        for option in ("train_parts", "valid_parts"):
            for part in getattr(a, option).split():
                check_name(f"part in --{option}", part, librispeech.PARTS)
        root = librispeech.home(Path(a.librispeech).absolute())
        parts = a.train_parts.split() or [part for part in librispeech.TRAIN_PARTS if (root / part).is_dir()]
        if not parts:
            raise UserError(
                f"LIBRISPEECH={a.librispeech}: none of {', '.join(librispeech.TRAIN_PARTS)} in it; unpack "
                "https://www.openslr.org/12 there"
            )
        sets = {"train": parts, "valid": a.valid_parts.split()}
        sets.update((name, [part]) for name, part in TEST_PARTS.items() if (root / part).is_dir())
        chapters = {} if a.librispeech_pc else books.read_chapters(root)
        shelf = None if a.librispeech_pc else books.books_root(a.librispeech_books)
        most = SMOKE_MOST if a.smoke == "true" else None
        made = {}
        for name, parts in sets.items():
            texts, reasons, audio, readers = {}, {}, {}, {}
            for part in parts:
                faults = Faults()
                data = to_data_dir(librispeech.read(root, part, faults, most), faults)
                faults.check()
                if a.librispeech_pc:
                    found, missed = librispeech_pc.restore(data.text, a.librispeech_pc, part, a.pc_text)
                else:
                    found, missed = books.restore(data.text, shelf, chapters, a.nj, part)
                texts.update(found)
                reasons.update(missed)
                audio.update(data.wav_scp)
                readers.update(data.utt2spk)
            self.left_out(name, reasons, len(audio))
            kept = sorted(texts)
            self.write_set(name, DataDir({u: audio[u] for u in kept}, texts, {u: readers[u] for u in kept}))
            made[name] = [texts[u] for u in kept]
        return made

    def domain_set(self, name, read, corpus, entity_file):
        """A test set of a domain, with entities if there is a file of them."""
        if not corpus:
            print(f"{name}: left out, as its corpus is not set in db.sh")
            return
        import entity_files  # local/entity_files.py

        data, reasons = read(corpus)
        self.left_out(name, reasons, len(data.text) + len(reasons))
        if entity_file:
            found = entity_files.read_entity_file(entity_file, data.text)
            pairs = {utt: ["\t".join(f"{slot}={value}" for slot, value in items)] for utt, items in found.items()}
            data.extra["entities"] = pairs
            print(f"{name}: {sum(map(len, found.values()))} entities in {len(found)} utterances")
        else:
            print(f"{name}: without entities, as no file of them is set in db.sh")
        self.write_set(name, data)

    def pubmed(self):
        """text/pubmed.txt, domain_tts/text, lm/valid_domain.txt -> [sentences for the language model]"""
        import pubmed  # local/pubmed.py

        a = self.args
        if not a.pubmed:
            print("text/pubmed.txt, domain_tts: left out, as PUBMED is not set in db.sh")
            return []
        if not 0 < a.held_out_share + a.tts_share < 1:
            raise UserError("--held_out_share and --tts_share are shares; something must be left for text/pubmed.txt")
        target = self.out / "text" / "pubmed.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            held_out, spoken, sentences = self.pubmed_documents(pubmed, temporary)
            os.replace(temporary, target)
            self.made.append("text/pubmed.txt")
        finally:
            temporary.unlink(missing_ok=True)
        self.write("domain_tts/text", [f"{utt} {spoken[utt]}" for utt in sorted(spoken)])
        self.write("lm/valid_domain.txt", held_out)
        return sentences[: a.lm_sentences]

    def pubmed_documents(self, pubmed, path):
        """Write documents to `path` -> (held-out documents, {utt: sentence to speak}, sentences of the first ones)."""
        a, n, held_out, spoken, sentences = self.args, 0, [], {}, []
        files, counts = pubmed.baseline_files(a.pubmed), collections.Counter()
        with open(path, "w", encoding="utf-8", newline="\n") as f:
            for pmid, text in pubmed.documents(files, words=a.pubmed_words, counts=counts):
                at = pubmed.draw(text, a.seed)
                if at < a.held_out_share:
                    held_out.append(text)
                elif at < a.held_out_share + a.tts_share:
                    for number, sentence in enumerate(pubmed.sentences(text), 1):
                        if len(spoken) < a.tts_sentences and pubmed.speakable(sentence):
                            spoken[f"pubmed{pmid}-{number:02d}"] = sentence
                else:
                    f.write(text + "\n")
                    n += 1
                    if len(sentences) < a.lm_sentences:
                        sentences += pubmed.sentences(text)
                    if n == a.pubmed_documents:
                        break
        told = ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "none"
        for made, what in ((n, "document to train on"), (held_out, "held-out document"), (spoken, "sentence to speak")):
            if not made:
                raise UserError(f"PUBMED={a.pubmed}: no {what}; give more files (left out: {told})")
        print(f"PubMed: {n} documents, {len(spoken)} sentences to speak, {len(held_out)} held out; left out: {told}")
        return held_out, spoken, sentences

    def questions(self, name, asked, examples=(), reasons=None):
        """questions/NAME.jsonl: examples, then what is asked; spoken here if it has no audio."""
        import question_sets  # local/question_sets.py

        from espnet_llmvq.data.synthesise import synthesise

        a, reasons = self.args, dict(reasons or {})
        total = len(asked) + len(reasons)
        long = {q["id"] for q in asked if len(q["question"].split()) > a.question_words}
        reasons.update((utt, f"more than {a.question_words} words") for utt in long)
        asked = [q for q in asked if q["id"] not in long]
        if a.questions:
            asked = question_sets.spread(asked, a.questions)
        self.left_out(name, reasons, total)
        twice = [utt for utt, n in collections.Counter(q["id"] for q in (*examples, *asked)).items() if n > 1]
        if twice:
            raise UserError(f"{name}: the id {twice[0]} is there twice; give each question its own")
        silent = [q["id"] for q in asked if "wav" not in q]
        if silent and len(silent) < len(asked):
            raise UserError(f"{name}: {len(silent)} of {len(asked)} questions have no audio, such as {silent[0]}")
        if silent:
            folder = self.out / "questions" / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            pairs = [(q["id"], q["question"]) for q in asked]
            how = {"voices": a.tts_voices.split(), "seed": a.seed, "nj": a.nj, "command": a.tts_command or None}
            jobs = synthesise(pairs, folder, **how)
            wavs = {job["source"]: f"{name}/wav/{job['utt']}.wav" for job in jobs}
            asked = [{**q, "wav": wavs[q["id"]]} for q in asked]
        self.write(f"questions/{name}.jsonl", [json.dumps(q, ensure_ascii=False) for q in (*examples, *asked)])

    def all_questions(self):
        import question_sets  # local/question_sets.py

        a = self.args
        if a.mmlu:
            asked, examples, reasons = question_sets.read_mmlu(a.mmlu)
            if not examples:  # the first ones of the file, then
                examples, asked = asked[:SHOTS], asked[SHOTS:]
            self.questions("mmlu", asked, question_sets.spread(examples, SHOTS), reasons)
        else:
            print("questions/mmlu: left out, as MMLU is not set in db.sh")
        if a.sqa:
            self.questions("sqa", question_sets.read_spoken_qa(a.sqa))
        else:
            print("questions/sqa: left out, as SQA is not set in db.sh")


def main(argv=None):
    args = get_parser().parse_args(argv)
    if args.smoke == "true":
        vars(args).update(SMOKE)
    record = made_of(args)
    if record.fresh():
        print(f"{args.datadir} is complete; nothing to do (delete {args.datadir}/made.json if a corpus has changed)")
        return
    import domain_sets  # local/domain_sets.py

    record.forget()
    work = Preparation(args)
    # What is small comes first: a mistake in it is told before LibriSpeech is read.
    work.domain_set("test_medical", domain_sets.read_primock, args.primock57, args.primock57_entities)
    minds = functools.partial(domain_sets.read_minds, locales=args.minds14_locales.split())
    work.domain_set("test_banking", minds, args.minds14, args.minds14_entities)
    work.all_questions()
    texts = work.librispeech()
    sentences = work.pubmed()
    work.write("lm/train.txt", texts["train"] + sentences)
    work.write("lm/valid.txt", texts["valid"])
    record.note(work.made)


if __name__ == "__main__":
    run(main)
