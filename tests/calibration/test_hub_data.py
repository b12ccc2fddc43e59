"""Text of data sets on the Hub, from a stand-in: one file by name, with its commit, fetched once."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubState, new_cache, serve

from quantkit.calibration.text import data as data_module
from quantkit.calibration.text.data import load_texts, require_readable
from quantkit.errors import InputError, NetworkError, QuantkitError, UnsupportedError, UsageError
from quantkit.events import Event, StageStarted
from quantkit.source import dataset

REPO, COMMIT, NEWER = "org/texts", "a" * 40, "b" * 40
SPEC = f"hf://datasets/{REPO}"
LINES = b'{"text": "One."}\n{"text": "Two."}\n'


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    files = {"data/train.jsonl": LINES, "notes.txt": b"All of it.", "README.md": b"card", "dataset_infos.json": b"{}"}
    commits = {COMMIT: files, NEWER: {"only.jsonl": LINES}}
    with serve(HubState(REPO, commits, {"main": COMMIT, "v2": NEWER}, kind="datasets")) as found:
        monkeypatch.setattr("quantkit.source.hub_access.ENDPOINT", found.endpoint)
        monkeypatch.setattr("quantkit.source.hub_access.HF_HUB_CACHE", str(new_cache(tmp_path)))
        yield found


def test_a_file_by_its_name(state: HubState) -> None:
    events: list[Event] = []
    texts = load_texts(f"{SPEC}:data/train.jsonl", emit=events.append)
    assert texts.documents == ("One.", "Two.")
    assert texts.name == f"hf://datasets/{REPO}@{COMMIT}:data/train.jsonl"
    assert texts.sha256 == hashlib.sha256(LINES).hexdigest()
    assert [e.total_bytes for e in events if isinstance(e, StageStarted)] == [len(LINES)]
    assert state.sent == {"data/train.jsonl": len(LINES)}
    assert load_texts(f"{SPEC}@main:notes.txt").documents == ("All of it.",)
    state.requests.clear()
    state.sent.clear()
    load_texts(f"{SPEC}:data/train.jsonl")
    assert state.sent == {}
    state.requests.clear()
    assert load_texts(f"{SPEC}@{COMMIT}:data/train.jsonl", offline=True) == texts
    assert state.requests == []


def test_a_branch_that_moves_is_another_commit(state: HubState) -> None:
    first = load_texts(f"{SPEC}:data/train.jsonl")
    state.commits[NEWER] = {"data/train.jsonl": LINES + b'{"text": "Three."}\n'}
    state.branches["main"] = NEWER
    second = load_texts(f"{SPEC}:data/train.jsonl")
    assert (first.name[-61:-21], second.name[-61:-21]) != (second.name, first.name)
    assert NEWER in second.name
    assert second.documents[-1] == "Three."


def test_the_only_file_needs_no_name(state: HubState) -> None:
    assert load_texts(f"{SPEC}@v2").name == f"hf://datasets/{REPO}@{NEWER}:only.jsonl"
    with pytest.raises(UsageError, match=r"holds 2 files of text: data/train\.jsonl, notes\.txt") as caught:
        load_texts(SPEC)
    assert caught.value.hint == f"name one: {SPEC}:data/train.jsonl"
    state.commits[NEWER] = {"README.md": b"x", "image.png": b"x"}
    with pytest.raises(UsageError, match="holds no file of text"):
        load_texts(f"{SPEC}@v2")


def test_parquet(state: HubState) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    body = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["One.", "Two."]}), body)
    state.commits[COMMIT]["t.parquet"] = body.getvalue()
    assert load_texts(f"{SPEC}:t.parquet").documents == ("One.", "Two.")


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (f"{SPEC}:data/trian.jsonl", UsageError, r"has no data/trian\.jsonl"),
        (f"{SPEC}@v9:notes.txt", UsageError, "no revision v9"),
        ("hf://datasets/org/other:notes.txt", UsageError, "has no datasets/org/other"),
        (f"{SPEC}:../x.txt", UsageError, "does not name"),
        (f"{SPEC}:/x.txt", UsageError, "does not name"),
        (f"{SPEC}@a b:x.txt", UsageError, "does not name"),
    ],
)
def test_names_that_lead_nowhere(spec: str, kind: type[QuantkitError], words: str, state: HubState) -> None:
    with pytest.raises(kind, match=words) as caught:
        load_texts(spec)
    assert caught.value.hint
    assert state.sent == {}


def test_a_file_that_is_too_large_is_not_fetched(state: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="has 34 bytes, at most 10 are read"):
        load_texts(f"{SPEC}:data/train.jsonl")
    assert state.sent == {}


def test_offline_says_what_is_missing(state: HubState) -> None:
    load_texts(f"{SPEC}:notes.txt")
    with pytest.raises(NetworkError, match="not complete in the cache"):
        load_texts(f"{SPEC}:data/train.jsonl", offline=True)
    with pytest.raises(NetworkError, match="nobody knows"):
        load_texts(SPEC, offline=True)


@pytest.mark.parametrize("junk", [b"{", b"[]", b'{"sha": 3}', b'[{"type": "file", "path": 3, "size": 1, "oid": "a"}]'])
@pytest.mark.parametrize("part", ["/api/datasets", "/tree/"])
def test_junk_from_the_hub_is_an_error(part: str, junk: bytes, state: HubState) -> None:
    state.junk[part] = junk
    with pytest.raises((NetworkError, UsageError)):
        load_texts(f"{SPEC}:data/train.jsonl")


def test_rows_of_a_split_are_of_one_commit(state: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package datasets is asked for, and what the record says."""
    asked = []

    def load_dataset(*arguments: object, **options: object) -> list[dict[str, str]]:
        asked.append((arguments, options))
        return [{"text": "One."}, {"text": "Two."}]

    package = SimpleNamespace(load_dataset=load_dataset, __spec__=SimpleNamespace(), __name__="datasets")
    monkeypatch.setitem(sys.modules, "datasets", package)  # type: ignore[arg-type]
    texts = load_texts(f"hf://{REPO}/small@main:test")
    assert texts.documents == ("One.", "Two.")
    assert asked == [((REPO, "small"), {"split": "test", "revision": COMMIT, "streaming": True})]
    assert texts.name == f"hf://{REPO}/small@{COMMIT}:test"
    assert load_texts(SPEC).name == f"hf://{REPO}@{COMMIT}:train"  # several files: the split


def test_what_needs_which_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    require_readable([f"{SPEC}:a.jsonl", SPEC, "a.jsonl"])
    for spec in (f"{SPEC}:train", f"hf://{REPO}", f"{SPEC}/config"):
        with pytest.raises(UnsupportedError, match="needs datasets"):
            require_readable([spec])
    assert dataset.DATASET == "dataset"
