"""LLM-based speech recognition that keeps working out of domain, as ESPnet plug-in modules."""

__version__ = "0.1.0"
