"""Commands of the toolkit: ``python -m espnet_llmvq.bin.NAME --help``."""
