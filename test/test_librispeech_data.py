"""Data of egs/librispeech/llmasr1: eight public layouts, what is wrong with damaged ones, and the download."""

import hashlib
import http.server
import re
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from corpora import damage, librispeech, write_audio
from recipe_modules import local_modules

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir

RECIPE = Path(__file__).resolve().parents[1] / "egs/librispeech/llmasr1"
CORPORA = ("commonvoice", "tedlium3", "voxpopuli", "gigaspeech", "ami", "earnings22", "spgispeech")


@pytest.fixture(scope="module")
def data():
    """local/data.py, which finds its neighbours by their plain names."""
    with local_modules(RECIPE / "local") as load:
        yield load("data")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """{corpus: its folder}, all of them."""
    room = tmp_path_factory.mktemp("corpora")
    return {name.lower(): make(room) for name, make in librispeech.MAKERS.items()}


def arguments(roots, out, **changed):
    paths = {**roots, **changed}
    return [f"--{name}={path}" for name, path in paths.items()] + ["--datadir", str(out), "--nj", "1"]


@pytest.fixture(scope="module")
def made(data, roots, tmp_path_factory):
    """The data directory of a run over all corpora."""
    out = tmp_path_factory.mktemp("made") / "data"
    data.main([*arguments(roots, out), "--more", "commonvoice:dev", "commonvoice:validated", "tedlium3:train"])
    return out


def text(made, name):
    return DataDir.load(made / name).text


def test_every_set_is_valid_with_its_audio(made):
    sets = sorted(p.name for p in made.iterdir())
    assert sets == sorted(
        ["train", "valid", "test_clean", "test_other", *(f"test_{name}" for name in CORPORA)]
        + ["commonvoice_dev", "commonvoice_validated", "tedlium3_train"]
    )
    for name in sets:
        assert validate(made / name, nj=1) == [], name


def test_librispeech(made, roots):
    train, clean = DataDir.load(made / "train"), DataDir.load(made / "test_clean")
    assert set(train.utt2spk.values()) == {"19", "26", "14", "20"} and len(train.text) == 32
    assert clean.text["61-121550-0001"] == "hoped there would be"
    assert clean.wav_scp["61-121550-0001"] == str(roots["librispeech"] / "test-clean/61/121550/61-121550-0001.flac")
    assert train.extra["spk2gender"] == {"19": ["f"], "26": ["m"], "14": ["f"], "20": ["f"]}
    assert train.segments is None and list(text(made, "valid"))[0] == "84-121550-0000"


def test_librispeech_by_parts_with_its_capitals(data, roots, tmp_path):
    argv = ["--librispeech", str(roots["librispeech"].parent), "--datadir", str(tmp_path / "data")]
    data.main([*argv, "--train_parts", "train-clean-100", "--text_case", "keep"])
    train = DataDir.load(tmp_path / "data" / "train")
    assert set(train.utt2spk.values()) == {"19", "26"}
    assert train.text["19-121550-0000"] == "HE HOPED THERE"


def test_commonvoice(made):
    found = DataDir.load(made / "test_commonvoice")
    assert found.text == {
        "0000000000000000-common_voice_en_test0000": '"Where\'s my hat?" he asked.',
        "1111111111111111-common_voice_en_test0001": "Zoë & Tom's café (closed)",
    }
    assert sorted(found.utt2spk.values()) == ["0" * 16, "1" * 16]
    assert len(text(made, "commonvoice_dev")) == 1 and len(text(made, "commonvoice_validated")) == 5


def test_tedlium3(made):
    found = DataDir.load(made / "test_tedlium3")
    assert found.text == {
        "TomWujec_2010U-0000050-0000225": "i'd like to share with you a discovery",
        "TomWujec_2010U-0000300-0000410": "it's what we don't know",
    }
    # The talk lasts 4 s, the segment says 4.1.
    assert found.segments["TomWujec_2010U-0000300-0000410"] == ("TomWujec_2010U", 3.0, 4.0)
    assert found.wav_scp["TomWujec_2010U"].endswith("legacy/test/sph/TomWujec_2010U.sph")
    assert set(DataDir.load(made / "tedlium3_train").utt2spk.values()) == {"AimeeMullins_2009P"}


