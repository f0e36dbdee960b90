"""The recipe librispeech/jstip1: data from public layouts, and configs against the figures of the paper."""

import collections
import gzip
import json
import os
import re
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from corpora import damage, jstip
from recipe_modules import local_modules

from espnet_llmvq.base.config import from_mapping, read_config, read_yaml
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.questions import read_questions
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.phases import with_schedule
from espnet_llmvq.experiment.systems import expand, phases_of, read_interleaving, read_mixture, read_systems
from espnet_llmvq.score.entities import check_entities, read_entities

RECIPE = Path(__file__).resolve().parents[1] / "egs/librispeech/jstip1"
CONF = str(RECIPE / "conf")
MODULES = ("books", "pubmed", "domain_sets", "entity_files", "question_sets", "data")


@pytest.fixture(scope="module")
def local():
    """The modules of local/, which find each other by their plain names."""
    with local_modules(RECIPE / "local") as load:
        yield {name: load(name) for name in MODULES}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All layouts, each once; tests that damage one copy it."""
    root = tmp_path_factory.mktemp("layouts")
    corpus = jstip.librispeech(root / "librispeech")
    jstip.books(root / "books")
    jstip.librispeech_pc(root / "pc", corpus)
    for name in ("pubmed", "primock", "minds", "mmlu", "spoken_qa", "spoken_mmlu"):
        getattr(jstip, name)(root / name)
    return root


def options(root, out, **changes):
    """Command line of local/data.py for the layouts below `root`."""
    given = {
        "librispeech": root / "librispeech", "librispeech_books": root / "books", "pubmed": root / "pubmed",
        "primock57": root / "primock", "primock57_entities": RECIPE / "local/medical_terms.txt",
        "minds14": root / "minds", "minds14_entities": RECIPE / "local/banking_terms.txt",
        "mmlu": root / "spoken_mmlu", "sqa": root / "spoken_qa", "datadir": out, "nj": 1, "held_out_share": 0.3,
        "tts_share": 0.3, **changes,
    }  # fmt: skip
    return [f"--{key}={value}" for key, value in given.items()] + ["--pubmed_words", "4", "600"]


@pytest.fixture(scope="module")
def prepared(local, made, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "data"
    local["data"].main(options(made, out))
    return out


def left_out(out, name):
    return dict(line.split("\t") for line in (out / "left_out" / f"{name}.tsv").read_text().splitlines())


def test_every_set_is_a_clean_data_directory(prepared):
    sets = ("train", "valid", "test_clean", "test_other", "test_medical", "test_banking")
    assert {name: validate(prepared / name) for name in sets} == dict.fromkeys(sets, [])
    for name in ("test_medical", "test_banking"):  # as scoring checks them
        entities = read_entities(prepared / name / "entities")
        assert check_entities(entities, DataDir.load(prepared / name).text, "entities") == entities


def test_the_books_give_case_and_punctuation(prepared):
    texts = {}
    for name in ("train", "valid", "test_clean", "test_other"):
        texts.update(DataDir.load(prepared / name).text)
    assert texts == jstip.RESTORED
    assert left_out(prepared, "train") == {
        "26-500-0000": "no text of book 9999",
        "84-121-0002": "the book has 1860 YES where the transcript has EIGHTEEN SIXTY",
        "84-122-0004": "not in the book",
    }
    assert DataDir.load(prepared / "train").utt2spk["84-121-0000"] == "84"


def test_words_are_compared_without_accents_and_titles(local):
    words = ("don\u2019t", "Caf\u00e9", "\u00c6sop", "MISTER", "Mr", "Dr", "1860", "S\u00e3o")
    keys = ["DONT", "CAFE", "AESOP", "MR", "MR", "DR", "1860", "SAO"]
    assert [local["books"].key(word) for word in words] == keys


def test_what_is_in_the_book_twice_is_placed_by_its_neighbours(local):
    books = local["books"]
    book = books.Book('He ran. "Stop," she said. He hid there. "Stop!" she said. He fell down. Stop she said.')
    utterances = [("a", "HE RAN".split()), ("b", "STOP SHE SAID".split()), ("c", "HE HID THERE".split()),
                  ("d", "STOP SHE SAID".split()), ("e", "HE FELL DOWN".split())]  # fmt: skip
    texts, reasons = books.restore_chapter(book, utterances)
    assert texts == {
        "a": "He ran.", "b": '"Stop," she said.', "c": "He hid there.", "d": '"Stop!" she said.', "e": "He fell down.",
    }  # fmt: skip
    assert reasons == {}
    # Without a neighbour on one side there is no telling.
    texts, reasons = books.restore_chapter(book, utterances[:2])
    assert texts == {"a": "He ran."} and reasons == {"b": "in the book 3 times, written differently"}


@pytest.mark.parametrize("words", ["", "--", "HE STOP", "RAN STOP SHE HID"])
def test_nothing_is_guessed(local, words):
    books = local["books"]
    texts, reasons = books.restore_chapter(books.Book("He ran. Stop, she said."), [("u", words.split())])
    assert texts == {} and list(reasons) == ["u"]


def test_librispeech_pc_is_the_simple_way(local, made, tmp_path):
    for key, mark in (("text", ""), ("text_raw", "_")):
        local["data"].main(options(made, tmp_path / key, librispeech_pc=made / "pc", pc_text=key, librispeech_books=""))
        train = DataDir.load(tmp_path / key / "train")
        assert train.text["84-121-0006"] == f"{mark}The old man waited.{mark}"
        assert len(train.text) == 13
        assert left_out(tmp_path / key, "train") == {"26-500-0000": "no text in train-clean-100.json of LibriSpeech-PC"}


def test_abstracts_are_filtered_and_joined(local, made):
    pubmed, counts = local["pubmed"], collections.Counter()
    found = dict(pubmed.documents(pubmed.baseline_files(made / "pubmed"), words=(4, 600), counts=counts))
    assert found == {
        "101": "Aspirin inhibits platelets in most patients. We treated ten of them with aspirin.",
        "102": "Gout is <common> now. No patient had fever. One had a rash.",
        "107": "Dr. A. Smith saw CO2 rise. He vs. Lee was right",
    }
    assert counts == {"not eng": 1, "without abstract": 1, "not 4 to 600 words": 1, "repeated": 1}


def test_sentences_of_abstracts(local):
    pubmed = local["pubmed"]
    assert pubmed.sentences("We saw E. Coli vs. Man et al. Then it rose. Why? No, i.e. Never.") == [
        "We saw E. Coli vs. Man et al. Then it rose.", "Why?", "No, i.e. Never.",
    ]  # fmt: skip
    said = ("No patient had fever.", "It rose by 5 percent.", "The DNA was lost.", "No.")
    assert [pubmed.speakable(sentence) for sentence in said] == [True, False, False, False]


def test_no_document_is_in_two_places(prepared):
    train = (prepared / "text/pubmed.txt").read_text().splitlines()
    held_out = (prepared / "lm/valid_domain.txt").read_text().splitlines()
    spoken = dict(line.split(" ", 1) for line in (prepared / "domain_tts/text").read_text().splitlines())
    assert len(train) + len(held_out) + len({utt[:-3] for utt in spoken}) == 3
    everything = " ".join(train + held_out)
    assert all(sentence not in everything for sentence in spoken.values())
    lm = (prepared / "lm/train.txt").read_text()
    assert jstip.RESTORED["84-122-0000"] in lm and not any(text in lm for text in held_out)


def test_memory_does_not_grow_with_a_baseline_file(local, tmp_path):
    """8 MB of abstracts pass through; a tree of all of them would hold at least that."""
    text = ("abcdefgh" * 100 + " ") * 50
    abstracts = [(str(i), "eng", [(None, f"{i} {text}")]) for i in range(200)]
    jstip.pubmed(tmp_path, abstracts)
    tracemalloc.start()
    assert sum(1 for _ in local["pubmed"].articles(tmp_path / "pubmed25n0001.xml.gz")) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6, peak


def test_consultations(prepared):
    data = DataDir.load(prepared / "test_medical")
    doctor, patient = "day1_consultation01_doctor", "day1_consultation01_patient"
    assert data.text == {
        f"{doctor}-0001": "Hello, have you taken any Ibuprofen?",
        f"{doctor}-0003": 'He said "ibuprofen" or paracetamol, I think.',
        f"{patient}-0001": "Yes. I've got hay fever, and a fever too.",
    }
    # The patient's interval ends at 6.3 s, the recording at 6.2.
    assert data.segments == {
        f"{doctor}-0001": (doctor, 0.5, 2.0),
        f"{doctor}-0003": (doctor, 2.5, 4.0),
        f"{patient}-0001": (patient, 2.1, 6.2),
    }
    assert data.utt2spk[f"{doctor}-0001"] == doctor
    assert left_out(prepared, "test_medical") == {f"{doctor}-0002": "no words: <UNIN/>"}
    assert data.entities == {
        f"{doctor}-0001": [("drug", "Ibuprofen")],
        f"{doctor}-0003": [("drug", "ibuprofen"), ("drug", "paracetamol")],
        f"{patient}-0001": [("condition", "hay fever"), ("symptom", "fever")],
    }


def test_banking(prepared):
    data = DataDir.load(prepared / "test_banking")
    assert data.text == {
        "en-AU~BALANCE-605b9a5f": "what is my balance",
        "en-GB~CARD_ISSUES-603b9a5f": "my card is lost",
        "en-US~APP_ERROR-602b9a5f": "the app, my app, is broken",
        "en-US~JOINT_ACCOUNT-602ba01d": "I want a joint account",
    }
    assert data.entities["en-US~APP_ERROR-602b9a5f"] == [("product", "app")] * 2
    assert data.entities["en-US~JOINT_ACCOUNT-602ba01d"] == [("product", "joint account")]
    assert left_out(prepared, "test_banking") == {"en-US~ABROAD-602ba5aa": "no transcript"}


def test_banking_from_a_manifest(local, made, tmp_path):
    wav = made / "minds/audio/en-GB~CARD_ISSUES/603b9a5f.wav"
    (tmp_path / "bank.csv").write_text(f"audio,text,speaker\n{wav},My card is lost.,ann\n")
    data, _ = local["domain_sets"].read_minds(tmp_path / "bank.csv", ["en-GB"])
    assert list(data.text.values()) == ["My card is lost."] and list(data.utt2spk.values()) == ["ann"]


TEXTS = {"u1": "Take Ibuprofen, not aspirin.", "u2": "No drug here."}


def test_entities_of_a_tagger(local, tmp_path):
    path = tmp_path / "tags.tsv"
    path.write_text("utterance\tstart\tend\tlabel\tsurface\nu1\t20\t27\tDRUG\taspirin\nu1\t5\t14\tmy drug\tIbuprofen\n")
    assert local["entity_files"].read_entity_file(path, TEXTS) == {
        "u1": [("my_drug", "Ibuprofen"), ("DRUG", "aspirin")]
    }


def test_entities_of_a_list(local, tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("# drugs\nAspirin\ndrug\tnot aspirin\nibuprofen\n")
    # The longest term that begins first counts, and the text's own writing.
    assert local["entity_files"].read_entity_file(path, TEXTS) == {
        "u1": [("term", "Ibuprofen"), ("drug", "not aspirin")]
    }


@pytest.mark.parametrize(
    "lines, message",
    [
        ("u1\t5\t14\tDRUG\tIbuprofin\n", "tags:1: u1 has 'Ibuprofen' from 5 to 14, not 'Ibuprofin'"),
        ("u1\t5\t14\tDRUG\tIbuprofen\nu9\t5\t14\tDRUG\tIbuprofen\n", r"tags:2: no utterance 'u9' in the set \(did you"),
        ("u1\t5\t11\tDRUG\tIbupro\n", "tags:1: 'Ibupro' is no run of whole words of u1"),
        ("u1\t5\t14\tDRUG\tIbuprofen\nu1\t5\tx\tDRUG\tIbuprofen\n", "tags:2: not utterance<TAB>start"),
        ("a\tb\tc\n", "tags:1: 3 fields, not `term`"),
        ("morphine\n", "tags: finds no entity in 2 transcripts"),
        ("", "tags: is empty"),
    ],
)
def test_wrong_entity_files(local, tmp_path, lines, message):
    (tmp_path / "tags").write_text(lines)
    with pytest.raises(UserError, match=message):
        local["entity_files"].read_entity_file(tmp_path / "tags", TEXTS)


def test_spoken_questions(prepared):
    asked = read_questions(str(prepared / "questions/mmlu.jsonl"), "mc")
    assert [q.id for q in asked[:6]] == [f"colours-dev-0000{i}" for i in range(1, 6)] + ["colours-test-00001"]
    assert [q.answer for q in asked[5:10]] == [0, 1, 2, 3, 0] and len(asked) == 25
    assert all(Path(q.wav).is_file() for q in asked)
    found = {q.id: q.answer for q in read_questions(str(prepared / "questions/sqa.jsonl"), "sqa")}
    assert found == {
        "llama_questions-00002": ("Paris",),
        "web_questions-00002": ("composer", "organist"),
        "trivia_qa-00002": ("dead sea", "the dead sea"),
    }


def test_questions_without_audio_are_spoken(local, made, tmp_path):
    recording = made / "primock/audio/day1_consultation01_doctor.wav"
    command = f"sh -c 'cp {recording} \"$1\"' copy {{wav}} {{text}}"
    changes = {name: "" for name in ("primock57", "minds14", "sqa", "pubmed")}
    local["data"].main(options(made, tmp_path, mmlu=made / "mmlu", tts_command=command, **changes))
    asked = read_questions(str(tmp_path / "questions/mmlu.jsonl"), "mc")
    # Five examples, of all subjects, in writing; then what is asked.
    assert [q.id for q in asked] == [
        "anatomy-dev-00001", "law-dev-00001", "maths-dev-00001", "maths-dev-00003", "maths-dev-00004",
        "anatomy-test-00001", "law-test-00002",
    ]  # fmt: skip
    assert [q.wav is None for q in asked] == [True] * 5 + [False] * 2
    assert all(Path(q.wav).is_file() for q in asked[5:])
    assert asked[5].question == 'Which organ, the "pump", moves blood?' and asked[5].choices[asked[5].answer] == "heart"
    assert sorted(left_out(tmp_path, "mmlu").values()) == ["more than 80 words", "two choices are the same"]


def test_json_questions_in_other_writings(local, tmp_path):
    (tmp_path / "a.wav").touch()
    row = {"question": " Q? ", "A": "w", "B": "x", "C": "y", "D": "z", "answer": "C", "audio": "a.wav", "id": "my q"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    asked, examples, _ = local["question_sets"].read_mmlu(tmp_path / "q.jsonl")
    assert asked == [
        {"id": "my_q", "question": "Q?", "choices": list("wxyz"), "answer": 2, "wav": str(tmp_path / "a.wav")}
    ]
    assert examples == []
    rows = [{"question": "Q?", "answers": {"text": ["a", "a", "b"]}}, {"question": "R?", "answers": "['c', 'd']"}]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert [q["answer"] for q in local["question_sets"].read_spoken_qa(tmp_path / "s.jsonl")] == [
        ["a", "b"],
        ["c", "d"],
    ]


def rewritten(path, change):
    """A damage: the bytes of a file as a function makes them."""
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


def without_end(data):
    whole = gzip.decompress(data)
    return gzip.compress(whole[: whole.index(b"105</PMID>")])


def keep_lines(path, n):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:n]))


def only_examples(root):
    keep_lines(root / TEST, 4)
    (root / TEST).with_name("dev.jsonl").unlink()


LIBRI = "librispeech/LibriSpeech"
CHAPTER = f"{LIBRI}/train-clean-100/84/121/84-121"
TRANS = f"{CHAPTER}.trans.txt"
XML = "pubmed/pubmed25n0001.xml.gz"
GRID = "primock/transcripts/day1_consultation01_doctor.TextGrid"
DOCTOR = "primock/audio/day1_consultation01_doctor.wav"
TEST = "spoken_mmlu/test.jsonl"
WEB = "spoken_qa/eval_datas/web_questions"
CARD = "minds/audio/en-GB~CARD_ISSUES/603b9a5f.wav"
POINTER = b"version https://git-lfs.github.com/spec/v1"
DAMAGES = {
    "no clips": (lambda r: [keep_lines(p, 1) for p in (r / "minds/text").iterdir()],
                 "test_banking: nothing is left of 0"),
    "only examples": (only_examples, "mmlu: nothing is left of 0"),
    "no flac": (f"{CHAPTER}-0004.flac", r"84-121.trans.txt:5: 84-121-0004: no audio file .*84-121-0004.flac"),
    "no line": ((TRANS, "84-121-0003 YES\n", ""), "84-121.trans.txt: no line for 84-121-0003.flac"),
    "other utterance": ((TRANS, "84-121-0003", "85-121-0003"),
                        "84-121.trans.txt:4: expected '84-121-NNNN WORDS', found '85-121-0003 YES'"),
    "no words": ((TRANS, "0003 YES", "0003"), "84-121.trans.txt:4: expected '84-121-NNNN WORDS', found '84-121-0003'"),
    "no chapters": (f"{LIBRI}/CHAPTERS.TXT", "CHAPTERS.TXT: cannot be read"),
    "bad chapters": ((f"{LIBRI}/CHAPTERS.TXT", "| 8.23 ", ""), "CHAPTERS.TXT:2: 7 fields"),
    "no books": (lambda r: shutil.rmtree(r / "books/LibriSpeech/books"),
                 "LIBRISPEECH_BOOKS=.*: neither utf-8/ nor ascii/"),
    "cut gzip": (rewritten(XML, lambda x: x[:-60]), "pubmed25n0001.xml.gz: damaged after article"),
    "cut xml": (rewritten(XML, without_end), "pubmed25n0001.xml.gz: not XML after article 4: .*line"),
    "other xml": (rewritten(XML, lambda x: gzip.compress(b"<html></html>")),
                  "its root is <html>, not <PubmedArticleSet>"),
    "no pubmed": (XML, r"PUBMED=.*: no \*.xml.gz in it"),
    "unknown mark": ((GRID, "<UNIN/>", "<NOISE/>"), r"doctor.TextGrid:\d+: unknown mark <NOISE/>; known"),
    "overlap": ((GRID, "xmin = 2.5", "xmin = 1.9"), r"doctor.TextGrid:\d+: an interval begins at 1.9 s"),
    "no recording": (DOCTOR, r"audio: no day1_consultation01_doctor.wav, which the other side has"),
    "a pointer": (rewritten(DOCTOR, lambda x: POINTER), "doctor.wav: is a pointer, not the recording .*git lfs pull"),
    "no clip": (CARD, r"en-GB.csv:2: no .*603b9a5f.wav"),
    "fields": (("minds/text/en-GB.csv", ",6", ",6,x"), "en-GB.csv:2: 5 fields, not file, transcript"),
    "quotes": (("minds/text/en-US.csv", '"the', '"the"'), r"en-US.csv:\d: .*quotation mark"),
    "no locale": ("minds/text/en-GB.csv", "unknown locale 'en-GB' .*known: en-AU, en-US, fr-FR"),
    "answer": ((TEST, '"answer": "B"', '"answer": "E"'), "test.jsonl:2: answer 'E' is none of the choices"),
    "choices": ((TEST, '"green", ', ""), "test.jsonl:1: not a question with four choices"),
    "json": ((TEST, '{"subject"', '{"subject'), "test.jsonl:1: not JSON"),
    "question audio": ("spoken_mmlu/audio/test3.wav", "test.jsonl:4: no audio file .*test3.wav"),
    "column": ((f"{WEB}/web_questions.csv", "answers", "replies"), "lacks the column answers"),
    "clip": (f"{WEB}/audios/w.mp3", "web_questions.csv:2: no audio file .*w.mp3"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_copies(local, made, tmp_path, name):
    what, message = DAMAGES[name]
    copy, out = tmp_path / "copy", tmp_path / "data"
    shutil.copytree(made, copy)
    damage(copy, what)
    with pytest.raises(UserError, match=message):
        local["data"].main(options(copy, out))
    assert not list(out.rglob("*.tmp"))
    for directory in (p.parent for p in out.rglob("wav.scp")):
        assert validate(directory) == []


def test_nothing_is_done_twice(local, made, tmp_path, capsys):
    def again(**changes):
        capsys.readouterr()
        local["data"].main(options(made, tmp_path, **{**off, **changes}))
        return "nothing to do" not in capsys.readouterr().out

    off = {name: "" for name in ("primock57", "mmlu", "sqa", "pubmed")}
    assert [again(), again(), again(nj=2)] == [True, False, False]
    (tmp_path / "test_banking/wav.scp").unlink()
    assert [again(), again()] == [True, False]
    assert [again(minds14_locales="en-US"), again(minds14_locales="en-US"), again()] == [True, False, True]


def test_what_is_not_set(local, made, tmp_path, capsys):
    with pytest.raises(UserError, match="LIBRISPEECH is not set in db.sh"):
        local["data"].main(["--datadir", str(tmp_path)])
    with pytest.raises(UserError, match="neither LIBRISPEECH_PC nor LIBRISPEECH_BOOKS is set"):
        local["data"].main(["--librispeech", str(made / "librispeech"), "--datadir", str(tmp_path)])
    capsys.readouterr()
    changes = {name: "" for name in ("primock57", "minds14", "mmlu", "sqa", "pubmed")}
    with pytest.raises(UserError, match=r"LIBRISPEECH=.*books: none of train-clean-100, .* unpack"):
        local["data"].main(options(made, tmp_path / "data", librispeech=made / "books", **changes))
    with pytest.raises(UserError, match="part in --train_parts.*did you mean 'train-clean-100'"):
        local["data"].main(options(made, tmp_path / "data", train_parts="train-clean-10", **changes))
    capsys.readouterr()
    local["data"].main(options(made, tmp_path / "data", **changes))
    told = capsys.readouterr().out
    for what in ("test_medical", "test_banking", "questions/mmlu", "questions/sqa", "text/pubmed.txt, domain_tts"):
        assert f"{what}: left out, as " in told
    lm = (tmp_path / "data/lm/train.txt").read_text().splitlines()
    assert lm == list(DataDir.load(tmp_path / "data/train").text.values())


# What llmasr.sh is called with: run.sh with another llmasr.sh beside it.
def arguments(tmp_path, made, *given, **environment):
    recipe = tmp_path / "recipe"
    shutil.copytree(RECIPE, recipe, symlinks=False, ignore=shutil.ignore_patterns("data*", "dump*", "exp*"))
    (recipe / "llmasr.sh").write_text('#!/bin/sh\nfor x in "$@"; do echo "$x"; done\n')
    env = {"PATH": os.environ["PATH"], "MAIN_ROOT": str(RECIPE.parents[2]), "LIBRISPEECH": str(made / "librispeech")}
    done = subprocess.run(
        ["./run.sh", *given], cwd=recipe, env={**env, **environment}, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    return {lines[i]: lines[i + 1] for i in range(0, len(lines) - 1, 2)}, done.stderr


def test_run_takes_what_is_there(made, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    options, told = arguments(tmp_path / "a", made)
    assert options["--test_sets"] == "test_clean:id test_other:id" and options["--systems"] == "paper_b_speech"
    assert options["--questions"] == "" and "--llm" not in options and "--texts" not in options
    assert re.findall("run.sh: (.*?) is not set", told) == ["PRIMOCK57", "MINDS14", "PUBMED", "MMLU", "SQA", "LLM"]
    named = ("PRIMOCK57", "MINDS14", "PUBMED", "MMLU", "SQA", "LLM", "ENCODER", "TTS_COMMAND")
    options, told = arguments(tmp_path / "b", made, **{name: f"/{name}" for name in named})
    assert options["--test_sets"] == "test_clean:id test_other:id test_medical:ood test_banking:ood"
    assert options["--systems"] == "paper_b" and told == ""
    assert options["--questions"] == "mc=data/questions/mmlu.jsonl sqa=data/questions/sqa.jsonl"
    assert options["--texts"] == "domain=data/text/pubmed.txt" and options["--tts_text"] == "data/domain_tts/text"
    given = [options[name] for name in ("--llm", "--encoder_file", "--tts_command")]
    assert given == ["/LLM", "/ENCODER", "/TTS_COMMAND"]


POSITIONS = 16384 * 4  # LLM positions of a step: ours
CARDS = read_cards(CONF)


def phase(name):
    """The config of a phase as it trains."""
    return with_schedule(CARDS.phase(name), name)


def test_phase_1_trains_the_adapter_on_a_tenth():
    config = phase("adapter")
    assert config["optim"] == "adamw" and config["optim_conf"]["lr"] == 1e-4
    assert config["scheduler_conf"]["max_lr"] == 1e-4
    assert config["freeze"] == ["llm"] and not config.get("train_encoder") and "mixture" not in config
    assert config["batch_bins"] * config["accum_grad"] == POSITIONS
    steps = config["max_epoch"] * config["num_iters_per_epoch"] / config["accum_grad"]
    asr = phase("joint_third")
    # As many ASR tokens as in phase 2, where ASR is a third.
    asr_steps = asr["max_epoch"] * asr["num_iters_per_epoch"] / asr["accum_grad"]
    assert steps == config["scheduler_conf"]["total_steps"] == 800 and steps == asr_steps / 10


def test_phase_2_trains_everything():
    config = phase("joint")
    assert config["optim"] == "adamw" and config["optim_conf"]["lr"] == config["scheduler_conf"]["max_lr"] == 4e-5
    assert config["train_encoder"] is True and config["freeze"] == [] and "lora" not in config["llm_conf"]
    assert config["model_conf"] == {"packing": 8192}  # one next-token loss, contexts of 8k
    third = phase("joint_third")
    steps = {}
    for name, c in (("joint", config), ("third", third)):
        steps[name] = c["max_epoch"] * c["num_iters_per_epoch"] // c["accum_grad"]
        assert steps[name] == c["scheduler_conf"]["total_steps"]
    assert steps == {"joint": 24000, "third": 8000}


def test_rates_fall_linearly_from_the_first_step():
    import torch

    for name, rate in (("adapter", 1e-4), ("joint_third", 4e-5)):
        config = phase(name)
        assert config["scheduler"] == "onecyclelr"
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], **config["optim_conf"])
        betas = optimizer.param_groups[0]["betas"]
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, **config["scheduler_conf"])
        total = config["scheduler_conf"]["total_steps"]
        for step in range(1, total + 1):
            group = optimizer.param_groups[0]
            assert group["lr"] == pytest.approx(rate * (1 - step / total), abs=rate * 1e-5)
            assert group["betas"] == betas
            optimizer.step()
            scheduler.step()


def test_encoder_steps_and_adapter():
    from espnet_llmvq.speech.frame_rate import FrameRate

    config = read_config(f"{CONF}/encoder.yaml")
    assert config["encoder"] == "conformer" and config["frontend_conf"]["n_mels"] == 80
    assert config["frontend_conf"]["hop_length"] / 16000 == 0.01
    assert FrameRate(config).step / 16000 == 0.08
    assert read_config(f"{CONF}/encoder_smoke.yaml")["encoder_conf"]["input_layer"] == "conv2d8"
    adapter = phase("adapter")
    assert adapter["bridge"] == "none" and adapter["bridge_conf"]["stack"] == 1
    wide, hidden, llm = config["encoder_conf"]["output_size"], adapter["bridge_conf"]["hidden_size"], 896
    assert wide * hidden + hidden * llm == pytest.approx(20e6, rel=0.02)


def test_rows_and_shares():
    systems, speech = read_systems(CARDS, ["paper_b"]), expand(CARDS, ["paper_b_speech"])
    names, shares = [system.name for system in systems], {}
    assert expand(read_cards(RECIPE.parents[1] / "TEMPLATE/conf/paper_b.yaml"), ["paper_b"]) == names
    for name in (system.name for system in systems if system.decode == "llm"):
        first, last = phases_of(CARDS, name)
        assert first.tag == ("adapter_soft" if name == "best_soft" else "adapter")
        steps = with_schedule(last.config, name)["scheduler_conf"]["total_steps"]
        assert steps == (8000 if name == "asr_only" else 24000)
        found = {("train", "asr"): 1}
        if last.mixture:
            found = read_mixture(CARDS, last.mixture, ["train", "tts"], ["domain"])
        shares[name] = {f"{data}/{form}": share / sum(found.values()) for (data, form), share in found.items()}
        assert (name in speech) == all(source.startswith("train/") for source in shares[name])
    third = pytest.approx(1 / 3)
    assert shares["asr_only"] == shares["asr_only_equal"] == {"train/asr": 1}
    assert shares["text_mixed"] == {"train/asr": third, "train/mixed_sil_punc": third, "domain/text": third}
    assert shares["ttstext_mixed"] == {"train/asr": third, "train/mixed_sil_punc": third, "tts/text": third}
    assert shares["tts_mixed"] == {"train/asr": third, "train/mixed_sil_punc": third, "tts/asr": third}
    tags = {phase.tag for name in names for phase in phases_of(CARDS, name)}
    assert tags >= {"adapter", "adapter-joint", "adapter-joint_best"}
    (published,) = Path(CONF, "published").glob("*.yaml")
    rows = read_yaml(published)["rows"]
    assert set(rows) < set(names) and rows["ttstext_mixed"][2] == 6.81 and rows["il_word"][6] == -6.89


def test_interleaving_and_questions():
    from espnet_llmvq.sequence.questions import LETTERS, MultipleChoice, OpenQuestions

    forms = {name: read_interleaving(CARDS, name) for name in CARDS.names("interleave")}
    assert {name: (f.level, f.cut) for name, f in forms.items() if name != "word"} == {
        "seg_sil": ("segment", "silence"), "seg_sil_punc": ("segment", "silence_punctuation"),
        "mixed_sil": ("mixed", "silence"), "mixed_sil_punc": ("mixed", "silence_punctuation"),
    }  # fmt: skip
    assert forms["word"].level == "word"
    for f in forms.values():
        assert f.silence == 0.2 and tuple(f.ratio) == (1, 1)
    run = (RECIPE / "run.sh").read_text()
    assert forms["mixed_sil_punc"].segment_token in re.search('--reserved_tokens "(.*)"', run)[1].split()
    values = read_yaml(f"{CONF}/questions.yaml")
    choice = from_mapping(MultipleChoice, values["multiple_choice"], "config")
    assert (choice.shots, choice.answer, LETTERS) == (5, "letter", "ABCD")
    assert from_mapping(OpenQuestions, values["spoken_qa"], "config").num_beams == 1
    for key, kind in (("multiple_choice", MultipleChoice), ("spoken_qa", OpenQuestions)):
        from_mapping(kind, read_yaml(f"{CONF}/questions_smoke.yaml")[key], "config")
