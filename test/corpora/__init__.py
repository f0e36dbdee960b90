"""Corpora of the recipes in small, in their public layouts, and what is done to them."""

import numpy as np


def noise(seconds, rate=16000):
    """(N,) float32, quiet at first and louder to its end, the same each time."""
    n = round(seconds * rate)
    return (np.random.default_rng(n).standard_normal(n) * np.linspace(0.02, 0.1, n)).astype(np.float32)


def write_audio(path, seconds=0.3, rate=16000, **form):
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, rate), rate, **form)


def damage(root, what):
    """Remove a file, replace a text in one, given as (file, old, new), or do what a function does."""
    if callable(what):
        what(root)
    elif isinstance(what, str):
        (root / what).unlink()
    else:
        path, old, new = root / what[0], what[1].encode(), what[2].encode()  # whatever the file's encoding
        content = path.read_bytes()
        assert old in content, path
        path.write_bytes(content.replace(old, new, 1))
