"""Read sequences as batches of similar length, prompts or sound only: what decoding and encoding need."""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.model.batch import SequenceArrays, batch_of, read_wave
from espnet_llmvq.sequence.prompt import template_of
from espnet_llmvq.sequence.sequence import Sequence, read_sequences


class Batches:
    """Iterable of (ids, batch tensors) over a file of sequences, longest first, within `seconds` of audio.

    The transcript is cut off: a batch holds the spans before the first one with loss. `batch_size` limits
    the utterances in a batch. cache: encoder frames (scp) to read instead of audio. augment: as
    `SequenceArrays` takes it. only: ids to read, of those in the file; None: all. least: samples that an utterance
    counts as at least. tokenizer: None where only `waves` are read.
    """

    def __init__(self, path, seconds, tokenizer, batch_size=64, cache=None, augment=None, only=None, least=0):
        self.order = []
        self.prompts = {}
        self.templates = {}  # template of the prompt -> first utterance that has it
        for seq in read_sequences(path):
            if only is not None and seq.id not in only:
                continue
            speech = [s for s in seq.spans if s.is_speech]
            if len(speech) != 1:
                raise UserError(f"{path}: {seq.id} has {len(speech)} speech spans; one is needed here")
            self.order.append(seq.id)
            self.templates.setdefault(template_of(seq), seq.id)
            self.prompts[seq.id] = Sequence(seq.id, seq.prompt)
        self.arrays = None if tokenizer is None else SequenceArrays(tokenizer, cache, augment)
        samples = {k: self.speech(k).samples for k in self.prompts}
        self.batches, longest = [], 0
        # Ids break ties, so that batches do not depend on the order of the file.
        for key in sorted(samples, key=lambda k: (-samples[k], k)):
            batch = self.batches[-1] if self.batches else None
            if not batch or len(batch) >= batch_size or (len(batch) + 1) * longest > seconds * SAMPLE_RATE:
                self.batches.append([])
                longest = max(samples[key], least)
            self.batches[-1].append(key)

    def skip(self, done):
        """Leave out the batches whose utterances are all in `done`; the others stay as they are."""
        self.batches = [keys for keys in self.batches if not all(key in done for key in keys)]

    def speech(self, key):
        """The speech span of an utterance."""
        return next(span for span in self.prompts[key].spans if span.is_speech)

    def seconds(self, ids):
        """Seconds of speech of utterances."""
        return sum(self.speech(i).samples for i in ids) / SAMPLE_RATE

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for keys in self.batches:
            yield batch_of(self.arrays, [self.prompts[k] for k in keys])

    def waves(self):
        """Iterable of (ids, their samples, (S,) each)."""
        for keys in self.batches:
            yield keys, [read_wave(key, self.speech(key)) for key in keys]


def read_batches(path, seconds, llm, **kwargs):
    """`Batches` with the tokenizer of the LLM directory `llm`."""
    return Batches(path, seconds, load_tokenizer(llm), **kwargs)
