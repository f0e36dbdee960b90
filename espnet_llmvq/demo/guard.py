"""`Guard`: what every request and answer of the page has to fulfil, whatever it asks for."""

import ipaddress
import socket

# As strict as the report's page, but for what this one needs: its own files, its own server, sound that was recorded.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-store",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_local(host):
    """Whether a server bound to `host`, a name or an address, is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(netloc):
    """The host in HOST, HOST:PORT or [ADDRESS]:PORT, in lower case."""
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0].lower()
    return netloc.partition(":")[0].lower()


class Guard:
    """ASGI application around another one.

    Requests for another host than this one are refused: a foreign site whose name was made to lead here (DNS
    rebinding) would else read what is said. So are those that another site's page sends. Answers get `HEADERS`.

    host: what the server is bound to. Bound to more than this machine, it also has the machine's own names and
    addresses: an address cannot be made to lead elsewhere.
    """

    def __init__(self, app, host):
        self.app, self.local = app, is_local(host)
        self.names = {*LOOPBACK, host.lower()}
        if not self.local:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def refusal(self, headers):
        """Why a request with these headers, {name: value}, is refused; None if it is not."""
        host = headers.get("host", "")
        name = host_of(host)
        if name not in self.names and (self.local or not _is_address(name)):
            return "This page does not answer to that name; open the address that `llmvq demo` printed"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return "This request comes from another site"
        return None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message):
            if message["type"] == "http.response.start":
                given = [pair for pair in message["headers"] if pair[0].decode("latin-1") not in HEADERS]
                message = {**message, "headers": given + [(k.encode(), v.encode()) for k, v in HEADERS.items()]}
            await send(message)

        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        if reason := self.refusal(headers):
            from starlette.responses import JSONResponse

            return await JSONResponse({"error": reason}, 403)(scope, receive, guarded)
        return await self.app(scope, receive, guarded)


def _is_address(name):
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
