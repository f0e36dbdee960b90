"""Builders of sequences: from data directories and text to `Sequence`."""
