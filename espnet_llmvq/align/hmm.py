"""Word times by an HMM aligner: pocketsphinx with the English model and dictionary that come with it.

[2607.01733] aligns with an HMM hybrid. This one is small and needs no training, but knows the words of its dictionary
only.
"""

import numpy as np

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE

SHIFT = 0.01  # s, of its frames


class HmmAligner:
    """Forced alignment of one utterance at a time. Raises UserError when pocketsphinx is not installed."""

    def __init__(self):
        try:
            import pocketsphinx
        except ImportError:
            raise UserError("--aligner hmm needs pocketsphinx: pip install 'pocketsphinx>=5.0.4,<5.1'") from None
        self.decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")

    def spelling(self, word):
        """The entry of the dictionary for a word of a transcript. Raises ValueError when it has none."""
        # The dictionary has "don't" and "'cause", in lower case and without punctuation.
        bare = "".join(c for c in word.lower().replace("’", "'") if c.isalnum() or c in "'-.")
        for candidate in (bare, bare.strip("-."), bare.strip("'-.")):
            if candidate and self.decoder.lookup_word(candidate):
                return candidate
        raise ValueError(f"word not in the dictionary: {word!r}")

    def align(self, words, wave):
        """Words as strings and their (S,) waveform at 16 kHz -> [Word]. Raises ValueError with the reason."""
        if not words:
            raise ValueError("the transcript is empty")
        spellings = [self.spelling(word) for word in words]
        self.decoder.set_align_text(" ".join(spellings))
        self.decoder.start_utt()
        pcm = np.clip(np.rint(np.asarray(wave) * 32768), -32768, 32767).astype(np.int16)
        self.decoder.process_raw(pcm.tobytes(), full_utt=True)
        self.decoder.end_utt()
        # Silences and noises are in brackets, second pronunciations are "the(2)".
        spoken = [s for s in self.decoder.seg() or () if s.word[0] not in "<["]
        if [s.word.partition("(")[0] for s in spoken] != spellings:
            raise ValueError("the aligner found no path")
        end = len(wave) / SAMPLE_RATE
        times = [(s.start_frame * SHIFT, min((s.end_frame + 1) * SHIFT, end)) for s in spoken]
        return [Word(word, start, max(stop - start, 0.0)) for word, (start, stop) in zip(words, times)]
