"""Import of every form of data, against what a generator wrote into it; clear errors for damaged ones."""

import csv
import gzip
import json
import os
import random

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import import_ as import_data
from espnet_llmvq.data import importer
from espnet_llmvq.data.datadir import DataDir

WORDS = "the \"cat\" isn't, here; naïve 猫 don’t 3|4 Mr. O'Neil a\u00a0b 50% <unk> {x}".split(" ")


@pytest.fixture(params=range(3))
def corpus(request, tmp_path):
    """A list of {name, speaker, text, audio, seconds}; audio (no real one) is in tmp_path/audio."""
    rng = random.Random(request.param)
    found = []
    for i in range(rng.randint(5, 30)):
        name, speaker = f"u{i:03d}{rng.choice(['', ' x', '.b'])}", rng.choice(["s1", "Anna B", "ü"])
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 6)))
        audio = tmp_path / "audio" / f"{name}.wav"
        audio.parent.mkdir(exist_ok=True)
        audio.touch()
        seconds = rng.randint(1, 10**6) / 10**5
        found.append({"name": name, "speaker": speaker, "text": text, "audio": audio, "seconds": seconds})
    return found


def flat(text):
    return " ".join(text.split())


def under(text):
    return "_".join(text.split())


def check(data, corpus, utt_of, speaker_of=lambda item: under(item["speaker"]), text_of=flat):
    """`data` is what the corpus is: nothing more, nothing less."""
    expected = {utt_of(item): item for item in corpus}
    assert len(expected) == len(corpus)
    assert data.text == {utt: text_of(item["text"]) for utt, item in expected.items()}
    assert data.utt2spk == {utt: speaker_of(item) for utt, item in expected.items()}
    assert {utt: data.location(utt) for utt in data.text} == {
        utt: (str(item["audio"]), *item.get("part", (0.0, None))) for utt, item in expected.items()
    }


def with_speaker(item):
    return f"{under(item['speaker'])}-{under(item['name'])}"


def from_audio(item):
    return f"{under(item['speaker'])}-audio-{under(item['name'])}"


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("style", ["plain", "bom", "crlf", "gz"])
def test_csv(corpus, tmp_path, delimiter, style):
    path = tmp_path / ("list.csv.gz" if style == "gz" else "list.csv")
    opener = gzip.open if style == "gz" else open
    encoding = "utf-8-sig" if style == "bom" else "utf-8"
    with opener(path, "wt", encoding=encoding, newline="") as f:
        writer = csv.writer(f, delimiter=delimiter, lineterminator="\r\n" if style == "crlf" else "\n")
        writer.writerow(["text", "seconds", "audio", "speaker", "", ""])
        for item in corpus:
            # A quoted line end within a text counts as white space.
            text = item["text"].replace(" ", "\n", 1)
            audio = f"audio/{item['name']}.wav"
            writer.writerow([text, item["seconds"], audio, item["speaker"], "", ""])
    form, data = importer.read(path)
    assert form == "CSV manifest"
    check(data, corpus, from_audio)


