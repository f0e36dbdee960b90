"""What trained bridges do: the gap between speech and text, nearest tokens, pictures."""
