"""Speech synthesis: espeak-ng through ctypes, and a whole data directory from a text file.

espeak-ng comes from the wheel `espeakng-loader`; no system package is needed.
"""

import _ctypes
import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np

from espnet_llmvq.base.errors import UserError, nearest
from espnet_llmvq.base.files import check_replaceable, replace_directory
from espnet_llmvq.base.processes import run_jobs
from espnet_llmvq.data.perturb import limit_peak
from espnet_llmvq.data.tables import by_speaker

RATE = 16000
RATE_WPM = (170, 200)  # drawn per utterance, both ends included
PITCH = (35, 65)  # espeak's scale, 0 to 100
VERSION = 2  # raise it when the same request would give other samples
RECORD = ".synthesised"  # in a directory of `synthesise`: the fingerprint of its request

# speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS, _DONT_EXIT = 0x0001, 0x8000
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_PARAM_RATE, _PARAM_PITCH, _PARAM_RANGE = 1, 3, 4
_EVENT_WORD, _EVENT_PHONEME = 1, 7
# espeak-ng keeps the data path in a buffer of 160 bytes and fails silently beyond it.
_LONGEST_PATH = 120
_TAIL_S = 0.1  # silence kept after the last sound


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The engine. One thread per process may use it at a time."""

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError as err:
            raise UserError("speech synthesis needs espeak-ng: pip install espeakng-loader") from err
        self._library = str(espeakng_loader.get_library_path())
        self._data = str(espeakng_loader.get_data_path())
        if len(os.fsencode(self._data)) > _LONGEST_PATH:
            self._link = tempfile.TemporaryDirectory(prefix="espeak")
            link = os.path.join(self._link.name, "espeak-ng-data")
            os.symlink(self._data, link)
            self._data = link
        self._variants = set(os.listdir(os.path.join(self._data, "voices", "!v")))
        with self._engine() as (lib, _):
            self._voices = _list_voices(lib)

    @contextlib.contextmanager
    def _engine(self):
        """Yield (library, sample rate), loaded anew.

        espeak-ng carries glottal phase, flutter and noise state from one utterance to the next,
        even over espeak_Terminate; only unloading the library makes samples a function of the
        request alone. It costs about 4 ms.
        """
        lib = ctypes.CDLL(self._library)
        try:
            rate = lib.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(self._data), _PHONEME_EVENTS | _DONT_EXIT
            )
            if rate <= 0:
                raise UserError(f"espeak-ng could not start with its data in {self._data}")
            ctypes.CDLL(None).srand(1)  # older versions draw noise from libc
            with contextlib.suppress(AttributeError):  # newer ones have their own, started by the clock
                lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
            yield lib, rate
            lib.espeak_Terminate()
        finally:
            handle = lib._handle
            del lib
            _ctypes.dlclose(handle)

    def voice(self, name):
        """Return espeak's own identifier for a voice such as "en-gb+f4".

        Raises UserError for an unknown language or variant (espeak itself would silently
        speak with another one).
        """
        base, plus, variant = name.partition("+")
        found = self._voices.get(base.lower())
        if found is None:
            raise UserError(f"unknown voice {name!r}{nearest(base.lower(), self._voices)}")
        if plus and variant not in self._variants:
            hint = nearest(variant, self._variants)
            raise UserError(f"unknown variant {variant!r} of voice {name!r}{hint}")
        return found + plus + variant

    def speak(self, text, voice="en-us", rate_wpm=175, pitch=50):
        """Speak `text` -> (samples float32 (N,) at 16 kHz, words [(start_s, end_s, word)]).

        One interval per whitespace token of `text`, from espeak's own events, never decreasing
        and within the audio. A token espeak does not speak (a lone dash) has an empty interval.
        The result depends on the arguments only. Raises UserError for an unknown voice or empty
        text.
        """
        tokens = [(m.start(), m.end(), m.group()) for m in re.finditer(r"\S+", text)]
        if not tokens:
            raise UserError("there is no text to speak")
        identifier = self.voice(voice)
        pieces, events = [], []

        @_CALLBACK
        def collect(wave, n, event):
            if wave and n > 0:
                pieces.append(np.ctypeslib.as_array(wave, (n,)).copy())
            i = 0
            while event[i].type:
                e = event[i]
                if e.type == _EVENT_WORD:
                    events.append((e.sample, "word", e.text_position - 1))
                elif e.type == _EVENT_PHONEME:
                    pause = e.id.string.startswith(b"_")
                    events.append((e.sample, "pause" if pause else "phone", 0))
                i += 1
            return 0

        with self._engine() as (lib, native_rate):
            lib.espeak_SetSynthCallback(collect)
            data = text.encode("utf-8")
            failed = (
                lib.espeak_SetVoiceByName(identifier.encode("utf-8"))
                or lib.espeak_SetParameter(_PARAM_RATE, int(rate_wpm), 0)
                or lib.espeak_SetParameter(_PARAM_PITCH, int(pitch), 0)
                or lib.espeak_SetParameter(_PARAM_RANGE, 50, 0)
                or lib.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
            )
            if failed or not pieces:
                raise UserError(f"espeak-ng could not speak {text!r} with voice {voice!r}")
            spans = _token_spans(tokens, events, sum(map(len, pieces)), lambda word: len(_phonemes(lib, word)))
        wave = np.concatenate(pieces).astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(wave) > 1e-3 * max(np.abs(wave).max(), 1e-6))
        last = max(spans[-1][1], loud[-1] + 1 if len(loud) else 0)
        wave = limit_peak(resample(wave[: last + int(_TAIL_S * native_rate)], native_rate))
        end = len(wave) / RATE
        words = [
            (min(start / native_rate, end), min(stop / native_rate, end), token[2])
            for (start, stop), token in zip(spans, tokens, strict=True)
        ]
        return wave, words

    def phonemes(self, text, voice="en-us"):
        """Return espeak's phoneme names of `text` (one clause) without stress."""
        identifier = self.voice(voice)
        with self._engine() as (lib, _):
            lib.espeak_SetVoiceByName(identifier.encode("utf-8"))
            return _phonemes(lib, text)


