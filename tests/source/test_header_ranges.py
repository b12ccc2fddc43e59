"""Headers of a repository's weights read by HTTP ranges: how many bytes, from whom, and what a server may not do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf_bytes import ARRAY, STRING, Parts, array, entry, info, string
from hub_server import HubState, new_cache, serve
from safetensors.numpy import save

from quantkit.errors import InputError, NetworkError, QuantkitError
from quantkit.events import Event, StageFinished, StageStarted, Warned
from quantkit.source import ranges
from quantkit.source.folder import FolderCheckpoint, open_folder
from quantkit.source.gguf import open_gguf
from quantkit.source.glance import glance
from quantkit.source.hub import Hub, fetch

REPO = "some-org/Model-1B"
COMMIT = "a" * 40
TOKEN = "hf_CanaryCanaryCanaryCanary"
COUNT = 6
SHARDS = tuple(f"model-{number + 1:05d}-of-{COUNT:05d}.safetensors" for number in range(COUNT))


def repository(rows: int = 400) -> dict[str, bytes]:
    """Shards of 800 kB and more, of which the last has a header larger than what the first request asks for."""
    many = {f"extra.{number}.weight": np.zeros((1, 2), np.float32) for number in range(900)}
    weights = {
        name: {f"w{number}.weight": np.full((rows, 500), number, np.float32), **(many if number == COUNT - 1 else {})}
        for number, name in enumerate(SHARDS)
    }
    weight_map = {tensor: name for name, tensors in weights.items() for tensor in tensors}
    return {
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"]}).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        **{name: save(tensors) for name, tensors in weights.items()},
    }


@pytest.fixture
def state() -> Iterator[HubState]:
    with serve(HubState(REPO, {COMMIT: repository()}, {"main": COMMIT}, large=frozenset(SHARDS))) as found:
        yield found


@pytest.fixture
def hub(state: HubState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(ranges, "WAIT_S", 0.01)
    return Hub(endpoint=state.endpoint, cache=new_cache(tmp_path))


def header_bytes(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def opened(hub: Hub, events: list[Event] | None = None) -> FolderCheckpoint:
    emit = (events if events is not None else []).append
    found = glance(REPO, None, hub, emit)
    return open_folder(found.path, emit, distant=found.distant)


def test_only_headers_and_small_files_arrive(state: HubState, hub: Hub) -> None:
    events: list[Event] = []
    seen = opened(hub, events)
    files = state.commits[COMMIT]
    headers = [header_bytes(files[name]) for name in SHARDS]
    assert max(headers) > ranges.FIRST_BYTES > min(headers)
    for name, header in zip(SHARDS, headers, strict=True):
        assert state.sent[name] == max(header, ranges.FIRST_BYTES)
        assert name not in [path.name for path in Path(hub.cache or "").rglob("*")]
    small = {name for name in files if name not in SHARDS}
    assert {name: state.sent[name] for name in small} == {name: len(files[name]) for name in small}
    assert sum(state.sent.values()) < 0.15 * sum(map(len, files.values()))
    asked = [r for r in state.requests if r.path.endswith(".safetensors") and r.content_network]
    assert len(asked) == COUNT + 1  # one each, and the rest of the long header
    [finished] = [e for e in events if isinstance(e, StageFinished)]
    assert finished.stage == "headers"
    whole = fetch(REPO, None, hub, print)
    assert {n: i.shape for n, i in seen.tensors().items()} == {
        n: i.shape for n, i in open_folder(whole, print).tensors().items()
    }
    assert (seen.repo, seen.commit, seen.name) == (REPO, COMMIT, "Model-1B")


def test_weights_come_when_they_are_read(state: HubState, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little by ranges, more by fetching the files, all at once and once."""
    monkeypatch.setattr(ranges, "LOOSE_BYTES", 4000)
    events: list[Event] = []
    seen = opened(hub, events)
    for shard in seen.shards.values():
        shard.settle()
    assert seen.ref("w1.weight").read(398, 400).tolist() == [[1.0] * 500] * 2
    assert not [e for e in events if isinstance(e, StageStarted) and e.stage == "download"]
    for number in (3, 2):
        assert seen.ref(f"w{number}.weight").read(0, 400).tolist() == [[float(number)] * 500] * 400
    assert [e.stage for e in events if isinstance(e, StageStarted)].count("download") == 1
    assert sorted(p.name for p in (hub.cache or Path()).rglob("*.safetensors")) == sorted(SHARDS)


def test_what_is_cached_is_used(state: HubState, hub: Hub) -> None:
    folder = fetch(REPO, None, hub, print)
    state.sent.clear()
    assert opened(hub).shards[SHARDS[0]].is_distant is False
    (folder / SHARDS[3]).unlink()
    assert [n for n, f in opened(hub).shards.items() if f.is_distant] == [SHARDS[3]]
    assert set(state.sent) == {SHARDS[3]}
    with pytest.raises(NetworkError, match=rf"1 of {COUNT} files are missing: {SHARDS[3]}") as caught:
        opened(replace(hub, offline=True))
    assert caught.value.hint == "run once without --offline"


def test_the_token_goes_to_the_hub_only(state: HubState, hub: Hub) -> None:
    state.token = TOKEN
    opened(replace(hub, token=TOKEN))
    assert any(r.content_network for r in state.requests)
    for request in state.requests:
        assert request.token == (None if request.content_network else f"Bearer {TOKEN}")


