"""From sound files to text with a packed system.

from espnet_llmvq.transcribe import Transcriber

print(Transcriber("exp/packed/soft_k10")("meeting.flac").text)
"""

from espnet_llmvq.transcribe.transcriber import Transcriber
from espnet_llmvq.transcribe.transcript import Segment, Transcript

__all__ = ["Segment", "Transcriber", "Transcript"]
