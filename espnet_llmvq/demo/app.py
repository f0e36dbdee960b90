"""The page's server as an ASGI application: a few files, its settings, and sound in, text out.

Sound is held in memory (`memfd`), never on a disk, and is gone when its answer is sent or its sender has left.
"""

import contextlib
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from espnet_llmvq.base.errors import UserError, nearest
from espnet_llmvq.demo.guard import Guard
from espnet_llmvq.demo.line import Full, Line

HERE = Path(__file__).resolve().parent
# address: (file, media type). No other file can be asked for.
FILES = {
    "/": (HERE / "page.html", "text/html"),
    "/page.css": (HERE / "page.css", "text/css"),
    "/report.css": (HERE.parent / "report" / "page.css", "text/css"),
    "/page.js": (HERE / "page.js", "text/javascript"),
    "/recorder.js": (HERE / "recorder.js", "text/javascript"),
}
UPLOAD = 60.0  # seconds that an upload may take


@dataclass(frozen=True)
class Limits:
    """max_mb: megabytes of a sound file; max_seconds: of speech in it; most: visitors at once, of whom one is heard."""

    max_mb: float = 20.0
    max_seconds: float = 60.0
    most: int = 12

    @property
    def bytes(self):
        return int(self.max_mb * 1e6)


class Refused(Exception):
    """A request that cannot be answered. status: of HTTP; the text says why."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Sound:
    """A file in memory, in a `with`; `path` is where libraries that want a path find it."""

    def __enter__(self):
        self.fd = os.memfd_create("sound", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self.fd}"
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def told(self, err):
        """The message of a UserError about this file, for the visitor, who knows it by another name."""
        from espnet_llmvq.data.audio import AudioError

        text = str(err)
        if isinstance(err, AudioError):  # its remedy is for corpora, but for a file that can be converted
            text = f"{err.message} ({err.fix})" if err.repair == "hand" else err.message
        text = text.removeprefix(f"{self.path}: ")
        return text.replace(repr(self.path), "it").replace(self.path, "FILE")


class Hearing:
    """ASGI application: POST of a sound file, `?system=NAME`; answers lines of JSON.

    {"state": "waiting", "ahead": n}, again and again; {"state": "hearing"}; then {"state": "done", "result": what
    `DemoSystem.hear` returns} or {"state": "failed", "error": why}. What can be told before is told by a status of HTTP
    and {"error": why}.
    """

    def __init__(self, systems, limits):
        self.systems, self.limits, self.line = systems, limits, Line(limits.most)

    async def __call__(self, scope, receive, send):
        from anyio import to_thread
        from starlette.requests import ClientDisconnect, Request
        from starlette.responses import JSONResponse, StreamingResponse

        request = Request(scope, receive)
        try:
            system = self._system(request.query_params.get("system"))
            self._check_length(request.headers.get("content-length"))
            # All that holds the sound and the place is left by whatever way out, also before the answer has begun.
            with self.line.place(), Sound() as sound:
                await self._receive(request, sound)
                await to_thread.run_sync(self._check, sound)
                async with contextlib.aclosing(self._answer(system, sound)) as lines:
                    answer = StreamingResponse(lines, media_type="application/x-ndjson")
                    await answer(scope, receive, send)
        except Refused as err:
            await JSONResponse({"error": str(err)}, err.status)(scope, receive, send)
        except Full:
            text = f"{self.line.most} recordings are waiting already, and there is no room for more; try again soon"
            await JSONResponse({"error": text}, 503, {"retry-after": "10"})(scope, receive, send)
        except ClientDisconnect:
            pass

    def _system(self, name):
        if name is None:
            return next(iter(self.systems.values()))
        if name not in self.systems:
            known = ", ".join(self.systems)
            raise Refused(404, f"there is no system {name!r}{nearest(name, self.systems)}; there are {known}")
        return self.systems[name]

    def _check_length(self, header):
        if header is not None and header.isdecimal() and int(header) > self.limits.bytes:
            raise self._too_large()

    def _too_large(self):
        return Refused(413, f"the file is larger than {self.limits.max_mb:g} MB; send a shorter or compressed one")

    async def _receive(self, request, sound):
        """Write the body of a request into `sound`. Raises Refused where it is too large, or comes too slowly."""
        import anyio

        size = 0
        try:
            with anyio.fail_after(UPLOAD):
                async for part in request.stream():
                    size += len(part)
                    if size > self.limits.bytes:
                        raise self._too_large()
                    sound.write(part)
        except TimeoutError:
            raise Refused(408, f"the sound did not arrive within {UPLOAD:g} s") from None
        if not size:
            raise Refused(400, "no sound was sent")

    def _check(self, sound):
        """Raise Refused for what is no sound, or too long."""
        from espnet_llmvq.data.audio import info

        try:
            duration = info(sound.path).duration
        except UserError as err:
            raise Refused(422, sound.told(err)) from None
        if duration > self.limits.max_seconds:
            raise Refused(
                413,
                f"the recording has {duration:.1f} s, and this page takes up to {self.limits.max_seconds:g} s; "
                "cut it, or use `llmvq transcribe`",
            )

    async def _answer(self, system, sound):
        """Yield the lines of an answer."""
        from anyio import to_thread

        with self.line.turn() as waiting:
            async for ahead in waiting:
                yield _line(state="waiting", ahead=ahead)
            yield _line(state="hearing")
            # A thread cannot be stopped. If the visitor leaves, this still waits for its end (`run_sync` does), so that
            # no two recordings are heard at once.
            yield await to_thread.run_sync(self._hear, system, sound)

    def _hear(self, system, sound):
        """The last line of an answer, whatever happens."""
        try:
            return _line(state="done", result=system.hear(sound.path))
        except UserError as err:
            return _line(state="failed", error=sound.told(err))
        except Exception:
            traceback.print_exc()
            print("The page goes on.", file=sys.stderr, flush=True)
            text = "the recogniser failed on this recording; the reason is printed where `llmvq demo` runs"
            return _line(state="failed", error=text)


def _line(**content):
    return json.dumps(content, ensure_ascii=False) + "\n"


def make_app(systems, limits=None, words=(), host="127.0.0.1"):
    """The ASGI application. systems: {name: `DemoSystem`}; words: to be listened for; host: that it is bound to."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    limits = limits or Limits()
    settings = {
        "systems": [{"name": s.name, "label": s.label, "bridge": s.bridge} for s in systems.values()],
        "max_mb": limits.max_mb, "max_seconds": limits.max_seconds, "words": list(words),
    }  # fmt: skip

    def file(path, kind):
        content = path.read_bytes()
        return lambda request: Response(content, media_type=kind)

    async def missing(request, err):
        return JSONResponse({"error": "there is nothing of that name here"}, err.status_code)

    routes = [Route(address, file(*what)) for address, what in FILES.items()]
    routes += [Route("/settings", lambda request: JSONResponse(settings))]
    routes += [Route("/hear", Hearing(systems, limits), methods=["POST"])]
    app = Starlette(routes=routes, exception_handlers={404: missing, 405: missing})
    app.router.redirect_slashes = False
    return Guard(app, host)