@pytest.mark.parametrize("through", ["", "back"])
def test_the_token_does_not_follow_redirects(through: str, state: HubState, hub: Hub, tmp_path: Path) -> None:
    """To another Hub, and from there back to the first one."""
    with serve(HubState(REPO, state.commits, {"main": COMMIT}, large=frozenset(SHARDS))) as other:
        other.elsewhere = f"{state.endpoint}/nowhere" if through else ""
        state.token = TOKEN
        state.elsewhere = f"{other.endpoint}/{REPO}/resolve/{COMMIT}/{SHARDS[0]}"
        with pytest.raises(QuantkitError) as caught:
            opened(replace(hub, token=TOKEN))
        assert TOKEN not in f"{caught.value} {caught.value.hint}"
        assert other.requests
        assert not [r for r in other.requests if r.token]
        assert not [r for r in state.requests if r.path == "/nowhere" and r.token]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("ignored", "sends everything instead of a range"),
        ("shifted", "it answers bytes 1-"),
        ("sized", "it answers bytes 0-"),
        ("short", "65,535 of 65,536 bytes arrived"),
        ("long", "more arrives"),
        ("packed", "compressed"),
        ("tagged", "changed between two ranges"),
        ("committed", "answers with commit ccc"),
        ("linked", "the Hub says"),
    ],
)
def test_a_server_that_lies(wrong: str, words: str, state: HubState, hub: Hub) -> None:
    state.wrong = wrong
    with pytest.raises(NetworkError, match=words) as caught:
        opened(hub)
    assert caught.value.hint
    assert caught.value.__suppress_context__


def test_a_server_that_sends_everything_is_cut_off(state: HubState, hub: Hub) -> None:
    """It would send 200 MB in 20 seconds; what the line has taken before it is closed is all that arrives."""
    state.commits[COMMIT] = {"config.json": b"{}", "model.safetensors": repository()[SHARDS[0]] + bytes(200 << 20)}
    state.wrong, state.slow = "ignored", {"model.safetensors"}
    with pytest.raises(NetworkError, match="sends everything"):
        opened(hub)
    deadline = time.monotonic() + 60
    while "model.safetensors" not in state.hung_up and time.monotonic() < deadline:
        time.sleep(0.05)  # the server hears of it when it sends more
    assert state.hung_up == ["model.safetensors"]
    assert 0 < state.sent["model.safetensors"] < 50 << 20


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1", "http://127.0.0.1:x/"])
def test_a_redirect_to_no_web_address(location: str, state: HubState, hub: Hub) -> None:
    state.elsewhere = location
    with pytest.raises(NetworkError):
        opened(hub)


def test_redirects_in_a_circle(state: HubState, hub: Hub) -> None:
    state.elsewhere = f"{state.endpoint}/{REPO}/resolve/{COMMIT}/{SHARDS[0]}"
    with pytest.raises(NetworkError, match="redirects"):
        opened(hub)


def test_a_busy_hub_is_asked_again(state: HubState, hub: Hub) -> None:
    state.busy = [(503, {}), (429, {"Retry-After": "0"})]
    events: list[Event] = []
    opened(hub, events)
    said = [e.message for e in events if isinstance(e, Warned)]
    assert len(said) == 2
    assert all("again in" in one for one in said)


def test_a_hub_that_wants_hours_is_not_waited_for(state: HubState, hub: Hub) -> None:
    state.busy = [(429, {"Retry-After": "7200"})] * 20
    with pytest.raises(NetworkError, match="429"):
        opened(hub)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500])
def test_statuses_become_errors(status: int, state: HubState, hub: Hub) -> None:
    state.fail[SHARDS[2]] = (status, "")
    with pytest.raises(NetworkError, match=str(status)) as caught:
        opened(hub)
    assert caught.value.hint


def test_hostile_headers_are_refused_as_those_of_files(state: HubState, hub: Hub) -> None:
    files = state.commits[COMMIT]
    for body in (
        b"", b"\xff" * 8 + b"{}", (1 << 40).to_bytes(8, "little") + b"{", b"<!doctype html>" + bytes(600),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    ):  # fmt: skip
        files[SHARDS[1]] = body
        with pytest.raises(InputError):
            opened(hub)


@pytest.mark.parametrize("tokens", [10, 40_000])
def test_gguf_headers_by_growing_ranges(tokens: int, state: HubState, hub: Hub) -> None:
    """Never more than twice what the header has, or the first request."""
    names = array(STRING, [string(f"token-{number}".encode()) for number in range(tokens)])
    entries = [entry(b"general.architecture", STRING, string(b"llama")), entry(b"tokenizer.ggml.tokens", ARRAY, names)]
    data = Parts(
        entries=entries, infos=[info(b"blk.0.ffn_up.weight", [4096, 512])], data=bytes(4096 * 512 * 4)
    ).encode()
    state.commits[COMMIT] = {"model-Q8_0.gguf": data}
    state.large = frozenset({"model-Q8_0.gguf"})
    found = glance(REPO, None, hub, print, file="model-Q8_0.gguf")
    seen = open_gguf(found.path, found.distant)
    assert seen.tensors()["blk.0.ffn_up.weight"].shape == (512, 4096)
    header = len(data) - 512 * 4096 * 4
    assert state.sent["model-Q8_0.gguf"] <= max(2 * header, ranges.FIRST_BYTES)
    assert not list((hub.cache or Path()).rglob("*.gguf"))
