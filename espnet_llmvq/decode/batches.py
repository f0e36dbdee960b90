"""Read sequences as batches of similar length, prompts only: what decoding and encoding need."""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.model.batch import SequenceArrays, batch_of
from espnet_llmvq.sequence.prompt import template_of
from espnet_llmvq.sequence.sequence import Sequence, read_sequences


class Batches:
    """Iterable of (ids, batch tensors) over a file of sequences, longest first, within `seconds` of audio.

    The transcript is cut off: a batch holds the spans before the first one with loss. `batch_size` limits
    the utterances in a batch. cache: encoder frames (scp) to read instead of audio. augment: as
    `SequenceArrays` takes it. only: ids to read, of those in the file; None: all.
    """

    def __init__(self, path, seconds, tokenizer, batch_size=64, cache=None, augment=None, only=None):
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
        self.arrays = SequenceArrays(tokenizer, cache, augment)
        samples = {k: next(s.samples for s in p.spans if s.is_speech) for k, p in self.prompts.items()}
        self.batches, longest = [], 0
        # Ids break ties, so that batches do not depend on the order of the file.
        for key in sorted(samples, key=lambda k: (-samples[k], k)):
            batch = self.batches[-1] if self.batches else None
            if not batch or len(batch) >= batch_size or (len(batch) + 1) * longest > seconds * SAMPLE_RATE:
                self.batches.append([])
                longest = samples[key]
            self.batches[-1].append(key)

    def skip(self, done):
        """Leave out the batches whose utterances are all in `done`; the others stay as they are."""
        self.batches = [keys for keys in self.batches if not all(key in done for key in keys)]

    def seconds(self, ids):
        """Seconds of speech of utterances."""
        return sum(s.samples for i in ids for s in self.prompts[i].spans if s.is_speech) / SAMPLE_RATE

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for keys in self.batches:
            yield batch_of(self.arrays, [self.prompts[k] for k in keys])


def read_batches(path, seconds, llm, **kwargs):
    """`Batches` with the tokenizer of the LLM directory `llm`."""
    return Batches(path, seconds, load_tokenizer(llm), **kwargs)
