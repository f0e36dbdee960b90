"""LLM-based speech recognition that keeps working out of domain, as ESPnet plug-in modules.

from espnet_llmvq import Recogniser

recogniser = Recogniser("exp/packed/soft_k10")
print(recogniser("meeting.flac").text)

`import espnet_llmvq` loads nothing; each name below is loaded when it is first asked for, torch with the first model.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_llmvq.align.ctm import Word
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.transcribe import Recogniser, Segment, Transcript

__version__ = "0.1.0"
__all__ = ["Recogniser", "Segment", "Transcript", "UserError", "Word", "__version__"]

_HOMES = {
    "Recogniser": "espnet_llmvq.transcribe",
    "Segment": "espnet_llmvq.transcribe",
    "Transcript": "espnet_llmvq.transcribe",
    "UserError": "espnet_llmvq.base.errors",
    "Word": "espnet_llmvq.align.ctm",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
