"""Files of sequences."""