def test_voxpopuli(made):
    found = DataDir.load(made / "test_voxpopuli")
    assert found.text == {
        "20180613-0900-PLENARY-21-en_2": "We agree.",
        "96812-20180613-0900-PLENARY-21-en_1": "mr president thank you.",
    }
    # Who is not known is a speaker of his own.
    assert sorted(found.utt2spk.values()) == ["20180613-0900-PLENARY-21-en_2", "96812"]


def test_voxpopuli_converted_to_wav(data, roots, tmp_path):
    root = shutil.copytree(roots["voxpopuli"], tmp_path / "voxpopuli")
    for path in root.rglob("*.ogg"):
        path.unlink()
        write_audio(path.with_suffix(".wav"), 1.0)
    found = data.prepare(data.reader("voxpopuli").read, root, "test", 1)
    assert all(path.endswith(".wav") for path in found.wav_scp.values()) and len(found.text) == 2


def test_gigaspeech(made):
    found = DataDir.load(made / "test_gigaspeech")
    assert found.text == {
        "POD1000000004_S0000000": "AS THEY'RE LEAVING, CAN KASH PULL ZAHRA ASIDE?",
        "YOU1000000012_S0000000": "THE DOOR OPENS.",
        "YOU1000000012_S0000002": "NO! NEVER",
    }
    assert found.segments["YOU1000000012_S0000002"] == ("YOU1000000012", 2.0, 2.9)
    assert found.wav_scp["POD1000000004"].endswith("audio/youtube/P0000/POD1000000004.opus")


def test_ami(made):
    found = DataDir.load(made / "test_ami")
    assert len(found.text) == 2 * 16 and len(found.wav_scp) == 16
    assert found.text["FEE004-ES2004a-1-0000050-0000210"] == "Okay, that's café."
    assert found.text["FEE004-ES2004a-1-0000400-0000450"] == "Mm"
    assert found.utt2spk["FEE004-ES2004a-1-0000400-0000450"] == "FEE004"
    assert found.segments["FEE004-ES2004a-1-0000050-0000210"] == ("ES2004a.Headset-1", 0.5, 2.1)


def test_earnings22(made):
    found = DataDir.load(made / "test_earnings22")
    assert len(found.wav_scp) == 6
    call = {utt: words for utt, words in found.text.items() if utt.startswith("4432298")}
    # Not the sentence without times, nor the one with a word that nobody could hear.
    assert call == {
        "4432298-0-0000050-0000170": "Revenue rose ten percent.",
        "4432298-0-0000200-0000240": "Thank you,",
        "4432298-1-0000320-0000360": "Yes.",
    }
    assert found.segments["4432298-0-0000050-0000170"] == ("4432298", 0.5, 1.7)


def test_spgispeech(made):
    call = "13aa6c0669adb5544a0d62beef677189"
    assert text(made, "test_spgispeech") == {
        f"{call}-12": 'Daniel, what of "those" assets & the $5 million?',
        f"{call}-75": "next year. If you think",
    }


def test_sets_without_a_path_are_left_out_and_told(data, roots, tmp_path, capsys):
    out = tmp_path / "data"
    data.main(arguments({"librispeech": roots["librispeech"], "ami": roots["ami"]}, out))
    assert sorted(p.name for p in out.iterdir()) == ["test_ami", "test_clean", "test_other", "train", "valid"]
    log = capsys.readouterr().out
    for name in set(CORPORA) - {"ami"}:
        assert f"test_{name}: left out, as {name.upper()} is not set" in log
    before = (out / "train" / "text").stat().st_mtime_ns
    data.main(arguments({"librispeech": roots["librispeech"]}, out))
    assert "train: 32 utterances, 4 speakers, 192 words, as before" in capsys.readouterr().out
    assert (out / "train" / "text").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--librispeech="], "LIBRISPEECH is not set: write into db.sh"),
        (["--train_parts", "train-clean-10"], "did you mean 'train-clean-100'"),
        (["--more", "comonvoice:dev"], "did you mean 'commonvoice'"),
        (["--more", "commonvoice:tset"], "did you mean 'test'"),
        (["--commonvoice=", "--more", "commonvoice:dev"], "--more commonvoice:dev: COMMONVOICE is not set"),
        (["--ami=nowhere"], "nowhere/corpusResources/meetings.xml: not found; set AMI to"),
        (["--tedlium3=nowhere"], "nowhere/legacy/test/stm: not found; set TEDLIUM3"),
        (["--commonvoice=nowhere"], r"nowhere/en/test.tsv: not found; set COMMONVOICE"),
        (["--voxpopuli=nowhere"], "nowhere/asr_test.tsv: not found; set VOXPOPULI"),
        (["--gigaspeech=nowhere"], "nowhere/GigaSpeech.json: not found; set GIGASPEECH"),
        (["--earnings22=nowhere"], "nowhere/transcripts/force_aligned_nlp_references: not found; set EARNINGS22"),
        (["--spgispeech=nowhere"], "nowhere/val.csv: not found; set SPGISPEECH"),
        (["--librispeech=nowhere"], "nowhere/train-clean-100: not found; unpack train-clean-100.tar.gz"),
    ],
)
def test_wrong_paths_and_names(data, roots, tmp_path, argv, message):
    with pytest.raises(UserError, match=message):
        data.main([*arguments(roots, tmp_path / "data"), *argv])
    assert not (tmp_path / "data").exists()


