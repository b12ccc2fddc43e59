"""A stand-in for the Hub on two ports of this machine: one host is not the other, so that a token must not follow."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that hung up: some tests want it to."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def two_ports(handler: Callable[..., BaseHTTPRequestHandler], state: object) -> Iterator[tuple[str, str]]:
    """Serve `handler(state, False, ...)`, the Hub, and `handler(state, True, ...)`, its other host; their addresses."""
    servers = []
    for other in (False, True):
        server = _Server(("127.0.0.1", 0), partial(handler, state, other))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    try:
        yield f"http://127.0.0.1:{servers[0].server_port}", f"http://localhost:{servers[1].server_port}"
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
