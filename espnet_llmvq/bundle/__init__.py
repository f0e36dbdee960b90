"""A trained system as one directory."""
