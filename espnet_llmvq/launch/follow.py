"""Print a growing log."""

import contextlib
import sys
import threading


@contextlib.contextmanager
def following(path, interval=0.3):
    """In a `with`: bytes that are appended to `path` go to standard output; None follows nothing."""
    ended, position = threading.Event(), 0

    def loop():
        nonlocal position
        last = path is None
        while not last:
            last = ended.wait(interval)  # after the end, look once more
            try:
                with open(path, "rb") as f:
                    f.seek(position)
                    new = f.read()
            except FileNotFoundError:
                continue
            position += len(new)
            sys.stdout.buffer.write(new)
            sys.stdout.flush()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
