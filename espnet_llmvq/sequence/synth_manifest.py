"""Data directories of any size for trials of scale: made-up texts, and a few sound files that all utterances share."""

import contextlib
import os
from pathlib import Path

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import writing
from espnet_llmvq.data.audio import SAMPLE_RATE, write_audio
from espnet_llmvq.data.made import MadeDir
from espnet_llmvq.sequence.asr import asr_sequence
from espnet_llmvq.sequence.sequence import write_sequences

MOST = 10_000_000  # utterances; ids have as many digits as these need
BLOCK = 10_000  # utterances that one generator draws: the first of a large directory are those of a small one
PER_SPEAKER = 1000
SECONDS = (1.0, 3.0)  # of a sound file, uniform
WORDS = (3, 12)  # of a text, uniform, both included
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
VOCABULARY = [a + b for a in SYLLABLES for b in ("", *SYLLABLES)]
SHAPE = "sequences_shape"  # as the files of stats/ in a recipe
STEP_SAMPLES = 5120  # of an LLM position of speech: an encoder step of 40 ms, stacked by eight
LETTERS = 4  # of a token
TEMPLATE_TOKENS = 6  # of the prompt


def texts(n, seed):
    """Yield (words, number) of n utterances: the transcript and a draw that says which sound file is theirs.

    Each block of utterances has a generator of its own, so they do not depend on n.
    """
    words = np.array(VOCABULARY, dtype=object)
    for first in range(0, n, BLOCK):
        rng = np.random.default_rng([seed, first // BLOCK])
        counts = rng.integers(WORDS[0], WORDS[1] + 1, BLOCK)
        drawn = words[rng.integers(0, len(words), counts.sum())].tolist()
        numbers = rng.integers(0, 1 << 30, BLOCK).tolist()
        at = 0
        for count, number in zip(counts[: n - first].tolist(), numbers):
            yield " ".join(drawn[at : at + count]), number
            at += count


def sounds(directory, count, seed):
    """Write `count` sound files of tones and noise; [(name, samples)]."""
    found = []
    for i in range(count):
        rng = np.random.default_rng([seed, i, 1])
        samples = int(rng.uniform(*SECONDS) * SAMPLE_RATE)
        time = np.arange(samples) / SAMPLE_RATE
        wave = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 400) * time) + 0.01 * rng.standard_normal(samples)
        write_audio(str(Path(directory) / f"sound{i:03d}.wav"), wave.astype(np.float32), SAMPLE_RATE)
        found.append((f"sound{i:03d}.wav", samples))
    return found


def spoken(text, samples):
    """Yield (start, duration, word) of the words of a text, in seconds: of equal length, with a pause behind each."""
    words = text.split()
    step = samples / SAMPLE_RATE / len(words)
    for i, word in enumerate(words):
        yield i * step, 0.8 * step, word


def synth_manifest(dest, utterances, *, sound_files=8, seed=0, word_times=False):
    """Make the data directory `dest`, formatted, with its sequences and their positions, unless it is up to date.

    sound_files: written into dest/audio; each utterance has one of them. word_times: also write words.ctm. Memory does
    not grow with the utterances but for the index of the sequences (16 bytes each, some 60 while it is sorted).
    Whether it was made. Raises UserError for a number of utterances that ids do not hold, and for a directory that
    others made.
    """
    if not 1 <= utterances <= MOST:
        raise UserError(f"{dest}: {utterances} utterances cannot be made; give a number from 1 to {MOST}")
    home = Path(os.path.realpath(dest))
    options = {
        "utterances": utterances, "sound_files": sound_files, "seed": seed, "word_times": word_times, "home": str(home),
    }  # fmt: skip
    made = MadeDir(dest, **options).make(lambda new: _write(new, home, utterances, sound_files, seed, word_times))
    print(f"{dest}: {utterances} utterances, {sound_files} sound files" if made else f"{dest}: up to date")
    return made


def _write(new, home, utterances, sound_files, seed, word_times):
    from tqdm import tqdm

    (new / "audio").mkdir()
    files = [(str(home / "audio" / name), samples) for name, samples in sounds(new / "audio", sound_files, seed)]
    names = ["wav.scp", "text", "utt2spk", "spk2utt", "utt2num_samples", SHAPE, *["words.ctm"] * word_times]
    with contextlib.ExitStack() as stack:
        out = {name: stack.enter_context(writing(new / name)) for name in names}
        rows = tqdm(texts(utterances, seed), "utterances", utterances, unit="utt", mininterval=1)
        write_sequences(new / "sequences.jsonl", _sequences(rows, files, out))


def _sequences(rows, files, out):
    """Yield the sequences of `texts` while the lines of the other files are written. out: {name: open file}."""
    for i, (text, number) in enumerate(rows):
        speaker = f"spk{i // PER_SPEAKER:05d}"
        utt = f"{speaker}-{i:08d}"
        path, samples = files[number % len(files)]
        out["wav.scp"].write(f"{utt} {path}\n")
        out["text"].write(f"{utt} {text}\n")
        out["utt2spk"].write(f"{utt} {speaker}\n")
        # In the order of ids, so that a speaker's line is written as its utterances come.
        out["spk2utt"].write(f" {utt}" if i % PER_SPEAKER else "\n" * (i > 0) + f"{speaker} {utt}")
        out["utt2num_samples"].write(f"{utt} {samples}\n")
        positions = -(-samples // STEP_SAMPLES) + -(-len(text) // LETTERS) + TEMPLATE_TOKENS
        out[SHAPE].write(f"{utt} {positions}\n")
        if "words.ctm" in out:
            times = spoken(text, samples)
            out["words.ctm"].writelines(f"{utt} 1 {start:.3f} {long:.3f} {word}\n" for start, long, word in times)
        yield asr_sequence(utt, path, samples, text, "USER: {speech} ASSISTANT: {text}")
    out["spk2utt"].write("\n")
