"""`Line`: who waits for the one recogniser, in the order of arrival, and no more than so many."""

import asyncio
import contextlib

NEWS = 5.0  # seconds after which those who wait are told their place again


class Full(Exception):
    """Nobody else may wait."""


class Line:
    """A line of at most `most` visitors, of whom one at a time has its turn. For one event loop, not for threads.

        with line.place():                      # Full, if there is none
            ...                                 # what all may do at the same time
            with line.turn() as waiting:
                async for ahead in waiting:     # told whenever it changes; the loop ends when the turn comes
                    ...
                ...                             # alone

    Who leaves, in whatever way, is no longer waited for.
    """

    def __init__(self, most):
        self.most, self.inside, self._order = most, 0, []

    @contextlib.contextmanager
    def place(self):
        """A place in a `with`. Raises Full."""
        if self.inside >= self.most:
            raise Full
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @contextlib.contextmanager
    def turn(self):
        """In a `with`, the numbers of those who are ahead, one after the other: when they end, it is one's turn."""
        moved = asyncio.Event()
        self._order.append(moved)
        try:
            yield self._ahead(moved)
        finally:
            self._order.remove(moved)
            for other in self._order:
                other.set()

    async def _ahead(self, moved):
        import anyio

        while True:
            moved.clear()  # before it is asked, so that nothing is missed
            ahead = self._order.index(moved)
            if not ahead:
                return
            yield ahead
            with anyio.move_on_after(NEWS):
                await moved.wait()
