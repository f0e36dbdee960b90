"""Causal language models as Hugging Face directories: small ones made here, or downloaded ones."""
