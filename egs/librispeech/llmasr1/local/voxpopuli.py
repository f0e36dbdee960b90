"""VoxPopuli, https://github.com/facebookresearch/voxpopuli: transcribed_data/en/asr_{train,dev,test}.tsv, YEAR/ID.ogg.

This is what its own `voxpopuli.get_asr_data` writes. Converted .wav files in the place of .ogg do as well.
"""

from layout import left_out, need

from espnet_llmvq.data.manifest import Item, read_table

PARTS = ("test", "dev", "train")
NEEDED = ("id", "raw_text", "normalized_text", "speaker_id")


def read(root, part, faults):
    """Items of a part: the normalised text, or the raw one where that is empty."""
    inner = root / "transcribed_data" / "en"
    folder = inner if inner.is_dir() else root
    path = need(folder / f"asr_{part}.tsv", "set VOXPOPULI to the --root of voxpopuli.get_asr_data --lang en")
    items, empty = [], 0
    for where, row in read_table(path, NEEDED, faults):
        text = row["normalized_text"] or row["raw_text"]
        if not row["id"]:
            faults.add(where, "no id (restore the list)")
            continue
        if not text:
            empty += 1
            continue
        audio = folder / row["id"][:4] / f"{row['id']}.ogg"
        if not audio.is_file() and audio.with_name(f"{row['id']}.wav").is_file():
            audio = audio.with_name(f"{row['id']}.wav")
        speaker = "" if row["speaker_id"] == "None" else row["speaker_id"]
        items.append(Item(where, audio, text, row["id"], row["id"], speaker))
    left_out(path, empty, len(items) + empty, "utterances without a text")
    return items
