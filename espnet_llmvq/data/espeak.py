"""espeak-ng through ctypes. It comes from the wheel `espeakng-loader`; no system package is needed."""

import _ctypes
import contextlib
import ctypes
import os
import re
import tempfile

import numpy as np

from espnet_llmvq.base.errors import UserError, nearest
from espnet_llmvq.data.audio import SAMPLE_RATE, resample
from espnet_llmvq.data.perturb import limit_peak

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


class _Voice(ctypes.Structure):  # the rest is not read
    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.c_void_p), ("identifier", ctypes.c_char_p)]


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
            lib.espeak_Info.restype = ctypes.c_char_p
            self.version = lib.espeak_Info(None).decode("utf-8")

    @contextlib.contextmanager
    def _engine(self):
        """Yield (library, sample rate), loaded for itself.

        espeak-ng carries glottal phase, flutter and noise state from one utterance to the next, even over
        espeak_Terminate; only unloading the library makes samples a function of the request alone. It costs about 4 ms.
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
        """espeak's own identifier for a voice such as "en-gb+f4".

        Raises UserError for an unknown language or variant; espeak itself would silently speak with another one.
        """
        base, plus, variant = name.partition("+")
        found = self._voices.get(base.lower())
        if found is None:
            raise UserError(f"unknown voice {name!r}{nearest(base.lower(), self._voices)}")
        if plus and variant not in self._variants:
            raise UserError(f"unknown variant {variant!r} of voice {name!r}{nearest(variant, self._variants)}")
        return found + plus + variant

    def speak(self, text, voice="en-us", rate_wpm=175, pitch=50):
        """Speak `text` -> (samples float32 (N,) at 16 kHz, words [(start_s, end_s, word)]).

        One interval per whitespace token of `text`, from espeak's own events, never decreasing and within the audio. A
        token espeak does not speak (a lone dash) has an empty interval. The result depends on the arguments only.
        Raises UserError for an unknown voice or empty text.
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
        wave = limit_peak(resample(wave[: last + int(_TAIL_S * native_rate)], native_rate, SAMPLE_RATE))
        end = len(wave) / SAMPLE_RATE
        words = [
            (min(start / native_rate, end), min(stop / native_rate, end), token[2])
            for (start, stop), token in zip(spans, tokens, strict=True)
        ]
        return wave, words

    def phonemes(self, text, voice="en-us"):
        """espeak's phoneme names of `text` (one clause) without stress."""
        return self.pronunciations([text], voice)[text]

    def pronunciations(self, texts, voice="en-us"):
        """{text: its `phonemes`} of many texts, for one start of the engine."""
        identifier = self.voice(voice)
        with self._engine() as (lib, _):
            lib.espeak_SetVoiceByName(identifier.encode("utf-8"))
            return {text: _phonemes(lib, text) for text in texts}


def _list_voices(lib):
    """{language tag or file name, lower case: identifier}."""
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
    """espeak's names for the phonemes of `word` spoken alone, stress marks removed."""
    lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
    text = ctypes.c_char_p(word.encode("utf-8"))
    spoken = lib.espeak_TextToPhonemes(ctypes.byref(text), _CHARS_UTF8, ord("/") << 8)
    names = [p.strip(" ,'_|") for p in (spoken or b"").decode("utf-8").split("/")]
    return [name for name in names if name]


def _token_spans(tokens, events, total, phones):
    """Map espeak's events to one (start, end) in samples per whitespace token.

    tokens: [(first char, last char + 1, word)]; events: [(sample, "word" | "phone" | "pause", char)] in time order;
    total: samples; phones(word) -> number of phonemes. Several events of one token ("twenty-five") make one interval.
    Tokens without an event of their own ("of the" is one dictionary entry of espeak) share the interval of the token
    before them, cut at a phoneme boundary. Pauses belong to no word.
    """
    starts, current = {}, 0
    for sample, kind, char in events:
        if kind == "word":
            while current + 1 < len(tokens) and char >= tokens[current + 1][0]:
                current += 1
            starts.setdefault(current, sample)
    starts.setdefault(0, min(starts.values(), default=0))
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
