"""Serve an ASGI application from this process, until Ctrl-C."""

import ipaddress
import socket

from espnet_llmvq.base.errors import UserError


def listen(host, port):
    """A listening socket. port 0: any free one. Raises UserError where there is none to be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as err:
        raise UserError(f"--host {host}: no such name or address ({err.strerror})") from None
    sock = socket.socket(family, kind, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page that has just ended leaves its port in use
    try:
        sock.bind(address)
        sock.listen(128)
    except OSError as err:
        sock.close()
        raise UserError(
            f"port {port} of {host} cannot be had ({err.strerror}); give another one with --port, or --port 0 for any"
        ) from None
    return sock


def address_of(sock, host):
    """The address of the page, to open in a browser."""
    try:
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
        elif ":" in host:
            host = f"[{host}]"
    except ValueError:
        pass
    return f"http://{host}:{sock.getsockname()[1]}/"


def server_of(app):
    """The server of an application: its `run(sockets=[...])` serves until it is told to end."""
    import uvicorn

    config = uvicorn.Config(
        app, http="h11", ws="none", loop="asyncio", lifespan="off", log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    return uvicorn.Server(config)