def _list_voices(lib):
    """Return {language tag or file name, lower case: identifier}."""
    lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    listed, voices, i = lib.espeak_ListVoices(None), {}, 0
    while listed[i]:
        voice = listed[i].contents
        identifier = voice.identifier.decode("utf-8")
        voices.setdefault(identifier.rsplit("/")[-1].lower(), identifier)
        address = voice.languages  # (priority byte, zero-terminated tag) pairs, then a zero byte
        while ctypes.string_at(address, 1) != b"\0":
            tag = ctypes.string_at(address + 1)
            voices.setdefault(tag.decode("utf-8").lower(), identifier)
            address += len(tag) + 2
        i += 1
    return voices


def _phonemes(lib, word):
    """Return espeak's names for the phonemes of `word` spoken alone, stress marks removed."""
    lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
    text = ctypes.c_char_p(word.encode("utf-8"))
    spoken = lib.espeak_TextToPhonemes(ctypes.byref(text), _CHARS_UTF8, ord("/") << 8)
    names = [p.strip(" ,'_|") for p in (spoken or b"").decode("utf-8").split("/")]
    return [name for name in names if name]


def _token_spans(tokens, events, total, phones):
    """Map espeak's events to one (start, end) in samples per whitespace token.

    tokens: [(first char, last char + 1, word)]; events: [(sample, "word" | "phone" | "pause",
    char)] in time order; total: samples; phones(word) -> number of phonemes.

    Several events of one token ("twenty-five") make one interval. Tokens without an event of
    their own ("of the" is one dictionary entry of espeak) share the interval of the token
    before them, cut at a phoneme boundary. Pauses belong to no word.
    """
    starts, current = {}, 0
    for sample, kind, char in events:
        if kind == "word":
            while current + 1 < len(tokens) and char >= tokens[current + 1][0]:
                current += 1
            starts.setdefault(current, sample)
    if not starts:
        starts[0] = 0
    starts.setdefault(0, min(starts.values()))
    heads = sorted(starts)
    spans = [None] * len(tokens)
    for head, following in zip(heads, [*heads[1:], len(tokens)], strict=True):
        begin = starts[head]
        end = starts[following] if following < len(tokens) else total
        # The last pause before the next word ends this one; earlier pauses are within a token.
        inside = [(s, k) for s, k, _ in events if begin <= s <= end and k != "word"]
        while inside and inside[-1][1] == "phone" and inside[-1][0] == end:
            inside.pop()  # first phoneme of the next word
        while inside and inside[-1][1] == "pause":
            end = inside.pop()[0]
        group = range(head, following)
        edges = [s for s, k in inside if k == "phone" and s < end] + [end]
        edges[0] = begin
        weights = np.array([phones(tokens[i][2]) for i in group], float)
        if weights.sum() == 0:
            weights[0] = 1
        cuts = np.rint(np.cumsum(weights) / weights.sum() * (len(edges) - 1)).astype(int)
        for i, first, last in zip(group, [0, *cuts[:-1]], cuts, strict=True):
            spans[i] = (edges[first], edges[last])
    return spans


def resample(wave, rate):
    """Return `wave` (N,) float32 at `rate` Hz, resampled to 16 kHz."""
    if rate == RATE:
        return wave
    import soxr

    return soxr.resample(wave, rate, RATE).astype(np.float32)


def safe_name(voice):
    """Return a speaker id for a voice: "en-us+f2" -> "en_us_f2"."""
    return re.sub(r"[^A-Za-z0-9]+", "_", voice).strip("_")


