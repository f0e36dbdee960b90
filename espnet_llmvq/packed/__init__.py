"""A trained system as one directory that loads on another machine."""
