"""Fetching a repository from a stand-in for the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubState, new_cache, serve
from safetensors.numpy import save

from quantkit.errors import InputError, NetworkError, ResourceError, UsageError
from quantkit.events import Event, StageFinished, StageStarted, TensorProgress, Warned
from quantkit.plan.carried import carried_files, carried_names
from quantkit.source.folder import open_folder
from quantkit.source.glance import glance
from quantkit.source.hub import Hub, fetch

REPO = "some-org/Model-1B"
OLD, NEW = "a" * 40, "b" * 40
TOKEN = "hf_CanaryCanaryCanaryCanary"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def repository(fill: int) -> dict[str, bytes]:
    """Two shards with an index, side files, and much that nobody needs."""
    first = save({"a.weight": np.full((400, 500), fill, np.float32)})
    second = save({"b.weight": np.full((8,), fill, np.float32)})
    weight_map = {"a.weight": SHARDS[0], "b.weight": SHARDS[1]}
    return {
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"]}).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        SHARDS[0]: first,
        SHARDS[1]: second,
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b'{"bos_token": "<s>"}',
        "additional_chat_templates/rag.jinja": b"rag",
        "additional_chat_templates/notes.txt": b"no template",
        "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
        "2_Dense/config.json": b'{"bias": true}',
        "2_Dense/model.safetensors": b"weights of a module",
        "config_sentence_transformers.json": b"{}",
        "README.md": b"---\nlicense: mit\n---\n",
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": b"duplicate",
        "original/consolidated.00.pth": b"pickle",
        "original/tokenizer.model": b"duplicate",
        "onnx/model.onnx": b"other format",
        "modeling_custom.py": b"code",
        "model-q4.gguf": b"GGUF",
        ".gitattributes": b"",
    }


NEEDED = {
    "config.json", "model.safetensors.index.json", *SHARDS, "tokenizer.json", "tokenizer_config.json",
    "additional_chat_templates/rag.jinja", "1_Pooling/config.json", "2_Dense/config.json", "README.md",
    "config_sentence_transformers.json",
}  # fmt: skip


@pytest.fixture
def hub_state() -> Iterator[HubState]:
    commits = {OLD: repository(1), NEW: repository(2)}
    with serve(HubState(REPO, commits, {"main": OLD}, large=frozenset(SHARDS))) as state:
        yield state


@pytest.fixture
def hub(hub_state: HubState, tmp_path: Path) -> Hub:
    return Hub(endpoint=hub_state.endpoint, cache=new_cache(tmp_path))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_fetches_only_what_is_needed(hub_state: HubState, hub: Hub) -> None:
    events: list[Event] = []
    folder = fetch(REPO, None, hub, events.append)
    assert files_in(folder) == NEEDED
    assert sorted(set(hub_state.fetched())) == sorted(NEEDED)
    assert hub_state.resolved() == 1
    checkpoint = open_folder(folder, events.append)
    assert (checkpoint.name, checkpoint.repo, checkpoint.commit) == ("Model-1B", REPO, OLD)
    assert float(checkpoint.ref("a.weight").read(0, 400).max()) == 1.0
    carried = dict(carried_files(checkpoint))
    assert set(carried_names(checkpoint)) == carried.keys() - {"README.md"}
    assert carried.keys() == NEEDED - {"config.json", "model.safetensors.index.json", *SHARDS}
    assert carried.items() <= hub_state.commits[OLD].items()
    hashes = {f.name: f.sha256 for f in checkpoint.files()}
    for shard in SHARDS:
        assert hashes[shard] == hashlib.sha256(hub_state.commits[OLD][shard]).hexdigest()
    assert hashes["config.json"] is None
    total = sum(len(hub_state.commits[OLD][shard]) for shard in SHARDS)
    started, finished = events[0], events[-1]
    assert isinstance(started, StageStarted)
    assert (started.stage, started.total_bytes) == ("download", total)
    assert isinstance(finished, StageFinished)
    progress = [e for e in events if isinstance(e, TensorProgress)]
    assert progress[-1].done_bytes == total
    assert [e.done_bytes for e in progress] == sorted(e.done_bytes for e in progress)


def test_all_files_are_of_one_commit_even_if_the_branch_moves(hub_state: HubState, hub: Hub) -> None:
    def move(event: Event) -> None:
        hub_state.branches["main"] = NEW

    folder = fetch(REPO, None, hub, move)
    assert hub_state.branches["main"] == NEW
    assert folder.name == OLD
    assert hub_state.resolved() == 1
    assert all(OLD in r.path for r in hub_state.requests if "/resolve/" in r.path)
    assert open_folder(folder, print).ref("b.weight").read(0, 8).max() == 1.0
    assert fetch(REPO, None, hub, print).name == NEW


@pytest.mark.parametrize("revision", ["main", "v1.0", OLD, "refs/pr/1"])
def test_revisions(revision: str, hub_state: HubState, hub: Hub) -> None:
    hub_state.branches |= {"v1.0": OLD, "refs/pr/1": OLD}
    assert fetch(REPO, revision, hub, print).name == OLD
    assert hub_state.resolved() == (0 if revision == OLD else 1)


def test_nothing_is_fetched_twice(hub_state: HubState, hub: Hub) -> None:
    fetch(REPO, None, hub, print)
    hub_state.requests.clear()
    events: list[Event] = []
    fetch(REPO, None, hub, events.append)
    assert (hub_state.fetched(), len(hub_state.requests), events) == ([], 1, [])
    hub_state.requests.clear()
    fetch(REPO, OLD, hub, print)
    assert hub_state.requests == []


def test_a_dropped_connection_goes_on_where_it_stopped(hub_state: HubState, hub: Hub) -> None:
    data = save({"a.weight": np.arange(6 << 20, dtype=np.float32)})
    hub_state.commits[OLD] = {"config.json": b"{}", "model.safetensors": data}
    hub_state.large = frozenset({"model.safetensors"})
    hub_state.cut = {"model.safetensors"}
    events: list[Event] = []
    folder = fetch(REPO, None, hub, events.append)
    assert (folder / "model.safetensors").read_bytes() == data
    ranges = [r.range for r in hub_state.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert ranges == [None, f"bytes={10 << 20}-"]  # 12 MB arrived, and are written 10 MB at a time
    warnings = [e.message for e in events if isinstance(e, Warned)]
    assert any("resume" in message for message in warnings)
    assert not any("secret-signature" in message for message in warnings)


def test_a_failed_run_keeps_the_files_that_arrived(hub_state: HubState, hub: Hub) -> None:
    hub_state.fail[SHARDS[1]] = (403, "")
    with pytest.raises(NetworkError, match="answered 403"):
        fetch(REPO, None, hub, print)
    hub_state.fail.clear()
    hub_state.requests.clear()
    fetch(REPO, None, hub, print)
    assert set(hub_state.fetched()) <= set(SHARDS)
    assert SHARDS[1] in hub_state.fetched()


def test_the_token_goes_to_the_hub_only(hub_state: HubState, hub: Hub) -> None:
    hub_state.token = TOKEN
    fetch(REPO, None, replace(hub, token=TOKEN), print)
    assert any(r.content_network for r in hub_state.requests)
    for request in hub_state.requests:
        assert request.token == (None if request.content_network else f"Bearer {TOKEN}")
    assert TOKEN not in repr(replace(hub, token=TOKEN))


def test_offline_uses_the_cache_only(hub_state: HubState, hub: Hub) -> None:
    offline = replace(hub, offline=True)
    with pytest.raises(NetworkError, match="not in the cache"):
        fetch(REPO, None, offline, print)
    folder = fetch(REPO, None, hub, print)
    hub_state.requests.clear()
    assert fetch(REPO, None, offline, print) == folder
    assert fetch(REPO, "main", offline, print) == folder
    assert fetch(REPO, OLD, offline, print) == folder
    (folder / SHARDS[1]).unlink()
    with pytest.raises(NetworkError, match="not complete in the cache"):
        fetch(REPO, None, offline, print)
    with pytest.raises(NetworkError, match="not in the cache"):
        fetch(REPO, "other", offline, print)
    with pytest.raises(NetworkError, match="not complete in the cache"):
        fetch(REPO, NEW, offline, print)
    assert hub_state.requests == []


def test_offline_without_a_cached_listing(hub_state: HubState, hub: Hub) -> None:
    """Other programs fill the cache without the list of files that snapshot_download keeps."""
    folder = fetch(REPO, None, hub, print)
    for listing in (folder.parent.parent / "trees").iterdir():
        listing.unlink()
    # The list is also kept in memory, so look from another process.
    child = "import sys; from quantkit.source.hub import *"
    child += "; print(fetch(sys.argv[1], None, Hub(True, None, Path(sys.argv[2])), print))"
    done = subprocess.run(
        [sys.executable, "-c", child, REPO, str(hub.cache)], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == folder


def test_an_unreachable_hub(hub: Hub, hub_state: HubState, tmp_path: Path) -> None:
    nowhere = replace(hub, endpoint="http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"http://127\.0\.0\.1:9") as caught:
        fetch(REPO, None, nowhere, print)
    assert "--offline" in str(caught.value.hint)
    folder = fetch(REPO, None, hub, print)
    events: list[Event] = []
    assert fetch(REPO, None, nowhere, events.append) == folder
    [warning] = events
    assert isinstance(warning, Warned)
    assert "Could not reach the Hub" in warning.message


@pytest.mark.parametrize(
    ("status", "code", "kind", "message", "hint"),
    [
        (404, "RepoNotFound", UsageError, "no model repository", "HF_TOKEN"),
        (404, "RevisionNotFound", UsageError, "no revision", "tree/main"),
        (401, "", NetworkError, "answered 401", "hf auth login"),
        (403, "GatedRepo", NetworkError, "gated", "accept its terms"),
        (403, "", NetworkError, "answered 403", "permissions"),
        (429, "", NetworkError, "answered 429", "wait"),
        (500, "", NetworkError, "500", "again"),
        (503, "", NetworkError, "503", "again"),
    ],
)
def test_answers_become_errors(
    status: int, code: str, kind: type[Exception], message: str, hint: str, hub_state: HubState, hub: Hub
) -> None:
    hub_state.fail["/api/"] = (status, code)
    with pytest.raises(kind, match=message) as caught:
        fetch(REPO, "main", hub, print)
    assert hint in str(getattr(caught.value, "hint", ""))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_login_page_instead_of_the_hub(hub_state: HubState, hub: Hub) -> None:
    hub_state.html = True
    with pytest.raises(NetworkError, match="cannot fetch"):
        fetch(REPO, None, hub, print)


@pytest.mark.parametrize("sha", ["../../../../tmp/x", "main", "", "A" * 40])
def test_a_commit_must_be_a_commit(sha: str, hub_state: HubState, hub: Hub) -> None:
    hub_state.commits[sha] = hub_state.commits[OLD]
    hub_state.branches["main"] = sha
    with pytest.raises(NetworkError):
        fetch(REPO, None, hub, print)
    assert hub_state.fetched() == []


JUNK = [
    b"", b"{", b"null", b"true", b"3", b'"x"', b"[]", b"{}", b"[[]]", b"[null]", b"[3]", b'["x"]', b"\xff\xfe",
    b"[" * 3000 + b"]" * 3000, b'{"sha": 3}', b'{"sha": null}', b'{"sha": ["a"]}',
    b'{"id": 3, "sha": "' + b"a" * 40 + b'"}', b'{"sha": "' + b"a" * 40 + b'", "siblings": 3}',
    *(b'[{"type": %b}]' % body for body in (
        b'"file"', b'"file", "path": 3, "size": "x"', b'"file", "path": "config.json", "size": "many", "oid": 3',
        b'"file", "path": "config.json", "size": -1, "oid": "a"', b'3, "path": ["config.json"], "size": 1, "oid": "a"',
        b'"file", "path": "../../1_Pooling/config.json", "size": 1, "oid": "a"',
        b'"file", "path": "config.json", "size": 1, "oid": "a", "lfs": 3',
    )),
]  # fmt: skip


@pytest.mark.parametrize("part", ["/api/models", "/tree/"])
@pytest.mark.parametrize("body", JUNK)
def test_junk_from_the_hub_is_an_error(part: str, body: bytes, hub_state: HubState, hub: Hub, tmp_path: Path) -> None:
    hub_state.junk[part] = body
    with pytest.raises((NetworkError, UsageError, InputError)):
        fetch(REPO, None, hub, print)
    assert not list(tmp_path.rglob("1_Pooling"))


GGUF = {"model-Q4_K_M.gguf", "big/model-Q8_0-00001-of-00002.gguf", "big/model-Q8_0-00002-of-00002.gguf"}


@pytest.mark.parametrize(
    ("file", "fetched"),
    [
        ("model-Q4_K_M.gguf", {"model-Q4_K_M.gguf"}),
        ("big/model-Q8_0-00002-of-00002.gguf", {name for name in GGUF if name.startswith("big")}),
    ],
)
def test_one_gguf_file_of_a_repository(file: str, fetched: set[str], hub_state: HubState, hub: Hub) -> None:
    hub_state.commits[OLD] = {name: b"GGUF" + name.encode() for name in GGUF}
    found = fetch(REPO, None, hub, print, file=file)
    assert found.read_bytes() == b"GGUF" + file.encode()
    assert set(hub_state.fetched()) == fetched
    assert fetch(REPO, None, replace(hub, offline=True), print, file=file) == found


def test_a_gguf_file_that_is_not_there(hub_state: HubState, hub: Hub) -> None:
    hub_state.commits[OLD] = {name: b"GGUF" for name in GGUF}
    with pytest.raises(UsageError, match=r"has no model-Q4_K\.gguf") as caught:
        fetch(REPO, None, hub, print, file="model-Q4_K.gguf")
    assert "model-Q4_K_M.gguf" in str(caught.value.hint)


def test_a_repository_of_several_gguf_files_is_refused_with_their_names(hub_state: HubState, hub: Hub) -> None:
    hub_state.commits[OLD] = {name: b"GGUF" for name in (*GGUF, "mmproj-F16.gguf", "README.md")}
    with pytest.raises(
        UsageError, match=r"2 models: big/model-Q8_0-00001-of-00002\.gguf, model-Q4_K_M\.gguf"
    ) as caught:
        fetch(REPO, "main", hub, print)
    assert str(caught.value.hint) == f"name one: hf://{REPO}@main:big/model-Q8_0-00001-of-00002.gguf"
    assert not [name for name in hub_state.fetched() if name.endswith(".gguf")]


@pytest.mark.parametrize("names", [{"a-Q8_0.gguf"}, {f"x/a-0000{n}-of-00003.gguf" for n in (1, 2, 3)}])
def test_a_repository_of_one_gguf_model_needs_no_name_of_it(names: set[str], hub_state: HubState, hub: Hub) -> None:
    hub_state.commits[OLD] = {name: name.encode() for name in (*names, "mmproj-F16.gguf", "config.json")}
    found = fetch(REPO, None, hub, print)
    assert str(found).endswith(f"/{OLD}/{min(names)}")
    assert {name for name in hub_state.fetched() if name.endswith(".gguf")} == names
    assert fetch(REPO, None, replace(hub, offline=True), print) == found
    assert glance(REPO, None, hub, print).path == found


def test_an_index_that_names_other_files(hub_state: HubState, hub: Hub) -> None:
    for name in ("../../../x.safetensors", "/etc/passwd", "missing.safetensors", "pytorch_model.bin"):
        files = repository(1) | {"model.safetensors.index.json": json.dumps({"weight_map": {"a": name}}).encode()}
        commit = hashlib.sha1(name.encode()).hexdigest()
        hub_state.commits[commit] = files
        with pytest.raises(InputError):
            fetch(REPO, commit, hub, print)
    assert not any(name in SHARDS or "passwd" in name for name in hub_state.fetched())


def test_a_repository_of_pickles(hub_state: HubState, hub: Hub) -> None:
    hub_state.commits[OLD] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(InputError, match="never loaded"):
        fetch(REPO, None, hub, print)
    assert hub_state.fetched() == ["config.json"]


def test_a_single_file_without_index(hub_state: HubState, hub: Hub) -> None:
    whole = save({"a.weight": np.ones((2, 3), np.float32)})
    hub_state.commits[OLD] = {"config.json": b"{}", "model.safetensors": whole, "model.fp16.safetensors": b"other"}
    folder = fetch(REPO, None, hub, print)
    assert files_in(folder) == {"config.json", "model.safetensors"}


def test_a_full_disk_is_noticed_before_the_download(hub_state: HubState, hub: Hub) -> None:
    """The listing claims a size that no disk has; nothing of it is requested."""

    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 62

    hub_state.commits[OLD] = repository(1) | {SHARDS[1]: Huge()}
    with pytest.raises(ResourceError, match=r"needs 4,611,686,018,42\d,\d{3},\d{3} bytes"):
        fetch(REPO, None, hub, print)
    assert not set(SHARDS) & set(hub_state.fetched())


def test_an_interrupted_download_ends_soon(hub_state: HubState, hub: Hub) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, TensorProgress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(REPO, None, hub, interrupt)
    assert open_folder(fetch(REPO, None, hub, print), print).tensors()


def test_when_one_file_fails_the_others_end(hub_state: HubState, hub: Hub) -> None:
    """The slow file would take two seconds; it ends with the first 10 MB that arrive after the failure."""
    large = save({"a.weight": np.zeros(5 << 20, np.float32)})
    hub_state.commits[OLD] = repository(1) | {SHARDS[0]: large}
    hub_state.slow = {SHARDS[0]}
    hub_state.fail[SHARDS[1]] = (403, "")
    with pytest.raises(NetworkError, match="answered 403"):
        fetch(REPO, None, hub, print)
    assert hub.cache is not None
    assert not list(hub.cache.rglob(SHARDS[0]))
    assert not list(hub.cache.rglob("*.incomplete"))


def run_apart(state: HubState, tmp_path: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {"HF_ENDPOINT": state.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, **env}
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )


OPEN = f"""
from quantkit.source import open_source
from quantkit.errors import QuantkitError
import sys
try:
    c = open_source(sys.argv[1] if len(sys.argv) > 1 else "hf://{REPO}@main", emit=print)
    print(c.kind, c.repo, c.commit, len(c.tensors()))
