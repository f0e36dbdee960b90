"""Case and punctuation for LibriSpeech's transcripts, from LibriSpeech-PC (https://www.openslr.org/145): PART.json."""

import json
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.manifest import Faults, read_json_lines


def restore(utts, path, part, text_key):
    """({utt: text}, {utt: reason}) of utterances of a part. text_key: `text` or `text_raw` of the manifest."""
    manifest = Path(path) / f"{part}.json"
    if not manifest.is_file():
        raise UserError(f"LIBRISPEECH_PC={path}: no {part}.json in it; unpack https://www.openslr.org/145 there")
    faults, given = Faults(), {}
    for where, row in read_json_lines(manifest, faults):
        values = [row.get(name) for name in ("audio_filepath", text_key)]
        if not all(isinstance(value, str) for value in values):
            faults.add(where, f"no audio_filepath or no {text_key}: {json.dumps(row)[:80]}")
            continue
        given[Path(values[0]).stem] = " ".join(values[1].split())
    faults.check()
    texts = {utt: given[utt] for utt in utts if given.get(utt)}
    return texts, {utt: f"no text in {manifest.name} of LibriSpeech-PC" for utt in utts if utt not in texts}
