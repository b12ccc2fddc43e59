"""A file of the Hub, read by HTTP ranges: its header, and no more than that.

What a server says is checked before it is believed: the status must be 206 and the range, the whole size, the commit
and the entity tag those that were asked for or told before; a server that sends everything instead is cut off. The
token goes to the Hub and to no other origin, however an answer redirects.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NoReturn
from urllib.parse import quote, urljoin, urlsplit

import numpy as np
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import build_hf_headers

from quantkit.errors import NetworkError
from quantkit.events import Sink, Warned
from quantkit.records import record
from quantkit.source.hub_access import NO_ADDRESS, Hub, clean, explain_status
from quantkit.tensors import U8
from quantkit.untrusted import InputFile, shown

FIRST_BYTES = 1 << 16  # the first request: most headers of safetensors files are smaller
PREFIX_BYTES = 65 << 20  # the largest headers that the readers take
LOOSE_BYTES = 1 << 20  # read of one file besides its header: whoever wants more fetches the file
TRIES, WAIT_S, MAX_WAIT_S = 4, 1.0, 30.0
HOPS = 5
TIMEOUT_S, DEADLINE_S = 20.0, 120.0
AGAIN = (429, 500, 502, 503, 504)
CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
PORTS = {"http": 80, "https": 443}
Transport: type[Exception] = import_module(HTTPError.__module__.partition(".")[0]).TransportError


@record
class Place:
    """A file of a repository at a commit, of a size that the list of files tells."""

    repo: str
    commit: str
    name: str
    nbytes: int
    hub: Hub

    @property
    def what(self) -> str:
        return f"hf://{self.repo}/{shown(self.name)}"

    @property
    def url(self) -> str:
        endpoint = (self.hub.endpoint or constants.ENDPOINT).rstrip("/")
        return f"{endpoint}/{self.repo}/resolve/{self.commit}/{quote(self.name)}"


@dataclass
class Counter:
    """Bytes that arrived, of all files together."""

    nbytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, nbytes: int) -> None:
        with self.lock:
            self.nbytes += nbytes


class _AgainError(Exception):
    """Something that may be better a second later: what, and how long the server wants us to wait."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.wait_s = what, wait_s


