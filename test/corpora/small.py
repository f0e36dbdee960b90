"""AN4 and speechocean762 as they are published, with noise for each utterance."""

from . import write_audio

# {speaker: sentences}
AN4_TRAIN = {
    "fabc": ["YES", "ONE FIVE TWO OH SIX", "J O H N", "ENTER SIXTY ONE"],
    "fdef": ["NO", "M A R Y", "TWO SIX EIGHT THREE FOUR SEVEN NINE", "RUBOUT A B C D TEN"],
    "mghi": ["GO", "ZERO", "S T E V E N", "MAY SECOND NINETEEN SIXTY"],
    "mjkl": ["STOP", "ELEVEN THIRTY FIVE", "R U T H", "ERASE X Y Z ONE HUNDRED AND TWENTY"],
    "mjkl2": ["HELP"],
}
AN4_TEST = {"fxyz": ["YES", "J O H N", "K I M", "NOVEMBER FIRST", "ONE FIVE TWO OH SEVEN"]}


def make_an4(root):
    """cmusphinx/an4: etc/an4_PART.fileids and .transcription, with marks in the training part only; wav/."""
    (root / "etc").mkdir(parents=True)
    for part, folder, speakers in (("train", "an4_clstk", AN4_TRAIN), ("test", "an4test_clstk", AN4_TEST)):
        fileids, transcription = [], []
        for spk, sentences in speakers.items():
            for n, sentence in enumerate(sentences):
                name = f"an{30 - n}-{spk}-b"
                fileids.append(f"{folder}/{spk}/{name}\n")
                marked = f"<s> {sentence} </s>" if part == "train" else sentence
                transcription.append(f"{marked} ({name})\n")
                write_audio(root / "wav" / folder / spk / f"{name}.wav")
        (root / "etc" / f"an4_{part}.fileids").write_text("".join(fileids))
        (root / "etc" / f"an4_{part}.transcription").write_text("".join(transcription))
    return root


def make_so762(root, parts):
    """speechocean762 of {part: {speaker: sentences}}: ids without speaker, tabs, paths from the root."""
    for part, speakers in parts.items():
        (root / part).mkdir(parents=True)
        tables = {"wav.scp": [], "text": [], "utt2spk": []}
        for spk, sentences in speakers.items():
            for n, sentence in enumerate(sentences):
                utt = f"0{spk}001{1 + n}"
                wav = f"WAVE/SPEAKER{spk}/{utt}.WAV"
                write_audio(root / wav)
                for name, value in (("wav.scp", wav), ("text", sentence), ("utt2spk", spk)):
                    tables[name].append(f"{utt}\t{value}\n")
        for name, lines in tables.items():
            (root / part / name).write_text("".join(lines))
    return root
