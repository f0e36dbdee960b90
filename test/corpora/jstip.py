"""Small copies of the public layouts that egs/librispeech/jstip1 reads: a few files each, in their true formats.

Audio is noise of a plausible length, texts are our own. Each function returns the path for db.sh.
`python -m corpora.jstip DIR`, in test/, writes them all, enough for a run of the recipe, and prints what db.sh needs.
"""

import csv
import gzip
import json
import sys
from pathlib import Path

from . import write_audio

# Two books. What the reader of LibriSpeech says stands in CHAPTERS, in capital letters as in *.trans.txt.
BOOK = """\ufeffThe Project Gutenberg EBook of The Lamp, by Nobody

CHAPTER I.

"Good-night, Mr. Brown," said Anna; "the lamp is _not_ lit."[1] He went away--and
nobody saw him again, for the caf\u00e9 was closed in 1860.

[Illustration: The lamp]

\u201cYes,\u201d said he. \u2018The keeper\u2019s boat,\u2019 she thought, could not
carry {12} three men. The old man waited.

"Yes!" cried the other. The old man waited? Nobody knew; the old man
waited...
"""
OTHER_BOOK = """A Walk in the Hills

We left at dawn. The road was long, and Tom had no shoes: he carried them.
"Where are they?" I asked. It rained at noon, but no one complained.
The hut, at last, was warm; we ate bread, cheese, and an onion.
"""
BOOKS = {"1234": ("utf-8", "1234.txt.utf-8", BOOK), "77": ("ascii", "77.txt", OTHER_BOOK)}
# part: {(reader, chapter): (book, [lines])}
CHAPTERS = {
    "train-clean-100": {
        ("84", "121"): ("1234", [
            "GOOD NIGHT MISTER BROWN SAID ANNA THE LAMP IS NOT LIT", "HE WENT AWAY AND NOBODY SAW HIM AGAIN",
            "FOR THE CAFE WAS CLOSED IN EIGHTEEN SIXTY", "YES",
            "SAID HE THE KEEPER'S BOAT SHE THOUGHT COULD NOT CARRY THREE MEN", "YES CRIED THE OTHER",
            "THE OLD MAN WAITED", "NOBODY KNEW THE OLD MAN WAITED",
        ]),
        ("84", "122"): ("77", [
            "WE LEFT AT DAWN", "THE ROAD WAS LONG AND TOM HAD NO SHOES HE CARRIED THEM", "WHERE ARE THEY I ASKED",
            "IT RAINED AT NOON BUT NO ONE COMPLAINED", "A WHALE SWAM PAST THE HUT",
        ]),
        ("26", "500"): ("9999", ["THIS BOOK IS NOT THERE"]),
    },
    "dev-clean": {("1272", "128"): ("77", ["THE HUT AT LAST WAS WARM", "WE ATE BREAD CHEESE AND AN ONION"])},
    "test-clean": {("61", "70"): ("77", ["TOM HAD NO SHOES", "HE CARRIED THEM WHERE ARE THEY I ASKED"])},
    "test-other": {("367", "130"): ("1234", ["THE LAMP IS NOT LIT"])},
}  # fmt: skip
# What the books make of it, worked out by hand.
RESTORED = {
    "84-121-0000": '"Good-night, Mr. Brown," said Anna; "the lamp is not lit."',
    "84-121-0001": "He went away - and nobody saw him again,",
    "84-121-0003": '"Yes,"',
    "84-121-0004": "said he. 'The keeper's boat,' she thought, could not carry three men.",
    "84-121-0005": '"Yes!" cried the other.',
    "84-121-0006": "The old man waited?",
    "84-121-0007": "Nobody knew; the old man waited...",
    "84-122-0000": "We left at dawn.",
    "84-122-0001": "The road was long, and Tom had no shoes: he carried them.",
    "84-122-0002": '"Where are they?" I asked.',
    "84-122-0003": "It rained at noon, but no one complained.",
    "1272-128-0000": "The hut, at last, was warm;",
    "1272-128-0001": "we ate bread, cheese, and an onion.",
    "61-70-0000": "Tom had no shoes:",
    "61-70-0001": 'he carried them. "Where are they?" I asked.',
    "367-130-0000": '"the lamp is not lit."',
}
ABSTRACTS = [  # (PMID, language, [(label or None, XML of a part)])
    ("101", "eng", [
        (None, "Aspirin inhibits platelets in <i>most</i> patients. We treated ten of them with aspirin.")]),
    ("102", "eng", [
        ("BACKGROUND", "Gout is &lt;common&gt; now."), ("RESULTS", "No patient had fever. One had a rash.")]),
    ("103", "fre", [(None, "La goutte est une maladie que nous avons vue ici chez dix malades.")]),
    ("104", "eng", []),
    ("105", "eng", [(None, "Too short.")]),
    ("106", "eng", [(None, "ASPIRIN inhibits  platelets in most patients. We treated ten of them with aspirin.")]),
    ("107", "eng", [(None, "Dr. A. Smith saw CO2 rise. He vs. Lee was right (ABSTRACT TRUNCATED AT 250 WORDS)")]),
]  # fmt: skip
GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 9
tiers? <exists>
size = 1
item []:
\titem [1]:
\t\tclass = "IntervalTier"
\t\tname = "Speaker"
\t\txmin = 0
\t\txmax = 9
\t\tintervals: size = {size}
"""
INTERVALS = {
    "day1_consultation01_doctor": [
        (0, 0.5, ""),
        (0.5, 2.0, "Hello, <UNSURE>have you</UNSURE> taken any Ibuprofen?"),
        (2.0, 2.5, "<UNIN/>"),
        (2.5, 4.0, 'He said ""ibuprofen"" or paracetamol, <INAUDIBLE_SPEECH/> I think.'),
        (4.0, 4.2, ""),
    ],
    "day1_consultation01_patient": [(0, 2.1, ""), (2.1, 6.3, "Yes. I've got hay fever, and a fever too.")],
}
MINDS = {
    "en-US": [
        ("en-US~APP_ERROR/602b9a5f.wav", "the app, my app, is broken", "the app, my app, is broken", "2"),
        ("en-US~JOINT_ACCOUNT/602ba01d.wav", "I want a joint account", "I want a joint account", "11"),
        ("en-US~ABROAD/602ba5aa.wav", "", "", "0"),
    ],
    "en-GB": [("en-GB~CARD_ISSUES/603b9a5f.wav", "my card is lost", "my card is lost", "6")],
    "en-AU": [("en-AU~BALANCE/605b9a5f.wav", "what is my balance", "what is my balance", "4")],
    "fr-FR": [("fr-FR~ABROAD/604b9a5f.wav", "ma carte", "my card", "0")],
}
MMLU = {  # split: {subject: rows}
    "dev": {
        "anatomy": [["Which bone is in the arm?", "femur", "radius", "tibia", "skull", "B"]],
        "law": [["Who makes laws?", "judges", "a parliament", "the police", "lawyers", "B"]],
        "maths": [[f"What is {i} plus 0?", str(i), "7", "8", "9", "A"] for i in range(5)],
    },
    "test": {
        "anatomy": [
            ['Which organ, the "pump", moves blood?', "liver", "heart", "lung, left", "skin", "B"],
            ["Same choices?", "yes", "no", "yes", "maybe", "A"],
        ],
        "law": [
            ["Long " + "very " * 90 + "question?", "a", "b", "c", "d", "D"],
            ["Short?\nYes.", "a", "b", "c", "d", "D"],
        ],
    },
}


def librispeech(root, copies=1):
    """OpenSLR 12: PART/READER/CHAPTER/*.flac, *.trans.txt and CHAPTERS.TXT. copies: readers who read the same."""
    rows = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"]
    corpus = root / "LibriSpeech"
    for part, chapters in CHAPTERS.items():
        for copy in range(copies):
            for (first_reader, first_chapter), (book, lines) in chapters.items():
                reader, chapter = first_reader, first_chapter
                if copy:
                    reader, chapter = f"{reader}{copy:02d}", f"{chapter}{copy:02d}"
                folder = corpus / part / reader / chapter
                for number, line in enumerate(lines):
                    write_audio(folder / f"{reader}-{chapter}-{number:04d}.flac", 0.6 + 0.35 * len(line.split()))
                text = "".join(f"{reader}-{chapter}-{n:04d} {line}\n" for n, line in enumerate(lines))
                (folder / f"{reader}-{chapter}.trans.txt").write_text(text)
                rows.append(f"{chapter:<6} | {reader:<4} | 8.23  | {part:<16} | 53   | {book:<5} | Title, a | The Lamp")
    (corpus / "CHAPTERS.TXT").write_text("\n".join(rows) + "\n")
    return corpus


def books(root):
    """original-books.tar.gz of OpenSLR 12; the second book has a byte of Latin 1."""
    for book, (encoding, name, text) in BOOKS.items():
        folder = root / "LibriSpeech/books" / encoding / book
        folder.mkdir(parents=True)
        latin = b" \xa3\n" if encoding == "ascii" else b""
        (folder / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8") + latin)
    return root


def librispeech_pc(root, librispeech):
    """OpenSLR 145: PART.json, without the utterances whose restoring failed."""
    root.mkdir()
    for part in CHAPTERS:
        lines = []
        for transcripts in sorted((librispeech / part).glob("*/*/*.trans.txt")):
            for line in transcripts.read_text().splitlines():
                utt, text = line.split(" ", 1)
                if utt.split("-")[1] == "500":
                    continue
                reader, chapter, _ = utt.split("-")
                entry = {"audio_filepath": f"{part}/{reader}/{chapter}/{utt}.flac", "duration": 2.5}
                cased = text.capitalize() + "."
                lines.append(json.dumps({**entry, "text": cased, "text_raw": f"_{cased}_"}))
        (root / f"{part}.json").write_text("\n".join(lines) + "\n")
    return root


def pubmed(root, abstracts=ABSTRACTS, name="pubmed25n0001.xml.gz"):
    """A baseline file."""
    root.mkdir(exist_ok=True)
    articles = []
    for pmid, language, parts in abstracts:
        text = ""
        for label, part in parts:
            labels = f' Label="{label}" NlmCategory="{label}"' if label else ""
            text += f"<AbstractText{labels}>{part}</AbstractText>"
        abstract = f"<Abstract>{text}</Abstract>" if text else ""
        articles.append(
            f'<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">{pmid}</PMID>'
            f'<Article PubModel="Print"><ArticleTitle>Title.</ArticleTitle>{abstract}<Language>{language}</Language>'
            "</Article><OtherAbstract><AbstractText>Other.</AbstractText></OtherAbstract></MedlineCitation>"
            "<PubmedData><ArticleIdList/></PubmedData></PubmedArticle>"
        )
    doctype = '<!DOCTYPE PubmedArticleSet SYSTEM "http://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">'
    xml = f'<?xml version="1.0" encoding="utf-8"?>\n{doctype}\n<PubmedArticleSet>\n' + "\n".join(articles)
    with gzip.open(root / name, "wb") as f:
        f.write(f"{xml}\n</PubmedArticleSet>\n".encode())
    return root


def many_abstracts(n):
    """Abstracts of medical sentences, all different, for runs of the whole recipe."""
    drugs = "aspirin codeine insulin morphine warfarin".split()
    ills = "fever gout asthma migraine anaemia".split()
    abstracts = []
    for i in range(n):
        patient = f"{'abcdefghij'[i // 10 % 10]}{'klmnopqrst'[i % 10]}"
        said = [
            f"Patient {patient} had {ills[(i + k) % 5]} and took {drugs[i * k % 5]} for a while." for k in range(1, 4)
        ]
        abstracts.append((str(1000 + i), "eng", [(None, " ".join(said))]))
    return abstracts


def primock(root):
    """A clone of PriMock57."""
    for name, intervals in INTERVALS.items():
        grid = GRID.format(size=len(intervals))
        for number, (start, end, text) in enumerate(intervals, 1):
            grid += f'\t\tintervals [{number}]:\n\t\t\txmin = {start}\n\t\t\txmax = {end}\n\t\t\ttext = "{text}"\n'
        (root / "transcripts").mkdir(parents=True, exist_ok=True)
        (root / "transcripts" / f"{name}.TextGrid").write_text(grid)
        write_audio(root / "audio" / f"{name}.wav", 6.2 if name.endswith("patient") else 9)
    return root


def minds(root):
    """MInDS-14.zip with the two archives in it unpacked; 8 kHz."""
    (root / "text").mkdir(parents=True)
    for locale, rows in MINDS.items():
        with open(root / "text" / f"{locale}.csv", "w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["filepath", "text_asr", "text_translated", "intent"])
            writer.writerows(rows)
        for name, *_ in rows:
            write_audio(root / "audio" / name, 3, rate=8000)
    return root


def mmlu(root):
    """data.tar of MMLU: tables without header."""
    for split, subjects in MMLU.items():
        for subject, rows in subjects.items():
            path = root / "data" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w", newline="") as f:
                csv.writer(f).writerows(rows)
    return root


def spoken_qa(root):
    """OpenAudioBench: three tables with audios/ beside them, MP3."""
    audio = "audio_filename"
    tables = {
        "llama_questions": [["Questions", "Answer", audio], ["What is the capital of France?", "Paris", "0.mp3"]],
        "web_questions": [["url", "question", "answers", audio], ["u", "who was Bach?", "composer; organist", "w.mp3"]],
        "trivia_qa": [
            ["question", "answer_normalized_value", "answer_normalized_aliases", audio],
            ["Which sea is salty?", "dead sea", "the dead sea,dead sea", "t.mp3"],
        ],
    }
    for name, rows in tables.items():
        folder = root / "eval_datas" / name
        folder.mkdir(parents=True)
        with open(folder / f"{name}.csv", "w", newline="") as f:
            csv.writer(f).writerows(rows)
        for row in rows[1:]:
            write_audio(folder / "audios" / row[-1], 2)
    return root


def spoken_mmlu(root, n=20):
    """JSON lines with audio, as spoken versions of MMLU are handed on."""
    root.mkdir()
    for split, count in (("dev", 5), ("test", n)):
        lines = []
        for i in range(count):
            write_audio(root / "audio" / f"{split}{i}.wav", 2)
            entry = {"subject": "colours", "question": f"Which colour has number {split} {i}?", "answer": "ABCD"[i % 4]}
            lines.append(
                json.dumps({**entry, "choices": ["red", "blue", "green", "gold"], "audio": f"audio/{split}{i}.wav"})
            )
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def main(argv):
    root = Path(argv[0]).absolute()
    corpus = librispeech(root / "librispeech", copies=5)
    made = {
        "LIBRISPEECH": corpus, "LIBRISPEECH_BOOKS": books(root / "books"),
        "PUBMED": pubmed(root / "pubmed", many_abstracts(60)), "PRIMOCK57": primock(root / "primock57"),
        "MINDS14": minds(root / "minds14"), "MMLU": spoken_mmlu(root / "mmlu"), "SQA": spoken_qa(root / "sqa"),
    }  # fmt: skip
    for name, path in made.items():
        print(f"export {name}={path}")


if __name__ == "__main__":
    main(sys.argv[1:])
