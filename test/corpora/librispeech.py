"""Corpora of egs/librispeech in small: a few utterances of noise each, in the public layouts and file formats.

`python -m corpora.librispeech DIR`, in test/, writes them all and prints what db.sh needs.
"""

import json
import sys
from pathlib import Path

import numpy as np

from . import noise, write_audio

LIBRISPEECH = {
    "train-clean-100": {"19": "F", "26": "M"}, "train-clean-360": {"14": "F"}, "train-other-500": {"20": "F"},
    "dev-clean": {"84": "F"}, "test-clean": {"61": "M"}, "test-other": {"367": "F"},
}  # fmt: skip
LIBRISPEECH_WORDS = "HE HOPED THERE WOULD BE STEW FOR DINNER TURNIPS AND CARROTS AND BRUISED POTATOES".split()
PER_CHAPTER = 8
MEETINGS = [f"{name}{letter}" for name in ("EN2002", "ES2004", "IS1009", "TS3003") for letter in "abcd"]
EARNINGS_CALLS = ("4432298", "4450488", "4470290", "4479741", "4483338", "4485244")


def write_text(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def write_sphere(path, seconds, rate=16000):
    """A NIST SPHERE file as TED-LIUM has them: a header of 1,024 bytes and 16-bit samples."""
    pcm = np.rint(noise(seconds, rate) * 32767).astype("<i2")
    head = f"NIST_1A\n   1024\nsample_count -i {len(pcm)}\nsample_n_bytes -i 2\nchannel_count -i 1\n"
    head += f"sample_byte_format -s2 01\nsample_rate -i {rate}\nsample_coding -s3 pcm\nend_head\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.encode().ljust(1024) + pcm.tobytes())


def make_librispeech(root, parts=LIBRISPEECH, listed={}):  # noqa: B006  read only
    """PER_CHAPTER utterances a speaker; utterance N says the N + 3 words from word N on.

    parts: {part: {speaker: sex}}. listed: {part: the one that SPEAKERS.TXT has its speakers in}.
    """
    home = root / "LibriSpeech"
    lines = [
        "; Some pipe(|) separated metadata about all LibriVox readers\n",
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n",
        "1    | F | train-other-500  | 25.00 | A reader | of other parts\n",
    ]
    for part, speakers in parts.items():
        for speaker, sex in speakers.items():
            lines.append(f"{speaker:<4} | {sex} | {listed.get(part, part):<16} | 25.03 | Reader {speaker}\n")
            folder, told = home / part / speaker / "121550", []
            for n in range(PER_CHAPTER):
                utt = f"{speaker}-121550-{n:04d}"
                told.append(f"{utt} {' '.join(LIBRISPEECH_WORDS[n : 2 * n + 3])}\n")
                write_audio(folder / f"{utt}.flac", 1.0 + 0.1 * n)
            write_text(folder / f"{speaker}-121550.trans.txt", "".join(told))
    write_text(home / "SPEAKERS.TXT", "".join(lines))
    return home


def make_commonvoice(root):
    """train, dev, test, validated with the columns of version 17; mp3 at 32 kHz."""
    home = root / "cv-corpus-17.0-2024-03-15"
    names = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant"
    names += " locale segment"
    sentences = {
        "test": ['"Where\'s my hat?" he asked.', "Zoë & Tom's café (closed)"],
        "dev": ["It rained."],
        "train": ["The sea is calm.", "Nobody knew."],
    }
    sentences["validated"] = [s for found in list(sentences.values()) for s in found]
    for part, found in sentences.items():
        lines = ["\t".join(names.split()) + "\n"]
        for n, sentence in enumerate(found):
            client, clip = f"{n:x}" * 128, f"common_voice_en_{part}{n:04d}.mp3"
            fields = [client, clip, f"{n:064x}", sentence, "", "2", "0", "", "", "", "", "en", ""]
            lines.append("\t".join(fields) + "\n")
            write_audio(home / "en" / "clips" / clip, 1.5, 32000, format="MP3", subtype="MPEG_LAYER_III")
        write_text(home / "en" / f"{part}.tsv", "".join(lines))
    return home


def make_tedlium3(root):
    """A talk a part: marks, split suffixes, a segment to ignore, one without words, one that outlasts the talk."""
    home = root / "TEDLIUM_release-3"
    for part, talk in (("train", "AimeeMullins_2009P"), ("dev", "AlGore_2009"), ("test", "TomWujec_2010U")):
        lines = [
            ";; a comment\n",
            f"{talk} 1 {talk} 0.00 0.50 <o,,unknown> ignore_time_segment_in_scoring\n",
            f"{talk} 1 {talk} 0.50 2.25 <o,f0,male> i 'd like {{NOISE}} to share with you a(2) discovery <sil>\n",
            f"{talk} 1 {talk} 2.25 3.00 <o,f0,male> {{NOISE}}\n",
            f"{talk} 1 {talk} 3.00 4.10 <o,f0,male> <unk> it 's what we don 't know\n",
        ]
        write_text(home / "legacy" / part / "stm" / f"{talk}.stm", "".join(lines))
        write_sphere(home / "legacy" / part / "sph" / f"{talk}.sph", 4.0)
    return home


def make_voxpopuli(root):
    """What get_asr_data writes for the test part: ogg (Vorbis), one speaker unknown, one text raw only, one empty."""
    home = root / "voxpopuli"
    folder = home / "transcribed_data" / "en"
    rows = [
        ("20180613-0900-PLENARY-21-en_1", "Mr President, thank you.", "mr president thank you.", "96812", "female"),
        ("20180613-0900-PLENARY-21-en_2", "We agree.", "", "None", "male"),
        ("20200203-0900-PLENARY-3-en_0", "", "", "96812", "female"),
    ]
    lines = ["\t".join(["id", "raw_text", "normalized_text", "speaker_id", "split", "gender"]) + "\n"]
    for name, raw, normalised, speaker, gender in rows:
        lines.append("\t".join([name, raw, normalised, speaker, "test", gender]) + "\n")
        write_audio(folder / name[:4] / f"{name}.ogg", 1.2, format="OGG", subtype="VORBIS")
    write_text(folder / "asr_test.tsv", "".join(lines))
    return home


def make_gigaspeech(root):
    """Two recordings (opus): punctuation tags, garbage segments, a segment of another subset."""
    home, audios = root / "GigaSpeech", []
    texts = {
        "POD1000000004": ["AS THEY'RE LEAVING <COMMA> CAN KASH PULL ZAHRA ASIDE <QUESTIONMARK>", "<SIL>"],
        "YOU1000000012": ["THE DOOR OPENS <PERIOD>", "<MUSIC>", "NO <EXCLAMATIONPOINT> NEVER"],
    }
    for aid, found in texts.items():
        path = f"audio/youtube/P0000/{aid}.opus"
        segments = []
        for n, text in enumerate(found):
            segment = {"sid": f"{aid}_S{n:07d}", "speaker": "N/A", "begin_time": 1.0 * n, "end_time": n + 0.9}
            segments.append({**segment, "text_tn": text, "subsets": ["{TEST}"]})
        segments.append({**segments[0], "sid": f"{aid}_S0000099", "text_tn": "UNUSED", "subsets": ["{XL}", "{L}"]})
        audio = {"title": "A title", "url": "http://a.b", "path": path, "aid": aid, "source": "youtube"}
        form = {"format": "opus", "sample_rate": 16000, "codec": "s16le", "channels": 1, "duration": 3.0}
        audios.append({**audio, **form, "speaker": "N/A", "subsets": ["{TEST}"], "segments": segments})
        write_audio(home / path, 3.0, format="OGG", subtype="OPUS")
    data = {"dataset": "GigaSpeech", "language": "EN", "version": "v1.0.0", "audios": audios}
    write_text(home / "GigaSpeech.json", json.dumps(data, indent=2))
    return home


def make_ami(root):
    """The 16 meetings of the test part, one speaker each: punctuation, sounds, a segment without words."""
    home, notes = root / "ami", root / "ami" / "ami_public_manual_1.6.2"
    head = '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n'
    head += '<nite:root nite:id="{}" xmlns:nite="http://nite.sourceforge.net/">\n'
    meetings = ""
    for number, meeting in enumerate(MEETINGS):
        meetings += (
            f'  <meeting nite:id="meet_{number}" observation="{meeting}" duration="6.0">\n'
            f'    <speaker nite:id="{meeting}_1" channel="1" nxt_agent="A" global_name="FEE{number:03d}" role="PM"/>\n'
            "  </meeting>\n"
        )
        word = f'  <{{}} nite:id="{meeting}.A.words{{}}" starttime="{{}}" endtime="{{}}"{{}}'
        words = [
            word.format("w", 0, 0.5, 0.9, ">Okay</w>"),
            word.format("w", 1, 0.9, 0.9, ' punc="true">,</w>'),
            word.format("vocalsound", 2, 1.0, 1.2, ' type="laugh"/>'),
            word.format("w", 3, 1.2, 1.6, ">that&#39;s</w>"),
            word.format("w", 4, 1.6, 2.0, ">café</w>"),
            word.format("w", 5, 2.0, 2.0, ' punc="true">.</w>'),
            word.format("vocalsound", 6, 3.0, 3.5, ' type="cough"/>'),
            word.format("w", 7, 4.0, 4.4, ' trunc="true">Mm</w>'),
        ]
        ends = {"1": (0.5, 2.1, 0, 5), "2": (3.0, 3.5, 6, 6), "3": (4.0, 4.5, 7, None)}
        segments = ""
        for name, (start, end, first, last) in ends.items():
            href = f"{meeting}.A.words.xml#id({meeting}.A.words{first})"
            href += "" if last is None else f"..id({meeting}.A.words{last})"
            segments += (
                f'  <segment nite:id="{meeting}.sync.{name}" channel="1" transcriber_start="{start:.3f}" '
                f'transcriber_end="{end:.3f}">\n    <nite:child href="{href}"/>\n  </segment>\n'
            )
        for kind, content in (("words", "\n".join(words) + "\n"), ("segments", segments)):
            text = head.format(f"{meeting}.A.{kind}") + content + "</nite:root>\n"
            write_text(notes / kind / f"{meeting}.A.{kind}.xml", text, "iso-8859-1")
        write_audio(home / "amicorpus" / meeting / "audio" / f"{meeting}.Headset-1.wav", 5.0, subtype="PCM_16")
    text = head.format("meet.00") + meetings + "</nite:root>\n"
    write_text(notes / "corpusResources" / "meetings.xml", text, "iso-8859-1")
    return home


def make_earnings22(root):
    """The six calls of the test part: sentences by punctuation and speaker, words without a time, inaudible ones."""
    home = root / "earnings22"
    rows = [
        "token|speaker|ts|endTs|punctuation|prepunctuation|case|tags|oldTs|oldEndTs|ali_comment",
        "Good|0|||||UC|[]|||del",
        "morning|0|||.||LC|[]|||del",
        "Revenue|0|0.5000|0.9000|||UC|[]|||",
        "rose|0|||||LC|[]|||del",
        "ten|0|1.2000|1.4000|||LC|['18:PERCENT']|||,push_last",
        "percent|0|1.4000|1.7000|.||LC|['18:PERCENT']|||,push_last",
        "Thank|0|2.0000|2.2000|||UC|[]|||",
        "you|0|2.2000|2.4000|,||LC|[]|||",
        "Next|1|2.5000|2.8000|||UC|[]|||",
        "inaudible|1|2.8000|3.0000|?||LC|[]|||",
        "Yes|1|3.2000|3.6000|.||UC|[]|||",
    ]
    for call in EARNINGS_CALLS:
        path = home / "transcripts" / "force_aligned_nlp_references" / f"{call}.aligned.nlp"
        write_text(path, "\n".join(rows) + "\n")
        write_audio(home / "media" / f"{call}.mp3", 4.0, 24000, format="MP3", subtype="MPEG_LAYER_III")
    return home


def make_spgispeech(root):
    """val.csv and its calls; the transcripts have quotation marks and an ampersand."""
    home = root / "spgispeech_release"
    call, lines = "13aa6c0669adb5544a0d62beef677189", ["wav_filename|wav_filesize|transcript\n"]
    for name, text in (("12", 'Daniel, what of "those" assets & the $5 million?'), ("75", "next year. If you think")):
        audio = home / "spgispeech" / "val" / call / f"{name}.wav"
        write_audio(audio, 1.3, subtype="PCM_16")
        lines.append(f"{call}/{name}.wav|{audio.stat().st_size}|{text}\n")
    write_text(home / "val.csv", "".join(lines))
    return home


MAKERS = {
    "LIBRISPEECH": make_librispeech, "COMMONVOICE": make_commonvoice, "TEDLIUM3": make_tedlium3,
    "VOXPOPULI": make_voxpopuli, "GIGASPEECH": make_gigaspeech, "AMI": make_ami, "EARNINGS22": make_earnings22,
    "SPGISPEECH": make_spgispeech,
}  # fmt: skip


def main(argv):
    for name, make in MAKERS.items():
        print(f"export {name}={make(Path(argv[0]).absolute())}")


if __name__ == "__main__":
    main(sys.argv[1:])
