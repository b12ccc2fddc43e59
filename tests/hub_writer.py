"""A stand-in for the part of the Hub that is written to: repositories, Git LFS, commits. Its storage is another port.

GET  /api/models/{repo}[/revision/{branch}], /api/models/{repo}/tree/{commit}
POST /api/repos/create, /api/models/{repo}/branch/{branch}, /api/validate-yaml
POST /api/models/{repo}/preupload/{branch}       which files are large
POST /{repo}.git/info/lfs/objects/batch          where large ones go; nowhere if they have arrived before
PUT  {storage}/{oid}[/{part}]                    the bytes, whole or in parts; POST .../complete, .../verify
POST /api/models/{repo}/commit/{branch}          JSON Lines: a header with the parent, files, large files by hash

What arrives is hashed: an object is stored only under its own hash. hf-xet's protocol is not emulated; quantkit sends
over Git LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

from two_ports import two_ports

LARGE = (".gguf", ".safetensors")


@dataclass(frozen=True)
class Arrived:
    """A request, with the token it carried and how many bytes came with it."""

    method: str
    path: str
    token: str | None
    nbytes: int
    storage: bool


@dataclass
class Branch:
    commit: str
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, str] = field(default_factory=dict)  # name -> hash


@dataclass
class WriterState:
    """`repos` maps names to branches; `objects` is the storage. `busy` maps a part of a path to answers, status and
    headers, that come first. `cut` is after how many bytes of objects the storage hangs up. `before_commit` is called
    before a commit is looked at; objects that are `held` are answered once `go_on` is set. `lose` makes the answer to
    the next commit break. `elsewhere` maps a part of a path to another server that the Hub redirects to,
    and `verifier` is one that it sends whoever has uploaded an object to.
    """

    token: str = ""
    repos: dict[str, dict[str, Branch]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    part_bytes: int = 0  # objects above this size arrive in parts of it; 0: all whole
    busy: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    cut: int | None = None
    ignored: frozenset[str] = frozenset()
    held: set[str] = field(default_factory=set)
    waiting: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    before_commit: list[Callable[[], None]] = field(default_factory=list)
    lose: bool = False
    bad_card: bool = False
    card_warnings: tuple[str, ...] = ()
    elsewhere: dict[str, str] = field(default_factory=dict)
    verifier: str = ""
    requests: list[Arrived] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    endpoint: str = ""
    storage: str = ""

    def put(self, repo: str, files: dict[str, bytes], branch: str = "main") -> None:
        """Make a commit as somebody else."""
        branches = self.repos.setdefault(repo, {})
        old = branches.get(branch, Branch("0" * 40))
        commit = hashlib.sha1(f"{old.commit}{sorted(files)}{files}".encode()).hexdigest()
        branches[branch] = Branch(commit, {**old.files, **files}, dict(old.large))

    def stored(self) -> int:
        """Bytes of objects that arrived."""
        return sum(r.nbytes for r in self.requests if r.storage and r.method == "PUT")

    def content(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        found = self.repos[repo][branch]
        return {**found.files, **{name: self.objects[oid] for name, oid in found.large.items()}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: WriterState, storage: bool, *args: object) -> None:
        self.state, self.in_storage = state, storage
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._route(b"")

    def do_POST(self) -> None:
        self._route(self.rfile.read(int(self.headers.get("content-length", 0))))

    def do_PUT(self) -> None:
        length = int(self.headers["content-length"])
        left = self.state.cut if self.state.cut is not None else length
        data = self.rfile.read(min(length, left))
        self._record(len(data))
        if self.state.cut is not None:
            self.state.cut -= len(data)
            if len(data) < length:
                self.close_connection = True
                return
        if self._is_busy():
            return
        if urlsplit(self.path).path.strip("/") in self.state.held:
            self.state.waiting.set()
            self.state.go_on.wait(30)
        oid, _, part = urlsplit(self.path).path.strip("/").partition("/")
        if part:
            self.state.parts.setdefault(oid, {})[int(part)] = data
        elif not self._store(oid, data):
            return
        self._send(200, headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    def _store(self, oid: str, data: bytes) -> bool:
        if hashlib.sha256(data).hexdigest() != oid:
            self._send(422, {"error": "the hash is another"})
            return False
        self.state.objects[oid] = data
        return True

    def _record(self, nbytes: int) -> None:
        token = self.headers.get("authorization")
        self.state.requests.append(Arrived(self.command, unquote(self.path), token, nbytes, self.in_storage))

    def _is_busy(self) -> bool:
        for part, answers in self.state.busy.items():
            if part in unquote(self.path) and answers:
                status, headers = answers.pop(0)
                self._send(status, {"error": f"told to say {status}"}, headers)
                return True
        return False

    def _route(self, body: bytes) -> None:
        self._record(len(body))
        path = unquote(urlsplit(self.path).path)
        for part, place in self.state.elsewhere.items():
            if part in path:
                return self._send(307, headers={"Location": f"{place}{self.path}"})
        if self._is_busy():
            return None
        if (
            not self.in_storage
            and self.state.token
            and self.headers.get("authorization") != f"Bearer {self.state.token}"
        ):
            return self._send(401, {"error": "Invalid username or password."})
        if self.in_storage:
            return self._complete(path, body)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            errors = [{"message": "license is unknown"}] if self.state.bad_card else []
            told = [{"message": text} for text in self.state.card_warnings]
            return self._send(400 if errors else 200, {"errors": errors, "warnings": told})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if path.endswith("/verify"):
            said = json.loads(body)
            found = self.state.objects.get(said["oid"])
            return self._send(200 if found is not None and len(found) == said["size"] else 422, {})
        if path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            return self._model(f"{owner}/{name}", rest, body)
        return self._send(404, {"error": "nothing here"})

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.state.repos:
            return self._send(409, {"error": "You already created this model repo"})
        self.state.private[repo] = asked.get("visibility") == "private"
        self.state.put(repo, {".gitattributes": b"*.gguf filter=lfs\n"})
        return self._send(200, {"url": f"{self.state.endpoint}/{repo}", "id": "1", "name": repo})

    def _model(self, repo: str, rest: list[str], body: bytes) -> None:
        branches = self.state.repos.get(repo)
        if branches is None:
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        kind, name = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
        if kind == "branch":
            branches[name] = Branch(branches["main"].commit, dict(branches["main"].files), dict(branches["main"].large))
            return self._send(200, {})
        by_commit = {found.commit: found for found in branches.values()}
        found = branches.get(name) or by_commit.get(name)
        if found is None:
            return self._send(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        if kind == "tree":
            return self._send(200, [*self._listed(found)])
        if kind == "preupload":
            return self._send(200, {"files": [self._mode(found, each) for each in json.loads(body)["files"]]})
        if kind == "commit":
            return self._commit(repo, name, body)
        return self._send(200, {"id": repo, "sha": found.commit, "private": self.state.private.get(repo, False)})

    def _listed(self, found: Branch) -> Iterator[dict[str, Any]]:
        for name, data in found.files.items():
            yield {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
        for name, oid in found.large.items():
            size = len(self.state.objects[oid])
            lfs = {"oid": oid, "size": size, "pointerSize": 130}
            yield {"type": "file", "path": name, "size": size, "oid": "f" * 40, "lfs": lfs}

    def _mode(self, found: Branch, each: dict[str, Any]) -> dict[str, Any]:
        name = each["path"]
        oid = found.large.get(name) or (_blob(found.files[name]) if name in found.files else None)
        mode = "lfs" if name.endswith(LARGE) else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": name in self.state.ignored, "oid": oid}

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            if each["oid"] in self.state.objects:
                objects.append(each)
                continue
            upload: dict[str, Any] = {"href": f"{self.state.storage}/{each['oid']}?X-Amz-Signature=secret-signature"}
            if self.state.part_bytes and each["size"] > self.state.part_bytes:
                count = -(-each["size"] // self.state.part_bytes)
                parts = {
                    str(n): f"{self.state.storage}/{each['oid']}/{n}?sig=secret-signature" for n in range(1, count + 1)
                }
                upload = {
                    "href": f"{self.state.storage}/complete",
                    "header": {"chunk_size": str(self.state.part_bytes), **parts},
                }
            verify = {"href": f"{self.state.verifier or self.state.endpoint}/lfs/verify"}
            objects.append({**each, "authenticated": True, "actions": {"upload": upload, "verify": verify}})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _complete(self, path: str, body: bytes) -> None:
        said = json.loads(body)
        parts = self.state.parts.pop(said["oid"], {})
        if self._store(said["oid"], b"".join(parts[n] for n in sorted(parts))):
            self._send(200, {})

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        while self.state.before_commit:
            self.state.before_commit.pop(0)()
        old = self.state.repos[repo][branch]
        header, *operations = [json.loads(line) for line in body.splitlines()]
        parent = header["value"].get("parentCommit")
        if parent != old.commit:
            return self._send(412, {"error": "the branch has moved"})
        new = Branch("", dict(old.files), dict(old.large))
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                new.files[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] not in self.state.objects:
                return self._send(400, {"error": f"no object {value['oid']}"})
            else:
                new.large[value["path"]] = value["oid"]
        new.commit = hashlib.sha1(body + old.commit.encode()).hexdigest()
        self.state.commits.append({"repo": repo, "branch": branch, "parent": parent, **header["value"],
                                   "pr": "create_pr=1" in self.path,
                                   "paths": sorted(o["value"]["path"] for o in operations)})  # fmt: skip
        if "create_pr=1" not in self.path:
            self.state.repos[repo][branch] = new
        if self.state.lose:
            self.state.lose = False
            self.close_connection = True
            return None
        url = f"{self.state.endpoint}/{repo}"
        answer = {"commitUrl": f"{url}/commit/{new.commit}", "commitOid": new.commit, "success": True}
        return self._send(200, {**answer, "pullRequestUrl": f"{url}/discussions/1"})

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve_writer(state: WriterState) -> Iterator[WriterState]:
    """Serve `state` on two ports of this machine, the Hub and its storage, and fill in their addresses."""
    with two_ports(_Handler, state) as (state.endpoint, state.storage):
        yield state


@contextmanager
def pushed_to(state: WriterState) -> Iterator[WriterState]:
    """Make the stand-in the Hub of this process, with its token in the environment."""
    with (
        serve_writer(state),
        mock.patch("quantkit.source.hub_access.ENDPOINT", state.endpoint),
        mock.patch.dict(os.environ, {"HF_TOKEN": state.token}),
    ):
        yield state