def test_a_header_may_quote(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.csv").write_text('"note, more","audio",text\n"x, y",a.wav,hello\n')
    assert importer.read(tmp_path / "a.csv")[1].text == {"a": "hello"}


def test_tsv_with_absolute_paths_ids_and_no_speaker(corpus, tmp_path):
    lines = ["id\taudio\ttext"] + [f"{i['name']}\t{i['audio']}\t{i['text']}" for i in corpus]
    (tmp_path / "list.tsv").write_text("\n".join(lines), encoding="utf-8")
    form, data = importer.read(tmp_path / "list.tsv")
    assert form == "TSV manifest"
    check(data, corpus, lambda i: under(i["name"]), lambda i: under(i["name"]))


def test_json_lines(corpus, tmp_path):
    with open(tmp_path / "list.jsonl", "w", encoding="utf-8") as f:
        for item in corpus:
            line = {"audio": f"./audio/{item['name']}.wav", "text": item["text"], "speaker": item["speaker"]}
            line |= {"duration": 1.5, "type": "read", "recording_id": 3}
            f.write(json.dumps(line, ensure_ascii=item["seconds"] > 5) + "\n")
    check(importer.read(tmp_path / "list.jsonl")[1], corpus, from_audio)


@pytest.mark.parametrize("columns", [2, 3])
def test_ljspeech(corpus, tmp_path, columns):
    os.rename(tmp_path / "audio", tmp_path / "wavs")
    lines = []
    for item in corpus:
        item["audio"] = tmp_path / "wavs" / item["audio"].name
        item["text"] = item["text"].replace("|", "/")
        lines.append("|".join([item["name"], "1 2 3", item["text"]] if columns == 3 else [item["name"], item["text"]]))
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    form, data = importer.read(tmp_path)
    assert form == "LJSpeech folder"
    check(data, corpus, lambda i: f"lj-{under(i['name'])}", lambda i: "lj")


def test_common_voice(corpus, tmp_path):
    os.rename(tmp_path / "audio", tmp_path / "clips")
    lines = ["client_id\tpath\tsentence\tup_votes"]
    for item in corpus:
        item["audio"] = tmp_path / "clips" / item["audio"].name
        lines.append(f"{item['speaker']}\t{item['audio'].name}\t{item['text']}\t2")
    for name in ("train.tsv", "other.tsv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    form, data = importer.read(tmp_path / "train.tsv")
    assert form == "Common Voice list"
    check(data, corpus, with_speaker)
    with pytest.raises(UserError, match="name one of its lists: other.tsv, train.tsv"):
        importer.read(tmp_path)


def test_kaldi_with_paths_from_the_folder_above(corpus, tmp_path):
    folder = tmp_path / "sets" / "train"
    folder.mkdir(parents=True)
    rows = {"wav.scp": [], "text": [], "utt2spk": []}
    for item in corpus:
        item["name"], item["speaker"] = under(item["name"]), under(item["speaker"])
        rows["wav.scp"].append(f"{item['name']} audio/{item['audio'].name}")
        rows["text"].append(f"{item['name']} {item['text']}")
        rows["utt2spk"].append(f"{item['name']} {item['speaker']}")
    for name, lines in rows.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    form, data = importer.read(folder)
    assert form == "Kaldi data directory"
    # A Kaldi directory keeps its text and its ids as they are.
    check(data, corpus, lambda i: i["name"], text_of=str)


def lhotse_recording(item, path, channels=1):
    source = {"type": "file", "channels": list(range(channels)), "source": path}
    return {
        "id": f"rec {item['name']}", "sources": [source], "sampling_rate": 16000, "duration": item["seconds"],
        "num_samples": round(16000 * item["seconds"]), "channel_ids": list(range(channels)),
    }  # fmt: skip


def lhotse_supervision(item, start, duration):
    return {
        "id": item["name"], "recording_id": f"rec {item['name']}", "start": start, "duration": duration, "channel": 0,
        "text": item["text"], "speaker": item["speaker"], "language": "en",
    }  # fmt: skip


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", ["supervisions", "cuts"])
def test_lhotse(corpus, tmp_path, whole, form):
    (tmp_path / "manifests").mkdir()
    lines = {"recordings": [], "supervisions": [], "cuts": []}
    for item in corpus:
        start = 0.0 if whole else round(item["seconds"] / 4, 5)
        duration = item["seconds"] if whole else round(item["seconds"] / 2, 5)
        if not whole:
            item["part"] = (start, pytest.approx(start + duration, abs=1e-7))
        recording = lhotse_recording(item, f"audio/{item['audio'].name}")
        lines["recordings"].append(recording)
        lines["supervisions"].append(lhotse_supervision(item, start, duration))
        # Times of a cut's supervisions begin with the cut.
        cut = {**CUT, "id": f"cut-{item['name']}", "start": start / 2, "duration": item["seconds"]}
        supervisions = [lhotse_supervision(item, start - start / 2, duration)]
        lines["cuts"].append({**cut, "recording": recording, "supervisions": supervisions})
    for name in ("recordings", "supervisions") if form == "supervisions" else ("cuts",):
        with gzip.open(tmp_path / "manifests" / f"x_{name}_train.jsonl.gz", "wt", encoding="utf-8") as f:
            f.writelines(json.dumps(line) + "\n" for line in lines[name])
    found, data = importer.read(tmp_path / "manifests")
    assert found == f"Lhotse {form}"
    assert (data.segments is None) == whole
    check(data, corpus, with_speaker)


def test_lhotse_supervisions_of_one_recording(tmp_path):
    (tmp_path / "a.wav").touch()
    item = {"name": "r", "seconds": 9.0, "text": "x", "speaker": "s"}
    (tmp_path / "recordings.jsonl").write_text(json.dumps(lhotse_recording(item, "a.wav")))
    parts = [("s-1", 0.5, 2.0), ("s-2", 2.5, 3.25)]
    lines = [{**lhotse_supervision(item, start, length), "id": utt} for utt, start, length in parts]
    (tmp_path / "supervisions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = importer.read(tmp_path / "supervisions.jsonl")[1]
    assert data.wav_scp == {"rec_r": str(tmp_path / "a.wav")}
    assert data.segments == {"s-1": ("rec_r", 0.5, 2.5), "s-2": ("rec_r", 2.5, 5.75)}


@pytest.mark.parametrize(
    "entities", ["drug=Aspirin; person=Mr. Lee; drug=zinc", '{"drug": ["Aspirin", "zinc"], "person": "Mr. Lee"}']
)
def test_entities(tmp_path, entities):
    for name in "ab":
        (tmp_path / f"{name}.wav").touch()
    with open(tmp_path / "list.csv", "w", newline="") as f:
        csv.writer(f).writerows(
            [["audio", "text", "entities"], ["a.wav", "Aspirin and zinc for Mr. Lee", entities], ["b.wav", "hello", ""]]
        )
    import_data.main([str(tmp_path / "list.csv"), str(tmp_path / "out")])
    data = DataDir.load(tmp_path / "out")
    assert data.entities.keys() == {"a"}
    assert sorted(data.entities["a"]) == [("drug", "Aspirin"), ("drug", "zinc"), ("person", "Mr. Lee")]


HEAD = "audio,text,speaker\n"
BAD = {
    "missing column": ("a.csv", "audio,txt\na.wav,hi\n", "a.csv:1: the header lacks the column text (did you mean"),
    "doubled column": ("a.csv", "audio,text,text\na.wav,hi,x\n", "a.csv:1: the header has the column 'text' twice"),
    "mistyped column": (
        "a.csv",
        "audio,text,speker\na.wav,hi,x\n",
        "a.csv:1: unknown column 'speker' (did you mean 'speaker'",
    ),
    "missing audio": ("a.csv", HEAD + "a.wav,hi,s\ngone.wav,ho,s\n", "a.csv:3: s-gone: no audio file"),
    "text as audio": ("a.csv", "text,audio,speaker\na.wav," + 99 * "word " + ",s\n", "a.csv:2: s-word_word_word"),
    "no audio path": ("a.csv", HEAD + ",hi,s\n", "a.csv:2: no audio path"),
    "duplicate id": ("a.csv", HEAD + "a.wav,hi,s\nb.wav,hi,s\na.wav,ho,s\n", "a.csv:4: utterance id 's-a' is that of"),
    "same id after cleaning": ("a.csv", "id,audio,text\na b,a.wav,x\na_b,b.wav,x\n", "a.csv:3: utterance id 'a_b'"),
    "empty text": ("a.csv", HEAD + "a.wav,hi,s\n\nb.wav, ,s\n", "a.csv:4: s-b: empty text"),
    "empty text after line ends in a field": ("a.csv", HEAD + 'a.wav,"x\ny",s\nb.wav,,s\n', "a.csv:4: s-b: empty text"),
    "fields": ("a.csv", HEAD + "a.wav,hi, there,s\n", "a.csv:2: 4 fields, but the header has 3; quote"),
    "open quote": ("a.csv", HEAD + 'a.wav,"hi,s\n', "a quotation mark that is not closed"),
    "latin1": ("a.csv", (HEAD + "a.wav,caf\xe9,s\n").encode("latin1"), "a.csv:2: not UTF-8: byte 0xe9 at column 10"),
    "utf16": ("a.csv", (HEAD + "a.wav,hi,s\n").encode("utf-16"), "a.csv:1: is UTF-16, not UTF-8"),
    "NUL": ("a.csv", HEAD + "a.wav,h\0i,s\n", "a.csv:2: holds NUL bytes"),
    "old Mac": ("a.csv", HEAD.replace("\n", "\r") + "a.wav,hi,s\r", "a.csv:1: a carriage return within the line"),
    "empty file": ("a.csv", "", "a.csv: is empty"),
    "header only": ("a.csv", HEAD, "a.csv: no utterance"),
    "entity not in text": ("a.csv", "audio,text,entities\na.wav,hi,name=ho\n", "a.csv:2: a: the text has no entity"),
    "entities": ("a.csv", "audio,text,entities\na.wav,hi,hi\n", "a.csv:2: entities 'hi' are not slot=value"),
    "no JSON": ("a.jsonl", '{"audio": "a.wav", "text": "x"}\n{"audio": \n', "a.jsonl:2: not JSON"),
    "no object": ("a.jsonl", '["a.wav"]\n', "a.jsonl:1: not a JSON object"),
    "no text": ("a.jsonl", '{"audio": "a.wav"}\n', "a.jsonl:1: no 'text'"),
    "surrogate": ("a.jsonl", '{"audio": "a.wav", "text": "x\\ud800"}\n', "a.jsonl:1: 'a': a character that is none"),
    "number as text": ("a.jsonl", '{"audio": "a.wav", "text": 5}\n', "a.jsonl:1: text is 5, not a text"),
    "not gzip": ("a.csv.gz", HEAD, "a.csv.gz: cannot be read"),
    "other form": ("a.txt", "x\n", "a.txt: no known form; data is a Kaldi data directory"),
    "long id in ljspeech": ("metadata.csv", 300 * "a" + "|x\n", "metadata.csv:1: lj-aaa"),
    "gap in ljspeech": ("metadata.csv", "a|x\nb|\n", "metadata.csv:2: lj-b: empty text"),
}


@pytest.mark.parametrize("name", BAD)
def test_damage_is_named_with_its_line(tmp_path, name, monkeypatch):
    file, content, message = BAD[name]
    folder = tmp_path / "wavs" if file == "metadata.csv" else tmp_path
    folder.mkdir(exist_ok=True)
    for audio in ("a.wav", "b.wav"):
        (folder / audio).touch()
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as err:
        import_data.main([str(tmp_path / file), str(tmp_path / "out")])
    assert message in str(err.value)
    assert not (tmp_path / "out").exists()


def test_many_faults_are_shown_at_once(tmp_path):
    (tmp_path / "a.csv").write_text("audio,text\n" + "".join(f"{i}.wav,x\n" for i in range(8)))
    with pytest.raises(UserError) as err:
        importer.read(tmp_path / "a.csv")
    assert str(err.value).count("no audio file") == 5
    assert str(err.value).endswith("and 3 more")


KALDI_BAD = {
    "text": ("u1 hi\nu2\n", "text:2: u2: empty text"),
    "wav.scp": ("u1 a.wav\nu2 nowhere.wav\n", "wav.scp:2: u2: no audio file nowhere.wav, from"),
    "wav.scp, a long name": ("u1 a.wav\nu2 " + 300 * "a" + "\n", "wav.scp:2: u2: no audio file aaa"),
    "utt2spk": ("u1 s\n", "u2: not in utt2spk"),
}


@pytest.mark.parametrize("name", KALDI_BAD)
def test_damaged_kaldi_directory(tmp_path, name):
    (tmp_path / "a.wav").touch()
    tables = {"wav.scp": "u1 a.wav\nu2 a.wav\n", "text": "u1 hi\nu2 ho\n", "utt2spk": "u1 s\nu2 s\n"}
    tables[name.partition(",")[0]], message = KALDI_BAD[name]
    for file, content in tables.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as err:
        importer.read(tmp_path)
    assert message in str(err.value)


CUT = {"id": "c", "type": "MonoCut", "channel": 0, "start": 0, "duration": 2.0}
ITEM = {"name": "r", "seconds": 2.0, "text": "x", "speaker": "s"}
LHOTSE_BAD = {
    "mixed cut": ({"type": "MixedCut"}, "a cut of type 'MixedCut'"),
    "no recording": ({"recording": None}, "no recording with an id"),
    "command": ({"recording": {"id": "r", "sources": [{"type": "command", "source": "sox"}]}}, "of type 'command'"),
    "transforms": ({"recording": {**lhotse_recording(ITEM, "a.wav"), "transforms": [{}]}}, "has transforms"),
    "one channel of two": ({"recording": lhotse_recording(ITEM, "a.wav", 2)}, "channel 0 of 2"),
    "beyond the recording": (
        {"supervisions": [lhotse_supervision(ITEM, 0, 9.0)]},
        "from 0 to 9 s of a recording of 2 s",
    ),
    "start": ({"start": "0"}, "start is '0', not a number"),
    "no text": ({"supervisions": [{"id": "r", "start": 0, "duration": 2}]}, "r: empty text"),
}


@pytest.mark.parametrize("name", LHOTSE_BAD)
def test_cuts_that_need_lhotse(tmp_path, name):
    change, message = LHOTSE_BAD[name]
    (tmp_path / "a.wav").touch()
    good = {**CUT, "recording": lhotse_recording(ITEM, "a.wav"), "supervisions": [lhotse_supervision(ITEM, 0, 2.0)]}
    path = tmp_path / "cuts.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert importer.read(path)[1].text == {"s-r": "x"}
    path.write_text(json.dumps({**good, "id": "d", **change}) + "\n")
    with pytest.raises(UserError) as err:
        importer.read(path)
    assert message in str(err.value)
    assert "cuts.jsonl:1: " in str(err.value)


def test_supervision_of_an_unknown_recording(tmp_path):
    (tmp_path / "recordings.jsonl").write_text(json.dumps(lhotse_recording(ITEM, "a.wav")))
    line = {**lhotse_supervision(ITEM, 0, 2.0), "recording_id": "other"}
    (tmp_path / "supervisions.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match="supervisions.jsonl:1: recording_id 'other' is not in"):
        importer.read(tmp_path)
    os.remove(tmp_path / "recordings.jsonl")
    with pytest.raises(UserError, match="no recordings file beside it"):
        importer.read(tmp_path)


def data_of(speakers):
    """A DataDir of {speaker: number of utterances}."""
    utts = {f"{spk}-{i:03d}": spk for spk, count in speakers.items() for i in range(count)}
    return DataDir({u: f"/{u}.wav" for u in utts}, dict.fromkeys(utts, "x"), utts)


def test_whole_speakers_are_held_out():
    data = data_of({f"s{i:02d}": 7 + i for i in range(20)})
    parts = importer.hold_out(data, 2)
    assert sorted(utt for part in parts for utt in part.text) == data.utts
    speakers = [set(part.utt2spk.values()) for part in parts]
    assert all(not a & b for a in speakers for b in speakers if a is not b)
    need = len(data.text) / 10
    # As many as needed, and no whole speaker more.
    assert all(need <= len(part.text) < need + 27 for part in parts[1:])


def test_utterances_are_held_out_of_few_speakers():
    data = data_of({"a": 30, "b": 20})
    parts = importer.hold_out(data, 1)
    assert [len(part.text) for part in parts] == [45, 5]
    again = DataDir(*(dict(reversed(t.items())) for t in (data.wav_scp, data.text, data.utt2spk)))
    assert [part.utts for part in importer.hold_out(again, 1)] == [part.utts for part in parts]


def test_held_out_sets_have_at_most_a_thousand():
    assert [len(part.text) for part in importer.hold_out(data_of({"a": 12000}), 1)] == [11000, 1000]


def test_sets_without_an_utterance_are_not_written(tmp_path):
    """Such as what is left of a training set of which all is held out."""
    with pytest.raises(UserError, match=r"train.*: no utterance is left for it; choose, or hold out, fewer"):
        DataDir({}, {}, {}).write(tmp_path / "train")
    assert not (tmp_path / "train").exists()


def test_too_little_to_hold_out():
    with pytest.raises(UserError, match="2 utterances are too few to hold 2 sets out"):
        importer.hold_out(data_of({"a": 2}), 2)


def test_one_speaker_with_most_utterances():
    parts = importer.hold_out(data_of({**{f"s{i}": 1 for i in range(20)}, "most": 80}), 2)
    assert [len(part.text) for part in parts] == [80, 10, 10]


def test_nothing_is_written_over_its_source_or_twice(tmp_path):
    source, train = str(tmp_path / "source"), str(tmp_path / "train")
    data_of({f"s{i}": 2 for i in range(10)}).write(source)
    for arguments in ([source], [train, "--held_out", source], [train, "--held_out", f"{train}/"]):
        with pytest.raises(UserError, match="is given twice, and would be overwritten"):
            import_data.main([source, *arguments])
    assert not os.path.exists(train)


def test_unchanged_directories_are_not_written_again(tmp_path, capsys):
    for name in "abcdefghij":
        (tmp_path / f"{name}.wav").touch()
    lines = ["audio,text,entities"] + [f"{name}.wav,hi,x=hi" for name in "abcdefghij"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    command = [str(tmp_path / "list.csv"), str(tmp_path / "train"), "--held_out", str(tmp_path / "valid")]

    def stamps():
        return {p: p.stat().st_mtime_ns for name in ("train", "valid") for p in (tmp_path / name).iterdir()}

    import_data.main(command)
    first = stamps()
    assert len(DataDir.load(tmp_path / "train").text) == 9
    assert len(DataDir.load(tmp_path / "valid").text) == 1
    capsys.readouterr()
    import_data.main(command)
    assert stamps() == first
    assert capsys.readouterr().out.count("(unchanged)") == 2
    # A file that should no longer be there is a change too.
    (tmp_path / "list.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    import_data.main(command)
    assert not (tmp_path / "train" / "entities").exists()


@pytest.mark.skipif(not os.environ.get("FSDD"), reason="FSDD is not set to Free Spoken Digits")
def test_a_real_kaldi_directory():
    folder = os.path.join(os.environ["FSDD"], "test")
    if not os.path.isfile(os.path.join(folder, "wav.scp")):
        pytest.skip("FSDD holds no test/wav.scp")

    def table(name):
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            return dict(line.rstrip("\n").split(" ", 1) for line in f)

    data = importer.read(folder)[1]
    assert (data.text, data.utt2spk) == (table("text"), table("utt2spk"))
    given = table("wav.scp")
    assert data.wav_scp.keys() == given.keys()
    assert all(path.endswith(f"/{given[utt]}") and os.path.isfile(path) for utt, path in data.wav_scp.items())