except QuantkitError as error:
    import traceback
    traceback.print_exc()
    print(type(error).__name__, error.message, error.hint)
"""


def test_the_environment_counts_and_the_token_is_never_shown(hub_state: HubState, tmp_path: Path) -> None:
    hub_state.token = TOKEN
    hub_state.cut = {SHARDS[0]}
    done = run_apart(hub_state, tmp_path, OPEN)
    assert f"hf {REPO} {OLD} 2" in done.stdout
    assert any(request.token for request in hub_state.requests)
    outputs = [done]
    hub_state.requests.clear()
    offline = run_apart(hub_state, tmp_path, OPEN, HF_HUB_OFFLINE="1")
    assert f"hf {REPO} {OLD} 2" in offline.stdout
    assert hub_state.requests == []
    for fault in ((401, ""), (403, "GatedRepo"), (500, "")):
        hub_state.fail = {"/api/": fault}
        outputs.append(run_apart(hub_state, tmp_path / "none", OPEN))
        assert "Error" in outputs[-1].stdout
    outputs.append(run_apart(hub_state, tmp_path / "none", OPEN, HF_ENDPOINT=f"http://user:{TOKEN}@127.0.0.1:9"))
    for output in [*outputs, offline]:
        assert TOKEN not in output.stdout + output.stderr
        assert "secret-signature" not in output.stdout + output.stderr
