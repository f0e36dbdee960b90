"""Sequences of speech and text: what they are, and what builds them."""
