"""Audio and pictures as data URIs, within a budget of bytes."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.tables import parse_segment, read_scp

RATE = 16000


@dataclass
class Budget:
    """Bytes of the page that media, or texts, may still take, and the names of what found no room."""

    left: int
    left_out: list = field(default_factory=list)

    def data_uri(self, kind, data, name):
        """`data` as a data URI of media type `kind`, or None if there is no room for it."""
        return self.take(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}", name)

    def take(self, text, name):
        """An ASCII text, or None if there is no room for it."""
        if len(text) > self.left:
            self.left_out.append(name)
            return None
        self.left -= len(text)
        return text


def audio_locations(text):
    """{utterance: (path, start s, end s or None)} from the `wav.scp` beside a `text` file.

    With `segments` beside it, utterances are pieces of recordings. Raises UserError.
    """
    room = Path(text).parent
    if not (room / "wav.scp").is_file():
        raise UserError(f"{room / 'wav.scp'}: not there, so there is no audio to play")
    recordings = read_scp(room / "wav.scp")
    if not (room / "segments").is_file():
        return {utt: (path, 0.0, None) for utt, path in recordings.items()}
    locations = {}
    for utt, value in read_scp(room / "segments").items():
        try:
            recording, start, end = parse_segment(value)
        except ValueError as err:
            raise UserError(f"{room / 'segments'}: {utt}: {err}") from None
        if recording in recordings:
            locations[utt] = (recordings[recording], start, end)
    return locations


def encode_audio(path, start=0.0, end=None):
    """(media type, bytes) of a piece of an audio file, 16 kHz mono. Raises UserError.

    MP3, which every browser plays and whose bytes, unlike those of Ogg, are the same each time;
    WAV where libsndfile cannot write MP3.
    """
    import soundfile

    from espnet_llmvq.data.audio import read_audio

    samples = read_audio(path, RATE, start, end)
    out = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        mp3 = {"format": "MP3", "subtype": "MPEG_LAYER_III"}
        soundfile.write(out, samples, RATE, **mp3, compression_level=0.5, bitrate_mode="VARIABLE")
        return "audio/mpeg", out.getvalue()
    soundfile.write(out, samples.clip(-1, 1), RATE, format="WAV", subtype="PCM_16")
    return "audio/wav", out.getvalue()
