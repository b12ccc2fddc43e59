"""A stand-in for the Hugging Face Hub on this machine: enough of its HTTP interface to fetch a model repository.

GET  /api/models/{repo}[/revision/{revision}]   the commit
GET  /api/models/{repo}/tree/{commit}           the files
HEAD, GET  /{repo}/resolve/{commit}/{file}      a file; large files redirect to the content network, another port

Every request is recorded, and some can be made to fail.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from two_ports import two_ports


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str | None
    range: str | None
    content_network: bool


@dataclass
class HubState:
    """What the stand-in holds: `commits` maps a commit to its files, `branches` a name to a commit; `kind` may be
    "datasets", too.

    `cut` names files whose connection breaks half-way, once each, `slow` files that come at 10 MB per second.
    `wrong` is how answers to ranges are wrong: "ignored", "shifted", "sized", "short", "long", "tagged", "packed",
    "committed" or "linked". `busy` are answers, status and headers, that requests for ranges get first.
    `elsewhere` is where large files redirect to instead of the content network.
    `fail` maps a part of a path to a status and the Hub's error code. `html` makes the interface answer like a
    login page. `junk` maps a part of a path to what is answered instead.
    """

    repo: str
    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    large: frozenset[str] = frozenset()
    token: str | None = None
    cut: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    fail: dict[str, tuple[int, str]] = field(default_factory=dict)
    kind: str = "models"
    wrong: str = ""
    busy: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    elsewhere: str = ""
    html: bool = False
    junk: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes of each file that went out
    hung_up: list[str] = field(default_factory=list)  # files whose lines were closed meanwhile
    endpoint: str = ""
    content_network: str = ""

    def fetched(self) -> list[str]:
        """Names of files whose bytes were sent, in order."""
        gets = [r.path for r in self.requests if r.method == "GET" and not r.path.startswith("/api/")]
        return [path.split("/", 5)[5] for path in gets]

    def resolved(self) -> int:
        """How often a branch was turned into a commit."""
        return sum(r.path.startswith("/api/") and "/tree/" not in r.path for r in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: HubState, content_network: bool, *args: object) -> None:
        self.state = state
        self.on_content_network = content_network
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        try:
            self._route()
        except (BrokenPipeError, ConnectionResetError):  # the client hung up
            self.close_connection = True

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("authorization")
        request = Request(self.command, path, token, self.headers.get("range"), self.on_content_network)
        self.state.requests.append(request)
        for part, (status, code) in self.state.fail.items():
            if part in path:
                return self._send(status, {"X-Error-Code": code, "X-Error-Message": "the stand-in was told to fail"})
        for part, body in self.state.junk.items():
            if part in path:
                return self._send(200, {"Content-Type": "application/json"}, body)
        if self.state.html:
            return self._send(200, {"Content-Type": "text/html"}, b"<html>please log in</html>")
        if not self.on_content_network and self.state.token and token != f"Bearer {self.state.token}":
            return self._send(401, {"X-Error-Message": "Invalid username or password."})
        repo = self.state.repo
        kind = self.state.kind
        below = "" if kind == "models" else f"/{kind}"
        if path.startswith(f"/api/{kind}/{repo}"):
            return self._interface(path.removeprefix(f"/api/{kind}/{repo}").strip("/"))
        if path.startswith(f"{below}/{repo}/resolve/"):
            return self._file(*path.removeprefix(f"{below}/{repo}/resolve/").split("/", 1))
        return self._send(404, {"X-Error-Code": "RepoNotFound"})

    def _interface(self, rest: str) -> None:
        kind, _, name = rest.partition("/")
        commit = self.state.branches.get(name or "main", name)
        if commit not in self.state.commits:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        files = self.state.commits[commit]
        if kind == "tree":
            body = [{"type": "file", "path": p, "size": len(d), "oid": _sha1(d)} for p, d in files.items()]
        else:
            body = {"id": self.state.repo, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
        return self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _file(self, commit: str, name: str) -> None:
        data = self.state.commits.get(commit, {}).get(name)
        if data is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        wrong = self.state.wrong if self.headers.get("range") else ""
        if self.headers.get("range") and self.state.busy and not self.on_content_network:
            status, more = self.state.busy.pop(0)
            return self._send(status, more)
        commit = "c" * 40 if wrong == "committed" else commit
        tag = str(len(self.state.requests)) if wrong == "tagged" else ""
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_sha1(data)}{tag}"', "Accept-Ranges": "bytes"}
        if name in self.state.large and not self.on_content_network:
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(data) + (wrong == "linked"))
            there = self.state.elsewhere or f"{self.state.content_network}{self.path}?Signature=secret-signature"
            headers["Location"] = there
            return self._send(302, headers)
        first, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, len(data)) if last else len(data)
        part = bool(start or last) and wrong != "ignored"
        if part:
            moved = wrong == "shifted"
            total = len(data) + (wrong == "sized")
            headers["Content-Range"] = f"bytes {start + moved}-{stop - 1 + moved}/{total}"
        if wrong == "packed":
            headers["Content-Encoding"] = "gzip"
        body = data[start : stop - (wrong == "short")] + b"x" * (wrong == "long")
        return self._send(206 if part else 200, headers, body if part else data, name)

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"", name: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.state.cut:
            self.state.cut.remove(name)
            body = body[: len(body) // 2]
            self.close_connection = True
        size = 1 << 20 if name in self.state.slow else len(body) + 1
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            if name:
                self.state.sent[name] = self.state.sent.get(name, 0) + len(piece)
            try:
                self.wfile.write(piece)
            except OSError:
                self.state.hung_up.append(name)
                raise
            time.sleep(0.1 if name in self.state.slow else 0)


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def new_cache(folder: Path) -> Path:
    """A folder in this one for a cache of the Hub, with another name each time: huggingface_hub remembers lists of
    files by the name, and pytest gives those of folders that it has removed again."""
    return Path(tempfile.mkdtemp(prefix="cache-", dir=folder))


@contextmanager
def serve(state: HubState) -> Iterator[HubState]:
    """Serve `state` on two ports of 127.0.0.1 (Hub and content network) and fill in their addresses."""
    with two_ports(_Handler, state) as (state.endpoint, state.content_network):
        yield state
