"""SPGISpeech, https://datasets.kensho.com: {train,val}.csv, wav_filename|wav_filesize|transcript; PART/CALL/N.wav."""

import os

from layout import need

from espnet_llmvq.data.manifest import Item, read_lines

PARTS = ("val", "train")  # val is the public test set
HEADER = "wav_filename|wav_filesize|transcript"


def read(root, part, faults):
    """Items of a part; a call is taken for a speaker. Files of another size than the list says are faults."""
    path = need(root / f"{part}.csv", "set SPGISPEECH to the folder that holds val.csv")
    folder = next((f for f in (root / "spgispeech" / part, root / part) if f.is_dir()), root / part)
    lines, items = read_lines(path), []
    if lines[0] != HEADER:
        faults.add(f"{path}:1", f"expected {HEADER}, found {lines[0][:60]!r} (download the list again)")
    for number, line in enumerate(lines[1:], 2):
        where, fields = f"{path}:{number}", line.split("|", 2)
        call, slash, name = fields[0].removesuffix(".wav").partition("/")
        if len(fields) != 3 or not fields[1].isdecimal() or not (call and slash and name):
            faults.add(where, f"expected CALL/N.wav|BYTES|TRANSCRIPT, found {line[:60]!r} (download the list again)")
            continue
        audio = folder / fields[0]
        if audio.is_file() and os.path.getsize(audio) != int(fields[1]):
            size = os.path.getsize(audio)
            faults.add(where, f"{audio} has {size} bytes, the list says {fields[1]} (copy it again)")
        items.append(Item(where, audio, fields[2], fields[0], f"{call}-{name}", call))
    return items
