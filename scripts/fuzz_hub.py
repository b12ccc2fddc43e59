"""Damaged answers of a Hub, to the code that fetches from one: statuses, headers, redirects, lists of files, contents.

Everything runs as it does when a user names a model of the Hub, huggingface_hub and its HTTP client too; only the
transport below the client is another one: it answers from a table and knows no network. Waiting takes no time.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock
from urllib.parse import unquote

import fuzz_mutators as m
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import _http

from quantkit.errors import QuantkitError
from quantkit.events import Event, Warned
from quantkit.source import ranges
from quantkit.source.glance import glance
from quantkit.source.hub import Hub, fetch

REPO, COMMIT = "org/model", "a" * 40
TOKEN = "hf_CanaryCanaryCanary"
ENDPOINT = "https://hub.invalid"
LARGE = "model.safetensors"
FILES = {
    "config.json": '{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": '{"version": "1.0"}',
    "1_Pooling/config.json": "{}",
    "additional_chat_templates/rag.jinja": "rag",
    "README.md": "---\nlicense: mit\n---\n",
    LARGE: "weights",
    "model-q4.gguf": "GGUF",
}
PATIENCE = 60  # seconds of waiting in silence
MAX_REQUESTS = 300


def _answer(body: Any, status: int = 200, **headers: str) -> dict[str, Any]:
    return {"status": status, "headers": {name.replace("_", "-"): text for name, text in headers.items()}, "body": body}


def _file(text: str) -> dict[str, Any]:
    etag = hashlib.sha1(text.encode()).hexdigest()
    return _answer(text, ETag=f'"{etag}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes", Content_Length=str(len(text)))


def answers() -> dict[str, Any]:
    """What a Hub says of a small repository: "info", "tree", and "head NAME", "get NAME" of each file."""
    listed = [
        {"type": "file", "path": path, "size": len(text), "oid": hashlib.sha1(text.encode()).hexdigest()}
        for path, text in FILES.items()
    ]
    siblings = [{"rfilename": path} for path in FILES]
    info = {"id": REPO, "modelId": REPO, "sha": COMMIT, "private": False, "gated": False, "tags": ["a"],
            "lastModified": "2024-01-01T00:00:00.000Z", "siblings": siblings}  # fmt: skip
    table = {"info": _answer(info), "tree": _answer(listed)}
    for name, text in FILES.items():
        table[f"head {name}"], table[f"get {name}"] = _file(text), _file(text)
    sha256 = hashlib.sha256(FILES[LARGE].encode()).hexdigest()
    elsewhere = {"Location": "https://cdn.invalid/blob?Signature=s", "X-Linked-Etag": f'"{sha256}"',
                 "X-Linked-Size": str(len(FILES[LARGE]))}  # fmt: skip
    table[f"head {LARGE}"]["headers"] |= elsewhere
    table[f"head {LARGE}"]["status"] = 302
    return table


def refusals() -> dict[str, Any]:
    """What a Hub says that is busy, wants a login, has moved something, or tells of pages."""
    table = answers()
    table["info"] = _answer({"error": "Too many"}, 429, ratelimit='"api";r=0;t=5', ratelimit_policy='"w";"api";q=5;w=3')
    table["head config.json"] = _answer("", 307, Location="/org/model-renamed/resolve/main/config.json")
    table["get tokenizer.json"] = _answer("", 503, Retry_After="3")
    table["head README.md"] = _answer("", 404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
    table["tree"]["headers"]["Link"] = f'<{ENDPOINT}/api/models/{REPO}/tree/{COMMIT}?cursor=b>; rel="next"'
    return table


WORDS = [
    "", "0", "-1", "1", "9" * 20, "9" * 400, "1e9", "nan", "\x1b[31m", "é", "a\r\nb", "\0", "bytes */*", "bytes 0-",
    "chunked", "gzip", "br", "deflate", "identity", "W/\"x\"", '"', "../../x", "file:///etc/passwd", "https://", "//",
    "http://[::1", "https://user:word@hub.invalid/x", "ftp://a/b", "/x", "?", "http://\ud800/", "https://hub.invalid/" +
    "a" * 70000, "https://a..b/", "https://é.invalid:99999/", "text/html; charset=none",
    "RepoNotFound", "GatedRepo", "RevisionNotFound", "EntryNotFound", "DisabledRepo", '"api";r=0;t=99999999999',
    '"api";r=0;t=100000', f'<{ENDPOINT}/api/models/{REPO}/tree/{COMMIT}?cursor=c>; rel="next"', "<x>; rel=next",
    "b" * 40, "application/json; charset=utf-16",
]  # fmt: skip
NAMES = [
    "Location", "Link", "Retry-After", "ratelimit", "ratelimit-policy", "ETag", "X-Linked-Etag", "X-Linked-Size",
    "X-Repo-Commit", "X-Error-Code", "X-Error-Message", "Content-Length", "Content-Range", "Content-Type",
    "Content-Encoding", "Transfer-Encoding", "Set-Cookie", "X-Request-Id", "Date", "Accept-Ranges",
]  # fmt: skip
STATUSES = [
    200,
    204,
    206,
    301,
    302,
    303,
    304,
    307,
    308,
    400,
    401,
    403,
    404,
    408,
    416,
    418,
    429,
    451,
    500,
    502,
    503,
    599,
]
PATHS = [
    "../x", "/etc/x", "a/../../x", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "config.json/x",
    "CONFIG.JSON", "a" * 300 + ".md", "LICENSE\n", "NOTICE\ud800", "nul.json", "additional_chat_templates/../x.jinja",
]  # fmt: skip


def mutate(rng: random.Random) -> bytes:
    """A table of answers with one to three changed: status, a header, the body, or anything inside."""
    table = rng.choice((answers, answers, answers, refusals))()
    for _ in range(rng.choice((1, 1, 2, 3))):
        answer = table[rng.choice(("info", "tree", *table))]
        match rng.randrange(8):
            case 0:
                answer["status"] = rng.choice(STATUSES)
            case 1 | 2:
                name = rng.choice((*NAMES, *answer["headers"]))
                answer["headers"][name] = rng.choice(WORDS)
            case 3 if answer["headers"]:
                del answer["headers"][rng.choice(list(answer["headers"]))]
            case 4 if isinstance(answer["body"], list) and answer["body"]:
                rng.choice(answer["body"])["path"] = rng.choice(PATHS)
            case 5 if isinstance(answer["body"], str):
                answer["body"] = rng.choice((answer["body"] * 2, answer["body"][:-1], "x" * 5000, ""))
            case 6:
                answer["body"] = m.spelled(answer["body"], rng).decode("latin-1")
            case _:
                changed = m.changed(answer["body"], rng)
                answer["body"] = changed
    return json.dumps(table).encode()


@dataclass
class Seen:
    """What happened while a Hub was asked: requests, and seconds slept before some of them."""

    requests: int = 0
    slept: float = 0.0
    said: list[str] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.said.append(event.message)

    def require_sane(self) -> None:
        assert self.requests < MAX_REQUESTS, f"{MAX_REQUESTS} requests, and no end of them"
        told = any("Waiting" in text for text in self.said)
        assert self.slept < PATIENCE or told, f"sleeps for {self.slept:,.0f} s and does not say so"


def transport(table: dict[str, Any], http: ModuleType, seen: Seen) -> Callable[[Any], Any]:
    """Answers from a table."""

    def answer(request: Any) -> Any:
        seen.requests += 1
        if seen.requests >= MAX_REQUESTS:  # the next page of a list may be the same page
            raise http.RequestError("enough")
        path = unquote(request.url.path)
        name = path.split("/", 5)[-1] if "/resolve/" in path else LARGE
        key = f"{request.method.lower()} {name}"
        if path.startswith("/api/models/"):
            key = "tree" if "/tree/" in path else "info"
        found = table.get(key) or {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}, "body": ""}
        body = found["body"]
        raw = body.encode("latin-1", "replace") if isinstance(body, str) else json.dumps(body).encode()
        headers = [(name.encode(), text.encode("utf-8", "surrogatepass")) for name, text in found["headers"].items()]
        stream = http.ByteStream(b"" if request.method == "HEAD" else raw)
        return http.Response(found["status"], headers=headers, stream=stream)

    return answer


@dataclass
class Clock:
    """The module time for huggingface_hub: sleeping takes none."""

    seen: Seen

    def sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        if seconds > 9e9:
            raise OverflowError("timestamp too large to convert to C PyTime_t")
        self.seen.slept += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def no_network(table: dict[str, Any], http: ModuleType, seen: Seen) -> Iterator[None]:
    """All requests of huggingface_hub are answered from a table."""

    def client() -> Any:
        hooks = {"request": [_http.hf_request_event_hook]}
        through = http.MockTransport(transport(table, http, seen))
        return http.Client(transport=through, event_hooks=hooks, follow_redirects=True, trust_env=False)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(_http, "time", Clock(seen)))
        stack.enter_context(mock.patch.object(ranges, "time", Clock(seen)))
        stack.enter_context(mock.patch.object(constants, "HF_HUB_DISABLE_XET", True))  # it has a client of its own
        _http.set_client_factory(client)
        stack.callback(_http.set_client_factory, _http.default_client_factory)
        yield


def _looked(hub: Hub, emit: Callable[[Event], None]) -> Path:
    """What begins the files of a checkpoint, by ranges; all of it is read."""
    found = glance(REPO, None, hub, emit)
    for file in found.distant.values():
        assert file.read(0, file.nbytes).nbytes == file.nbytes
    return found.path


def hub(file: str | None, *, headers: bool = False) -> Callable[[Path], tuple[m.Mutator, Callable[[bytes], object]]]:
    """Fetching a checkpoint, or with `file` a GGUF file; or only the `headers` of its files."""

    def make(folder: Path) -> tuple[m.Mutator, Callable[[bytes], object]]:
        http: ModuleType = importlib.import_module(HTTPError.__module__.partition(".")[0])

        def read(data: bytes) -> object:
            for old in folder.iterdir():
                shutil.rmtree(old, ignore_errors=True)
            cache = Path(tempfile.mkdtemp(dir=folder))  # huggingface_hub remembers lists of files by folder
            table = json.loads(data)
            seen = Seen()
            try:
                with no_network(table, http, seen):
                    here = Hub(endpoint=ENDPOINT, cache=cache, token=TOKEN)
                    looks = partial(_looked, here) if headers else partial(fetch, REPO, None, here, file=file)
                    found = looks(emit=seen.hear)
            except QuantkitError as error:
                assert TOKEN not in f"{error.message} {error.hint}", "the token is in the message"
                raise
            finally:
                seen.require_sane()
            assert cache.resolve() in found.resolve().parents, "outside of the cache"
            assert [*folder.iterdir()] == [cache], "files outside of the cache"
            return found

        return mutate, read

    return make
