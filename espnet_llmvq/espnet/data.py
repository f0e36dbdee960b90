"""Sequences for ESPnet's data loader: a data type, and from a line of JSON to the arrays of a batch."""

from espnet2.train.dataset import DATA_TYPES

from espnet_llmvq.model.batch import SequenceArrays
from espnet_llmvq.sequence.sequence import Sequence, SequenceReader

# Registered at import time, so that spawned DDP children and data loaders see it.
DATA_TYPES.setdefault(
    "sequence",
    dict(
        func=SequenceReader,
        kwargs=[],
        help="JSON lines of speech and text spans (espnet_llmvq.sequence.sequence)\n\n"
        '   {"id": "utterance_id_a", "spans": [...]}\n   ...',
    ),
)


class SequencePreprocessor(SequenceArrays):
    """`SequenceArrays` in the form that ESPnet calls: (id, {"sequence": JSON line}) -> arrays."""

    def __call__(self, utt, data):
        return super().__call__(Sequence.from_json(data["sequence"]))