LIBRI = "test-clean/61/121550/61-121550"
CV = "en/test.tsv"
STM = "legacy/test/stm/TomWujec_2010U.stm"
VOX = "transcribed_data/en/asr_test.tsv"
NOTES = "ami_public_manual_1.6.2"
NLP = "transcripts/force_aligned_nlp_references/4450488.aligned.nlp"
CALL = "13aa6c0669adb5544a0d62beef677189"
# corpus: [(what is damaged, file to remove or (file, old, new), what must be said)]
DAMAGE = {
    "librispeech": [
        ("missing clip", f"{LIBRI}-0002.flac", f"{LIBRI}.trans.txt:3: 61-121550-0002: no audio file"),
        ("bad line", (f"{LIBRI}.trans.txt", "61-121550-0003 ", "61-121550-0003"), f"{LIBRI}.trans.txt:4: expected"),
        ("double id", (f"{LIBRI}.trans.txt", "-0003 ", "-0002 "), f"{LIBRI}.trans.txt:4: utterance id .* is that of"),
        ("lost line", (f"{LIBRI}.trans.txt", "-0003 ", "-0002 "), "no line for 61-121550-0003.flac"),
        ("bad speaker", ("SPEAKERS.TXT", "61   | M", "61   | X"), "SPEAKERS.TXT:9: expected 'ID"),
        ("wrong part", ("SPEAKERS.TXT", "test-clean ", "test-other "), "SPEAKERS.TXT:9: speaker 61 is of test-other"),
        ("no speaker", ("SPEAKERS.TXT", "61   | M", "62   | M"), "SPEAKERS.TXT: no line for speaker 61"),
    ],
    "commonvoice": [
        ("missing clip", "en/clips/common_voice_en_test0001.mp3", f"{CV}:3: .*: no audio file"),
        ("bad row", (CV, "\t2\t0\t", "\t2\t"), f"{CV}:2: 12 fields, but the header has 13"),
        ("double id", (CV, "1" * 128 + "\tcommon_voice_en_test0001", "0" * 128 + "\tcommon_voice_en_test0000"),
         f"{CV}:3: utterance id .* is that of .*{CV}:2"),
        ("no sentence", (CV, "Zoë & Tom's café (closed)", ""), f"{CV}:3: .*empty text"),
        ("no client", (CV, "1" * 128, ""), f"{CV}:3: no client_id"),
        ("no column", (CV, "\tsentence\t", "\tsentense\t"), f"{CV}:1: the header lacks the column sentence"),
    ],
    "tedlium3": [
        ("missing talk", "legacy/test/sph/TomWujec_2010U.sph", f"{STM}:3: .*no audio file"),
        ("bad line", (STM, "0.50 2.25 <o", "0.50 later <o"), f"{STM}:3: expected 'TALK 1"),
        ("double id", (STM, "3.00 4.10", "0.50 2.25"), f"{STM}:5: utterance id .* is that of .*{STM}:3"),
        ("reversed", (STM, "0.50 2.25", "2.50 2.25"), f"{STM}:3: .*is empty"),
        ("too long", (STM, "3.00 4.10", "3.00 5.10"), f"{STM}:5: ends at 5.1 s, .*TomWujec_2010U.sph at 4.00 s"),
    ],
    "voxpopuli": [
        ("missing clip", "transcribed_data/en/2018/20180613-0900-PLENARY-21-en_1.ogg", f"{VOX}:2: .*no audio file"),
        ("bad row", (VOX, "\tNone\t", "\t"), f"{VOX}:3: 5 fields, but the header has 6"),
        ("double id", (VOX, "21-en_2\tWe agree.\t\tNone", "21-en_1\tWe agree.\t\t96812"),
         f"{VOX}:3: utterance id .* is that of"),
        ("no id", (VOX, "20180613-0900-PLENARY-21-en_1\t", "\t"), f"{VOX}:2: no id"),
    ],
    "gigaspeech": [
        ("missing audio", "audio/youtube/P0000/YOU1000000012.opus", "segment YOU1000000012_S0000000 of .*no audio"),
        ("unknown tag", ("GigaSpeech.json", "<PERIOD>", "<COLON>"), "YOU1000000012_S0000000 of .*unknown tag <COLON>"),
        ("bad time", ("GigaSpeech.json", '"end_time": 2.9', '"end_time": "x"'), "_S0000002 of .*could not convert"),
        ("no text", ("GigaSpeech.json", '"text_tn": "NO', '"text": "NO'), "YOU1000000012_S0000002 of .*no text_tn"),
        ("no JSON", ("GigaSpeech.json", '"language": "EN",', '"language": "EN"'), r"GigaSpeech.json:4: not JSON"),
        ("double id", ("GigaSpeech.json", "YOU1000000012_S0000002", "YOU1000000012_S0000000"),
         "YOU1000000012_S0000000 of .*utterance id .* is that of"),
    ],
    "ami": [
        ("missing headset", "amicorpus/IS1009b/audio/IS1009b.Headset-1.wav",
         "IS1009b.A.segments.xml: segment IS1009b.sync.1: .*no audio file"),
        ("lost meeting", f"{NOTES}/segments/IS1009b.A.segments.xml", r"segments: no IS1009b.\*.segments.xml"),
        ("lost words", f"{NOTES}/words/IS1009b.A.words.xml", "IS1009b.A.words.xml: not found"),
        ("bad time", (f"{NOTES}/segments/IS1009b.A.segments.xml", "0.500", "early"), "segment IS1009b.sync.1: could"),
        ("unknown word", (f"{NOTES}/segments/IS1009b.A.segments.xml", "words7", "words8"),
         r"segment IS1009b.sync.3: no word IS1009b.A.words8 in words/IS1009b.A.words.xml"),
        ("no range", (f"{NOTES}/segments/IS1009b.A.segments.xml", "#id", "#ib"), "sync.1: expected FILE#id"),
        ("no XML", (f"{NOTES}/words/IS1009b.A.words.xml", "Okay</w>", "Okay</v>"), "IS1009b.A.words.xml:3: not XML"),
        ("double id", (f"{NOTES}/segments/IS1009b.A.segments.xml", 'start="4.000" transcriber_end="4.500"',
         'start="0.500" transcriber_end="2.100"'), "segment IS1009b.sync.3: utterance id .* is that of"),
        ("no speaker", (f"{NOTES}/corpusResources/meetings.xml", '"IS1009b"', '"IS1009x"'), "speaker A of IS1009b"),
    ],
    "earnings22": [
        ("missing call", "media/4450488.mp3", f"{NLP}:4: .*no audio file"),
        ("missing transcript", NLP, f"{NLP}: not found; check out"),
        ("bad row", (NLP, "Yes|1|3.2000|3.6000|.||UC|[]|||", "Yes|1|3.2000"), f"{NLP}:12: 3 fields, but the header"),
        ("bad time", (NLP, "0.5000|", "soon|"), f"{NLP}:4: ts is 'soon', not a time"),
        ("no token", (NLP, "rose|0", "|0"), f"{NLP}:5: no token or no speaker"),
        ("double id", (NLP, "Thank|0|2.0000|2.2000|||UC|[]|||\nyou|0|2.2000|2.4000", "A|0|0.5|1|||UC|[]|||\nb|0|1|1.7"),
         f"{NLP}:8: utterance id .* is that of .*{NLP}:4"),
    ],
    "spgispeech": [
        ("missing clip", f"spgispeech/val/{CALL}/75.wav", "val.csv:3: .*no audio file"),
        ("bad row", ("val.csv", "75.wav|", "75.wav;"), "val.csv:3: expected CALL/N.wav"),
        ("bad header", ("val.csv", "wav_filesize", "size"), "val.csv:1: expected wav_filename"),
        ("double id", ("val.csv", "75.wav", "12.wav"), "val.csv:3: utterance id .* is that of .*val.csv:2"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("corpus, case", [(c, case) for c in DAMAGE for case in DAMAGE[c]], ids=lambda v: str(v)[:40])
def test_damage_is_told_with_its_place_and_leaves_nothing(data, roots, tmp_path, corpus, case):
    _, what, message = case
    root = shutil.copytree(roots[corpus], tmp_path / corpus)
    damage(root, what)
    given = {"librispeech": roots["librispeech"], corpus: root}
    with pytest.raises(UserError, match=message):
        data.main(arguments(given, tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_truncated_audio(data, roots, tmp_path):
    """Of segments when they are read, of clips when the data directory is checked."""
    root = shutil.copytree(roots["tedlium3"], tmp_path / "ted")
    sph = root / "legacy/test/sph/TomWujec_2010U.sph"
    sph.write_bytes(sph.read_bytes()[:-5000])
    with pytest.raises(UserError, match=rf"{STM}:3: .*truncated: its header promises 129024 bytes, it holds 124024"):
        data.prepare(data.reader("tedlium3").read, root, "test", 1)
    root = shutil.copytree(roots["spgispeech"], tmp_path / "spgi")
    wav = root / f"spgispeech/val/{CALL}/12.wav"
    wav.write_bytes(wav.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"val.csv:2: .*12.wav has 39644 bytes, the list says 41644"):
        data.prepare(data.reader("spgispeech").read, root, "val", 1)


def test_ami_segments_that_end_before_they_begin_are_left_out(data, roots, tmp_path, capsys):
    root = shutil.copytree(roots["ami"], tmp_path / "ami")
    damage(root, (f"{NOTES}/segments/ES2004b.A.segments.xml", 'transcriber_end="4.500"', 'transcriber_end="3.9"'))
    found = data.prepare(data.reader("ami").read, root, "test", 1)
    assert len(found.text) == 31 and not any(utt.startswith("FEE005-ES2004b-1-0000400") for utt in found.text)
    assert "1 of 48 left out: segments that end before they begin" in capsys.readouterr().out


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves `files` with byte ranges; cuts the first answer to each name after `first` bytes."""

    files, first, seen = {}, None, []

    def do_GET(self):
        name, given = self.path.rpartition("/")[2], self.headers.get("Range")
        begin = int(re.fullmatch(r"bytes=(\d+)-", given)[1]) if given else 0
        body, again = self.files.get(name), name in [n for n, _ in self.seen]
        self.seen.append((name, begin))
        if body is None or (given and begin >= len(body)):
            self.send_error(404 if body is None else 416)
            return
        self.send_response(206 if given else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        self.wfile.write(body[begin:] if again or self.first is None else body[begin : self.first])

    def log_message(self, *args):
        pass


@pytest.fixture
def served(roots, tmp_path):
    """(URL, handler class, {part: MD5 sum}) of archives of test-clean and dev-clean."""
    handler = type("Handler", (Ranges,), {"files": {}, "seen": []})
    sums = {}
    for part in ("test-clean", "dev-clean"):
        archive = tmp_path / f"{part}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name in ("SPEAKERS.TXT", part):
                tar.add(roots["librispeech"] / name, f"LibriSpeech/{name}")
        handler.files[archive.name] = archive.read_bytes()
        sums[part] = hashlib.md5(archive.read_bytes()).hexdigest()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/resources/12", handler, sums
    server.shutdown()
    server.server_close()


def test_download_goes_on_where_it_was_cut(data, served, roots, tmp_path):
    url, handler, sums = served
    handler.first = 5000
    dest = tmp_path / "downloads"
    with pytest.raises(UserError, match="after 5000 of .* run again to go on from .*test-clean.tar.gz"):
        data.download.download("test-clean", dest, url, sums)
    assert (dest / "test-clean.tar.gz").stat().st_size == 5000
    assert not (dest / "LibriSpeech/test-clean").exists()
    data.download.download("test-clean", dest, url, sums)
    assert handler.seen == [("test-clean.tar.gz", 0), ("test-clean.tar.gz", 5000)]
    home = dest / "LibriSpeech"
    assert sorted(p.name for p in home.iterdir()) == ["SPEAKERS.TXT", "test-clean"]
    for path in roots["librispeech"].joinpath("test-clean").rglob("*.*"):
        assert (home / path.relative_to(roots["librispeech"])).read_bytes() == path.read_bytes()
    assert [p.name for p in dest.iterdir()] == ["LibriSpeech"]
    data.download.download("test-clean", dest, url, sums)
    assert len(handler.seen) == 2


def test_download_that_was_whole_but_not_unpacked(data, served, tmp_path):
    url, handler, sums = served
    (tmp_path / "d").mkdir()
    (tmp_path / "d/dev-clean.tar.gz").write_bytes(handler.files["dev-clean.tar.gz"])
    data.download.download("dev-clean", tmp_path / "d", url, sums)
    assert (tmp_path / "d/LibriSpeech/dev-clean/84/121550/84-121550.trans.txt").is_file()


def test_wrong_sum_and_wrong_address(data, served, tmp_path):
    url, handler, sums = served
    with pytest.raises(UserError, match="MD5 sum is [0-9a-f]{32}, not 32fa31d27d2e1cad72775fee3f4849a9; it is removed"):
        data.download.download("test-clean", tmp_path / "d", url)
    assert list((tmp_path / "d/LibriSpeech").iterdir()) == [] and not (tmp_path / "d/test-clean.tar.gz").exists()
    with pytest.raises(UserError, match="404.*set LIBRISPEECH"):
        data.download.download("test-other", tmp_path / "d", url, sums)
    with pytest.raises(UserError, match="run again to go on from"):
        data.download.download("test-clean", tmp_path / "d", "http://127.0.0.1:9/nothing", sums)


def test_librispeech_download_is_asked_for_part_by_part(data, roots, tmp_path, monkeypatch):
    asked = []

    def fake(part, dest, url):
        asked.append((part, url))
        shutil.copytree(roots["librispeech"], Path(dest) / "LibriSpeech", dirs_exist_ok=True)

    monkeypatch.setattr(data.download, "download", fake)
    argv = ["--librispeech=download", "--downloads", str(tmp_path / "d"), "--url=http://mirror"]
    with pytest.raises(UserError, match="set AMI to"):
        data.main([*argv, "--ami=nowhere", "--datadir", str(tmp_path / "data")])
    assert asked == []
    data.main([*argv, "--train_parts", "train-clean-100", "--datadir", str(tmp_path / "data")])
    parts = ["dev-clean", "test-clean", "test-other", "train-clean-100"]
    assert asked == [(part, "http://mirror") for part in parts]
    assert len(DataDir.load(tmp_path / "data/train").text) == 16


def run_options(tmp_path, **variables):
    """What run.sh gives to llmasr.sh: (exit status, options or stderr)."""
    room = tmp_path / "recipe"
    room.mkdir(exist_ok=True)
    for name in ("run.sh", "db.sh"):
        shutil.copy(RECIPE / name, room / name)
    (room / "path.sh").write_text("")
    (room / "llmasr.sh").write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n")
    (room / "llmasr.sh").chmod(0o755)
    done = subprocess.run(
        ["bash", "run.sh"], cwd=room, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **variables}
    )
    words = done.stdout.splitlines()
    return done.returncode, dict(zip(words[::2], words[1::2])) if not done.returncode else done.stderr


def test_run_without_paths_has_the_sets_in_domain_and_hub_models(tmp_path):
    status, options = run_options(tmp_path)
    assert status == 0
    assert options["--test_sets"] == "test_clean:id test_other:id"
    assert options["--pretrained_encoder"] == "microsoft/wavlm-large" and options["--llm"] == "Qwen/Qwen2.5-0.5B"
    assert options["--cards"] == "conf/systems.yaml" and options["--expdir"] == "exp/wavlm"


def test_run_with_whisper_and_all_paths(tmp_path):
    paths = {name.upper(): f"/corpora/{name}" for name in CORPORA}
    status, options = run_options(tmp_path, ENCODER="whisper", WHISPER="/models/whisper", LLM="/models/qwen", **paths)
    assert status == 0
    assert options["--test_sets"] == "test_clean:id test_other:id " + " ".join(f"test_{name}:ood" for name in CORPORA)
    assert options["--pretrained_encoder"] == "/models/whisper" and options["--llm"] == "/models/qwen"
    assert options["--cards"] == "conf/whisper/systems.yaml" and options["--expdir"] == "exp/whisper"
    status, error = run_options(tmp_path, ENCODER="wav2vec")
    assert status == 2 and "ENCODER=wav2vec: wavlm or whisper" in error