class Ranged:
    """The bytes of a file of the Hub. What is read from its start on, until it is settled, is kept; beside that
    `LOOSE_BYTES` can be read.

    Who reads more gets it from the file `whole`, which fetches it. Safe to share between threads.
    """

    def __init__(self, place: Place, whole: Callable[[], InputFile], counter: Counter, emit: Sink) -> None:
        self._place, self._whole, self._counter, self._emit = place, whole, counter, emit
        self._lock = threading.Lock()
        self._prefix = b""
        self._loose = 0
        self._settled = False
        self._here: InputFile | None = None
        self._tags: dict[str, str] = {}

    def read(self, start: int, stop: int) -> U8:
        """Bytes [start, stop). Raises NetworkError for what does not arrive, or not as it was announced."""
        with self._lock:
            return self._read(start, stop)

    def _read(self, start: int, stop: int) -> U8:
        if self._here is None and stop > len(self._prefix):
            if not self._settled and start <= len(self._prefix) and stop <= PREFIX_BYTES:
                first = min(self._place.nbytes, FIRST_BYTES) if not self._prefix else 0
                self._prefix += self._fetch(len(self._prefix), max(stop, first))
            elif self._loose + stop - start <= LOOSE_BYTES:
                self._loose += stop - start
                return np.frombuffer(bytearray(self._fetch(start, stop)), np.uint8)
            else:
                self._here = self._whole()
        if self._here is not None:
            return self._here.read(start, stop)
        return np.frombuffer(bytearray(self._prefix[start:stop]), np.uint8)

    def settle(self) -> None:
        """What begins the file was read: weights are not read as if they were a header."""
        with self._lock:
            self._settled = True

    def close(self) -> None:
        if self._here is not None:
            self._here.close()

    def _fetch(self, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        for number in range(TRIES):
            try:
                found = self._request(start, stop)
            except _AgainError as error:
                wait = max(error.wait_s, WAIT_S * 2**number)
                if number == TRIES - 1 or wait > MAX_WAIT_S:
                    hint = "check the connection and run again; --offline uses a cached copy"
                    raise NetworkError(f"{self._place.what}: {error.what}", hint=hint) from None
                self._emit(Warned("hub", f"{self._place.what}: {error.what}; again in {wait:.0f} s"))
                time.sleep(wait)
            else:
                self._counter.add(len(found))
                return found
        raise AssertionError

    def _request(self, start: int, stop: int) -> bytes:
        """One attempt, along redirects."""
        address, home = self._place.url, True
        for _ in range(HOPS):
            home = home and origin(address) == origin(self._place.url)
            with self._answer(address, home, start, stop) as answer:
                if home:
                    self._require_same(answer.headers)
                if not answer.has_redirect_location:
                    return self._body(answer, start, stop)
                address = self._next(address, answer.headers["location"])
        return self._refuse(f"more than {HOPS} redirects")

    @contextmanager
    def _answer(self, address: str, home: bool, start: int, stop: int) -> Iterator[Any]:
        """The answer to a request for a range, its body unread; only `home` is shown the token."""
        headers = build_hf_headers(token=self._place.hub.token if home else False)
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with get_session().stream(
                "GET", address, headers=headers, follow_redirects=False, timeout=TIMEOUT_S
            ) as answer:
                yield answer
        except Transport as error:
            raise _AgainError(clean(str(error), self._place.hub) or type(error).__name__) from None
        except (HTTPError, NO_ADDRESS, ValueError) as error:
            self._refuse(clean(str(error), self._place.hub) or type(error).__name__)

    def _next(self, address: str, location: str) -> str:
        """Where a redirect leads. Raises NetworkError for one that leaves https, or leads to no address."""
        try:
            found = urljoin(address, location)
            scheme = urlsplit(found).scheme
        except ValueError:
            self._refuse("a redirect to no address")
        if scheme not in PORTS or (address.startswith("https:") and scheme != "https"):
            self._refuse(f"a redirect to {shown(scheme, 20)}:, which is not followed")
        return found

    def _require_same(self, headers: Mapping[str, str]) -> None:
        """What the Hub itself says of the file."""
        commit, size = headers.get("x-repo-commit"), headers.get("x-linked-size")
        if commit is not None and commit != self._place.commit:
            self._refuse(f"the Hub answers with commit {shown(commit, 40)}, asked for {self._place.commit}")
        if size is not None and size != str(self._place.nbytes):
            self._refuse(f"the Hub says {shown(size, 20)} bytes, its list of files {self._place.nbytes:,}")
        self._require_tag("x-linked-etag", headers)

    def _require_tag(self, name: str, headers: Mapping[str, str]) -> None:
        tag = headers.get(name)
        if tag is not None and self._tags.setdefault(name, tag) != tag:
            self._refuse("it changed between two ranges: another entity tag")

    def _body(self, answer: Any, start: int, stop: int) -> bytes:
        headers = answer.headers
        if answer.status_code in AGAIN:
            asked = headers.get("retry-after", "").strip()
            wait = float(asked) if asked.isdecimal() and len(asked) < 10 else 0.0
            raise _AgainError(f"the Hub answers {answer.status_code}", wait)
        if answer.status_code >= 400:
            reason = headers.get("x-error-message") or answer.reason_phrase
            raise explain_status(answer.status_code, reason, self._place.what, self._place.hub)
        self._require_tag("etag", headers)
        if headers.get("content-encoding", "identity").lower() != "identity":
            self._refuse("the range arrives compressed")
        said = CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
        whole = answer.status_code == 200 and start == 0 and stop == self._place.nbytes
        if not whole and answer.status_code != 206:
            self._refuse(f"the server answers {answer.status_code} and sends everything instead of a range")
        if not whole and (said is None or [int(n) for n in said.groups()] != [start, stop - 1, self._place.nbytes]):
            told = shown(headers.get("content-range", "no range"), 60)
            self._refuse(f"asked for bytes {start:,} to {stop - 1:,} of {self._place.nbytes:,}, it answers {told}")
        return self._bytes(answer, stop - start)

    def _bytes(self, answer: Any, wanted: int) -> bytes:
        data, limit = bytearray(), time.monotonic() + DEADLINE_S
        for chunk in answer.iter_raw():
            data += chunk
            if len(data) > wanted:
                self._refuse(f"more arrives than the {wanted:,} bytes that were asked for")
            if time.monotonic() > limit:
                raise _AgainError(f"{len(data):,} of {wanted:,} bytes after {DEADLINE_S:.0f} s")
        if len(data) < wanted:
            raise _AgainError(f"{len(data):,} of {wanted:,} bytes arrived")
        return bytes(data)

    def _refuse(self, why: str) -> NoReturn:
        hint = f"fetch it whole: hf download {self._place.repo}; then run again with --offline"
        raise NetworkError(f"{self._place.what}: {why}", hint=hint) from None


def origin(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address: what may be shown a token that the same was shown."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").lower(), port or PORTS.get(parts.scheme, 0)
