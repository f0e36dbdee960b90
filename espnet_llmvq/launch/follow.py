"""Print a growing log."""

import sys
import threading


class Follower:
    """Context manager: bytes that are appended to `path` go to standard output; None follows nothing."""

    def __init__(self, path, interval=0.3):
        self.path, self.interval, self.position = path, interval, 0
        self.ended, self.thread = threading.Event(), None

    def __enter__(self):
        if self.path is not None:
            self.thread = threading.Thread(target=self._loop, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *exc):
        if self.thread is not None:
            self.ended.set()
            self.thread.join()

    def _loop(self):
        last = False
        while not last:
            last = self.ended.wait(self.interval)  # after the end, look once more
            try:
                with open(self.path, "rb") as f:
                    f.seek(self.position)
                    new = f.read()
            except FileNotFoundError:
                continue
            self.position += len(new)
            sys.stdout.buffer.write(new)
            sys.stdout.flush()
