"""The HTTP client of huggingface_hub while files are sent: bounded in time, its token kept from every other origin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import parse_ratelimit_headers
from huggingface_hub.utils._http import default_client_factory

from quantkit.errors import NetworkError
from quantkit.source.hub_access import Hub
from quantkit.source.ranges import origin

LONGEST_WAIT_S = 120  # that a server may ask for; huggingface_hub tries five times
TIMEOUT_S = 120.0  # without a byte
HTTP: Any = import_module(HTTPError.__module__.partition(".")[0])
Transport: type[Exception] = HTTP.TransportError


@contextmanager
def guarded(hub: Hub) -> Iterator[None]:
    """Within it, requests end when nothing moves, and a token that was on its way to another origin stays here."""
    home = origin(hub.endpoint or constants.ENDPOINT)

    def keep_token(request: Any) -> None:
        if origin(str(request.url)) != home:
            request.headers.pop("authorization", None)

    def factory() -> Any:
        hooks = {"request": [keep_token], "response": [bound_wait]}
        return HTTP.Client(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT_S)

    set_client_factory(factory)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


def bound_wait(response: Any) -> None:
    """Raise NetworkError for an answer that wants longer to be waited for than anybody would: it would be slept."""
    asked = wait_of(response)
    if asked > LONGEST_WAIT_S:
        what = f"the Hub answered {response.status_code} and wants {asked:,.0f} s to pass"
        raise NetworkError(what, hint="run the same command again then: what has arrived is not sent again")


def wait_of(response: Any) -> float:
    """Seconds that a server asks to wait for, 0 where it does not."""
    if response.status_code != 429 and response.status_code < 500:
        return 0.0
    said = response.headers.get("retry-after", "").strip()
    after = float(said) if said.isdecimal() and len(said) < 10 else 0.0
    limit = parse_ratelimit_headers(response.headers) if response.status_code == 429 else None
    return max(after, float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0)
