"""Utterances from Lhotse manifests as JSON lines: recordings with supervisions, or cuts. Lhotse is not needed.

What cannot be kept without Lhotse is a fault: one channel of several, sources that are no files, audio transforms,
mixed and padded cuts. See https://lhotse.readthedocs.io/en/latest/corpus.html and cuts.html.
"""

import os
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import END_TOLERANCE, WHOLE_S, ends_with
from espnet_llmvq.data.manifest import Item, read_json_lines


def find_audio(path, folder):
    """Where a relative path leads from `folder` or the folders above it; else as from `folder`.

    Lhotse and Kaldi write paths as seen from where they were run, mostly one or two folders above their manifests.
    """
    folder = Path(folder).absolute()
    for base in (folder, *folder.parents):
        if os.path.isfile(base / path):  # a name that is too long is no file; Path.is_file raises
            return base / path
    return folder / path


def number(item, key):
    """A number of a manifest line. Raises ValueError that names the key."""
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}, not a number")
    return float(value)


def read_recording(recording, folder):
    """(id, audio path, seconds, channels). Raises ValueError for what is no plain file."""
    if not isinstance(recording, dict) or not isinstance(recording.get("id"), str):
        raise ValueError("no recording with an id; cuts of features alone have no audio")
    sources = recording.get("sources")
    if not (isinstance(sources, list) and len(sources) == 1 and isinstance(sources[0], dict)):
        raise ValueError(f"recording {recording['id']!r} must have one source")
    kind, path = sources[0].get("type"), sources[0].get("source")
    if kind != "file" or not isinstance(path, str):
        raise ValueError(f"recording {recording['id']!r}: its source is of type {kind!r}; save the audio as a file")
    if recording.get("transforms"):
        raise ValueError(f"recording {recording['id']!r} has transforms; save the audio with them")
    channels = recording.get("channel_ids") or sources[0].get("channels") or [0]
    if not isinstance(channels, list):
        raise ValueError(f"recording {recording['id']!r}: its channels are {channels!r}, not a list")
    return recording["id"], find_audio(path, folder), number(recording, "duration"), set(channels)


def make_item(where, recording, supervision, offset=0.0):
    """An Item of a supervision, whose times begin `offset` seconds into the recording. Raises ValueError."""
    rec, audio, seconds, channels = recording
    if not isinstance(supervision, dict):
        raise ValueError(f"{supervision!r} is no supervision")
    chosen = supervision.get("channel", 0)
    if len(channels) > 1 and set(chosen if isinstance(chosen, list) else [chosen]) != channels:
        raise ValueError(f"channel {chosen} of {len(channels)}: only all channels together; save single channels")
    start = round(offset + number(supervision, "start"), 8)
    end = round(start + number(supervision, "duration"), 8)
    if start < -END_TOLERANCE or not ends_with(start, end, seconds):
        raise ValueError(f"a supervision from {start:g} to {end:g} s of a recording of {seconds:g} s")
    start, end = max(start, 0.0), min(end, seconds)
    whole = start < WHOLE_S and abs(end - seconds) < WHOLE_S
    text, utt = supervision.get("text") or "", supervision.get("id")
    if not isinstance(utt, str) or not isinstance(text, str):
        raise ValueError("a supervision needs an id and a text")
    speaker = str(supervision.get("speaker") or "")
    return Item(where, audio, text, rec, utt, speaker, (), rec, start, end, whole)


def read_lhotse(recordings, supervisions, faults):
    """Items of a file of recordings and one of supervisions."""
    known, items = {}, []
    for where, line in read_json_lines(recordings, faults):
        try:
            recording = read_recording(line, Path(recordings).parent)
        except ValueError as err:
            faults.add(where, str(err))
            continue
        if recording[0] in known:
            faults.add(where, f"recording {recording[0]!r} is there twice")
        known[recording[0]] = recording
    faults.check()
    for where, line in read_json_lines(supervisions, faults):
        try:
            if line.get("recording_id") not in known:
                raise ValueError(f"recording_id {line.get('recording_id')!r} is not in {recordings}")
            items.append(make_item(where, known[line["recording_id"]], line))
        except ValueError as err:
            faults.add(where, str(err))
    return items


def read_cuts(path, faults):
    """Items of a file of cuts, one for each of their supervisions."""
    items = []
    for where, cut in read_json_lines(path, faults):
        try:
            if cut.get("type") not in ("MonoCut", "MultiCut"):
                raise ValueError(f"a cut of type {cut.get('type')!r}: only MonoCut and MultiCut")
            if not (isinstance(cut.get("supervisions"), list) and cut["supervisions"]):
                raise ValueError(f"cut {cut.get('id')!r} has no supervision")
            recording = read_recording(cut.get("recording"), Path(path).parent)
            offset = number(cut, "start")
            items += [make_item(where, recording, supervision, offset) for supervision in cut["supervisions"]]
        except ValueError as err:
            faults.add(where, str(err))
    return items


def partner(path):
    """The recordings file beside a supervisions file. Raises UserError if it is not there."""
    other = Path(path).with_name(Path(path).name.replace("supervisions", "recordings"))
    if other == Path(path) or not other.is_file():
        raise UserError(f"{path}: no recordings file beside it (expected {other.name})")
    return other
