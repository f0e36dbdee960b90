"""Small corpora in the layouts and formats in which public ones are published."""
