"""From sound to text with a packed system: files, arrays and streams.

from espnet_llmvq import Recogniser

print(Recogniser("exp/packed/soft_k10")("meeting.flac").text)
"""

from espnet_llmvq.transcribe.recogniser import Recogniser
from espnet_llmvq.transcribe.transcript import Segment, Transcript

__all__ = ["Recogniser", "Segment", "Transcript"]