def plan(utterances, voices, seed):
    """Give every utterance a voice, a rate and a pitch.

    utterances: [(utt, text)]. Voices are dealt evenly in an order drawn from `seed`; rate (words
    per minute) and pitch depend on `seed` and the utterance id. Return a list of dicts with utt
    ("<speaker>-<utt>"), spk, text, voice, rate_wpm, pitch, sorted by utt.
    """
    ids = [utt for utt, _ in utterances]
    deal = np.random.default_rng([seed, 1]).permutation(len(ids)) % len(voices)
    jobs = []
    for (utt, text), v in zip(sorted(utterances), deal, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(utt.encode("utf-8"))])
        spk = safe_name(voices[v])
        jobs.append(
            {
                "utt": f"{spk}-{utt}",
                "spk": spk,
                "text": text,
                "voice": voices[v],
                "rate_wpm": int(rng.integers(RATE_WPM[0], RATE_WPM[1] + 1)),
                "pitch": int(rng.integers(PITCH[0], PITCH[1] + 1)),
            }
        )
    return sorted(jobs, key=lambda job: job["utt"].encode("utf-8"))


_worker_engine = None


def _start_worker():
    global _worker_engine
    _worker_engine = Espeak()


def _speak_job(job, wav):
    """Synthesise one job with espeak-ng, write `wav`, return its words."""
    if _worker_engine is None:
        _start_worker()
    samples, words = _worker_engine.speak(job["text"], job["voice"], rate_wpm=job["rate_wpm"], pitch=job["pitch"])
    _write(wav, samples)
    return words


def _command_job(template, job, wav):
    """Synthesise one job with an outside command; its word times are not known."""
    import soundfile

    raw = str(wav) + ".raw.wav"
    fields = {**job, "wav": raw, "rate": job["rate_wpm"]}
    command = [part.format(**fields) for part in shlex.split(template)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as err:
        raise UserError(f"cannot start {command[0]!r}: {err.strerror}") from err
    if done.returncode or not os.path.exists(raw):
        raise UserError(
            f"utterance {job['utt']}: {shlex.join(command)} ended with status {done.returncode} "
            f"and {'a' if os.path.exists(raw) else 'no'} file: {done.stderr.strip()[-300:]}"
        )
    samples, rate = soundfile.read(raw, dtype="float32", always_2d=True)
    os.remove(raw)
    _write(wav, limit_peak(resample(samples.mean(axis=1), rate)))


def _write(wav, samples):
    import soundfile

    soundfile.write(wav, samples, RATE, subtype="PCM_16")


def synthesise(utterances, voices, out, seed=0, nj=2, command=None):
    """Speak `utterances` [(utt, text)] into the data directory `out`; return the jobs of `plan`.

    `out` gets wav.scp, text, utt2spk, spk2utt, words.ctm (espeak-ng only) and wav/. It appears
    only when complete, and is left as it is when it already holds this very request. command: a
    template for another engine with {text} and {wav}, and optionally {voice}, {rate}, {pitch}.
    Raises UserError for an unknown voice, repeated ids, or an engine that fails.
    """
    out = Path(out)
    if not utterances:
        raise UserError(f"there is nothing to speak for {out}")
    seen = set()
    for utt, text in utterances:
        if utt in seen or not text.strip():
            raise UserError(f"utterance {utt} is {'repeated' if utt in seen else 'empty'}")
        seen.add(utt)
    if not voices:
        raise UserError("no voice is given, for example 'en-us+f2 en-gb+m1'")
    if command:
        try:
            named = "{text}" in command and "{wav}" in command
            command.format(text="", wav="", voice="", rate=0, pitch=0)
        except (KeyError, IndexError, ValueError) as err:
            raise UserError(f"the command template {command!r} is wrong: {err}") from err
        if not named:
            raise UserError(f"the command template {command!r} needs {{text}} and {{wav}}")
    else:
        engine = Espeak()
        for voice in voices:
            engine.voice(voice)
    jobs = plan(utterances, voices, seed)
    request = json.dumps([VERSION, command, str(out), jobs])
    fingerprint = hashlib.sha256(request.encode("utf-8")).hexdigest()
    marker = out / RECORD
    if marker.is_file() and marker.read_text().strip() == fingerprint:
        return jobs
    check_replaceable(out, RECORD)

    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "wav").mkdir(parents=True)
    paths = [unfinished / "wav" / f"{job['utt']}.wav" for job in jobs]
    work = functools.partial(_command_job, command) if command else _speak_job
    start = None if command else _start_worker
    words = list(run_jobs(work, jobs, paths, nj=nj, desc=out.name, initializer=start))

    spk2utt = by_speaker({job["utt"]: job["spk"] for job in jobs})
    files = {
        "wav.scp": [f"{j['utt']} {out / 'wav' / (j['utt'] + '.wav')}" for j in jobs],
        "text": [f"{j['utt']} {j['text']}" for j in jobs],
        "utt2spk": [f"{j['utt']} {j['spk']}" for j in jobs],
        "spk2utt": [f"{s} {' '.join(u)}" for s, u in spk2utt.items()],
    }
    if not command:
        files["words.ctm"] = [
            f"{j['utt']} 1 {start:.3f} {stop - start:.3f} {word}"
            for j, spoken in zip(jobs, words, strict=True)
            for start, stop, word in spoken
        ]
    files[RECORD] = [fingerprint]
    for name, lines in files.items():
        (unfinished / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    replace_directory(unfinished, out)
    return jobs
