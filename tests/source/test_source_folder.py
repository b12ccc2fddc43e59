"""Checkpoint folders as sources: what is read, which files a checkpoint may name, and what is refused."""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import struct
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import mutants
from safetensors.numpy import save
from safetensors.torch import save_file

from quantkit.errors import InputError, NetworkError, QuantkitError, ResourceError, UnsupportedError, UsageError
from quantkit.events import Event, Warned
from quantkit.source import open_source
from quantkit.source.folder import MAX_CONFIG_BYTES, open_folder
from quantkit.source.memory import MemoryCheckpoint
from quantkit.source.spec import parse_hub

MODEL = Path(__file__).parents[1] / "data" / "docs-llama-tiny"
INDEX = "model.safetensors.index.json"


def whole(**tensors: Any) -> bytes:
    return save({name: np.asarray(values, np.float32) for name, values in tensors.items()})


def folder(path: Path, **files: bytes | dict[str, Any]) -> Path:
    """A checkpoint folder; names are given with _ for . and content as bytes or JSON. config.json is there already."""
    return write(path, {"config.json": {}} | files)  # type: ignore[arg-type]


def write(path: Path, files: dict[str, bytes | dict[str, Any]]) -> Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def sharded(path: Path) -> Path:
    """Two shards and an index: a, b in the first, c in the second."""
    weight_map = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    return write(
        path,
        {
            "config.json": {"architectures": ["LlamaForCausalLM"]},
            INDEX: {"metadata": {}, "weight_map": weight_map},
            "model-1.safetensors": whole(a=[[1, 2], [3, 4]], b=[5]),
            "model-2.safetensors": whole(c=[[6]]),
        },
    )


def refused(path: Path, match: str, kind: type[QuantkitError] = InputError) -> QuantkitError:
    with pytest.raises(kind, match=match) as caught:
        open_source(str(path))
    assert caught.value.hint
    assert caught.value.message.isprintable()
    return caught.value


def test_reads_the_bundled_model_as_torch_does() -> None:
    from safetensors.torch import load_file

    checkpoint = open_source(str(MODEL))
    expected = load_file(MODEL / "model.safetensors")
    assert (checkpoint.kind, checkpoint.name, checkpoint.repo) == ("hf", "docs-llama-tiny", None)
    assert set(checkpoint.tensors()) == set(expected)
    for name, info in checkpoint.tensors().items():
        assert info.shape == tuple(expected[name].shape)
        values = checkpoint.ref(name).read(0, info.rows)
        assert values.dtype == np.float32
        assert np.array_equal(values.reshape(info.shape), expected[name].float().numpy())
    assert checkpoint.config["architectures"] == ["LlamaForCausalLM"]
    assert checkpoint.read_file("tokenizer.model") == (MODEL / "tokenizer.model").read_bytes()
    names = [(file.name, file.weights) for file in checkpoint.files()]
    assert names[0] == ("model.safetensors", True)
    assert ("tokenizer.json", False) in names
    checkpoint.unchanged()
    checkpoint.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_bit_pattern_is_decoded_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    if dtype is torch.float32:
        patterns = torch.stack([patterns, patterns.flip(0)], 1).reshape(256, 512)
    values = patterns.view(dtype).reshape(256, 256)
    write(tmp_path, {"config.json": {}})
    save_file({"w": values}, tmp_path / "model.safetensors")
    read = open_source(str(tmp_path)).ref("w").read(0, 256)
    expected = values.float().numpy()
    finite = ~np.isnan(expected)
    assert np.array_equal(read.view(np.uint32)[finite], expected.view(np.uint32)[finite])
    assert np.isnan(read[~finite]).all()


@pytest.mark.parametrize(("shape", "rows", "cols"), [((5,), 5, 1), ((2, 3, 4), 6, 4), ((1, 7), 1, 7), ((), 1, 1)])
def test_rows_and_columns(shape: tuple[int, ...], rows: int, cols: int, tmp_path: Path) -> None:
    values = np.arange(rows * cols, dtype=np.float32).reshape(shape)
    checkpoint = open_source(str(folder(tmp_path, **{"model.safetensors": save({"t": values})})))
    memory = MemoryCheckpoint({}, {"t": values})
    assert checkpoint.tensors() == memory.tensors()
    for ref in (checkpoint.ref("t"), memory.ref("t")):
        assert (ref.info.rows, ref.info.cols) == (rows, cols)
        assert np.array_equal(ref.read(0, rows), values.reshape(rows, cols))
        assert np.array_equal(ref.read(rows - 1, rows), values.reshape(rows, cols)[-1:])
        assert ref.read(0, 0).shape == (0, cols)
        assert ref.read_packed(0, rows).tobytes() == values.tobytes()


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5), st.sampled_from(["F32", "F16", "BF16"]))
def test_slabs_are_pieces_of_the_whole(tmp_path_factory: pytest.TempPathFactory, cuts: list[int], dtype: str) -> None:
    values = np.random.default_rng(3).standard_normal((40, 6), dtype=np.float32)
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    path = write(tmp_path_factory.mktemp("s"), {"config.json": {}})
    save_file({"w": torch.from_numpy(values).to(kinds[dtype])}, path / "model.safetensors")
    ref = open_source(str(path)).ref("w")
    edges = [0, *sorted(cuts), 40]
    slabs = [ref.read(start, stop) for start, stop in pairwise(edges)]
    assert np.array_equal(np.concatenate(slabs), ref.read(0, 40))


def test_memory_and_folder_agree_on_bf16(tmp_path: Path) -> None:
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file({"w": values}, folder(tmp_path) / "model.safetensors")
    stored, memory = open_source(str(tmp_path)), MemoryCheckpoint({}, {"w": values.float().numpy()}, bf16={"w"})
    assert stored.tensors() == memory.tensors()
    assert stored.ref("w").read_packed(1, 3).tobytes() == memory.ref("w").read_packed(1, 3).tobytes()
    with pytest.raises(AssertionError, match="not exact"):
        MemoryCheckpoint({}, {"w": np.full((1, 1), 0.1, np.float32)}, bf16={"w"}).tensors()


def test_shards_and_index(tmp_path: Path) -> None:
    checkpoint = open_source(str(sharded(tmp_path)))
    assert list(checkpoint.tensors()) == ["a", "b", "c"]
    assert checkpoint.ref("a").read(1, 2).tolist() == [[3, 4]]
    assert checkpoint.ref("c").read(0, 1).tolist() == [[6]]
    assert [f.name for f in checkpoint.files()] == ["model-1.safetensors", "model-2.safetensors", "config.json", INDEX]


def test_headers_are_listed_once(tmp_path: Path) -> None:
    """They are asked for by tensor after tensor, and a checkpoint may have 100,000 of them."""
    checkpoint = open_folder(sharded(tmp_path), lambda event: None)
    assert list(checkpoint.tensors()) == ["a", "b", "c"]
    assert checkpoint.tensors() is checkpoint.tensors()
    checkpoint.close()


def test_shards_without_index(tmp_path: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    path = folder(tmp_path, **{first: whole(a=[1]), second: whole(b=[2]), "other.safetensors": whole(c=[3])})
    assert list(open_source(str(path)).tensors()) == ["a", "b"]
    (path / second).unlink()
    refused(path, r"1 of 2 shards are missing: model-00002-of-00002\.safetensors")


SHARD_NAMES = [
    "../x.safetensors", "../../etc/x.safetensors", "/etc/passwd", "/tmp/x.safetensors", "..\\x.safetensors",
    "a/b.safetensors", "./model.safetensors", "model.safetensors/", "C:\\x.safetensors", "\\\\host\\x.safetensors",
    "%2e%2e%2fx.safetensors", "x\u2215y.safetensors", "x\uff0fy.safetensors", "x.safetensors\0", "\0", "", " ", ".",
    "..", "model.bin", "model.safetensors.bin", "model.SAFETENSORS", "~/x.safetensors", "$HOME.safetensors",
    "-x .safetensors", "x\n.safetensors", "x\x1b[31m.safetensors", "x\u202e.safetensors", "n" * 201 + ".safetensors", "file:///x.safetensors",
    "hf://a/b.safetensors", "|x.safetensors", "*.safetensors", "x?.safetensors", "model..safetensors/../x.safetensors",
    "größe.safetensors", None, 1, ["x.safetensors"], {"x": 1}, True,
]  # fmt: skip


@pytest.mark.parametrize("name", SHARD_NAMES, ids=repr)
def test_shard_names_stay_inside(name: object, tmp_path: Path) -> None:
    path = folder(tmp_path / "c", **{INDEX: {"weight_map": {"a": name}}, "model.safetensors": whole(a=[1])})
    (tmp_path / "x.safetensors").write_bytes(whole(a=[1]))
    refused(path, "is not the name of a safetensors file")


INDEXES: dict[str, tuple[Any, str]] = {
    "not an object": ([], "expected a JSON object"),
    "no weight map": ({}, "weight_map"),
    "empty weight map": ({"weight_map": {}}, "weight_map"),
    "list": ({"weight_map": []}, "weight_map"),
    "missing shard": ({"weight_map": {"a": "model-3.safetensors"}}, r"1 of 1 shard is missing: model-3"),
    "missing tensor": (
        {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors", "z": "model-1.safetensors"}},
        "names tensors that no shard holds: z",
    ),
    "extra tensor": ({"weight_map": {"a": "model-1.safetensors"}}, "lacks tensors that its shards hold: b"),
    "wrong shard": (
        {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"}},
        "names tensors that no shard holds: c",
    ),
    "swapped shards": (
        {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}},
        "names the wrong shard for tensors: a",
    ),
}


@pytest.mark.parametrize("name", INDEXES)
def test_index_and_shards_must_agree(name: str, tmp_path: Path) -> None:
    index, message = INDEXES[name]
    path = sharded(tmp_path)
    (path / INDEX).write_text(json.dumps(index))
    refused(path, message)


def test_a_tensor_may_be_named_once(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    (path / INDEX).write_text('{"weight_map": {"a": "model-1.safetensors", "a": "model-2.safetensors"}}')
    refused(path, "duplicate names: a")
    (path / INDEX).unlink()
    (path / "model-2.safetensors").write_bytes(whole(a=[1]))
    error = refused(path, 'tensor "a" is in model-1.safetensors and in model-2.safetensors')
    assert error.tensor == "a"


def test_experts_that_are_cut_into_several_files_are_refused(tmp_path: Path) -> None:
    name = "model.layers.0.block_sparse_moe.experts.3.w1.weight"
    (tmp_path / "config.json").write_text("{}")
    for part in ("model-1", "model-2"):
        (tmp_path / f"{part}.safetensors").write_bytes(whole(**{name: [1]}))
    with pytest.raises(UnsupportedError, match="experts that are cut for several devices are not read") as caught:
        open_source(str(tmp_path))
    assert caught.value.tensor == name


def test_a_single_file_beside_an_index_of_others(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    (path / "model.safetensors").write_bytes(whole(a=[1]))
    refused(path, "which is the model")


@pytest.mark.parametrize(("count", "message"), [(1000, "shards are missing"), (1001, "1,001 shards")])
def test_checkpoints_have_at_most_a_thousand_shards(count: int, message: str, tmp_path: Path) -> None:
    part = f"model-00001-of-{count:05d}.safetensors"
    refused(folder(tmp_path / "parts", **{part: whole(a=[1])}), message)
    weight_map = {f"t{i}": f"model-{i}.safetensors" for i in range(count)}
    refused(folder(tmp_path / "index", **{INDEX: {"weight_map": weight_map}}), message)


@pytest.mark.parametrize(
    "path", ["models--a--b/snapshots/main", "models--a--b/other/" + "c" * 40, "x/snapshots/" + "c" * 40]
)
def test_only_a_snapshot_of_the_hub_cache_has_a_commit(path: str, tmp_path: Path) -> None:
    checkpoint = open_source(str(sharded(tmp_path / path)))
    assert (checkpoint.name, checkpoint.repo, checkpoint.commit) == (Path(path).name, None, None)


def test_links_inside_the_folder(tmp_path: Path) -> None:
    path = sharded(tmp_path / "c")
    (path / "model-1.safetensors").rename(path / "blob")
    (path / "model-1.safetensors").symlink_to("blob")
    (tmp_path / "link").symlink_to(path)
    checkpoint = open_source(str(tmp_path / "link"))
    assert (checkpoint.name, list(checkpoint.tensors())) == ("link", ["a", "b", "c"])


LINKED = ["model-1.safetensors", "config.json", INDEX, "tokenizer.json", "README.md"]


def linked_out(path: Path, name: str) -> Path:
    """The file `name` of a folder lies beside that folder, and a link leads there."""
    outside = path.parent / "outside"
    if (path / name).exists():
        (path / name).rename(outside)
    else:
        outside.write_text("{}")
    (path / name).symlink_to("../outside")
    return outside


@pytest.mark.parametrize("name", LINKED)
def test_links_that_the_user_made_are_followed_with_a_warning(name: str, tmp_path: Path) -> None:
    path = sharded(tmp_path / "c")
    outside = linked_out(path, name)
    events: list[Event] = []
    checkpoint = open_source(str(path), emit=events.append)
    assert list(checkpoint.tensors()) == ["a", "b", "c"]
    assert [(e.code, f"{name} -> {outside}" in e.message) for e in events if isinstance(e, Warned)] == [("links", True)]
    checkpoint.unchanged()
    outside.write_bytes(outside.read_bytes() + b" ")
    with pytest.raises(InputError, match="changed"):
        checkpoint.unchanged()


@pytest.mark.parametrize("name", LINKED)
def test_links_to_files_of_others_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sharded(tmp_path / "c")
    linked_out(path, name)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refused(path, "is a link to .*outside, which belongs to another user")


def test_links_of_a_carried_file_are_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sharded(tmp_path / "c")
    linked_out(path, "LICENSE")
    checkpoint = open_source(str(path))
    assert checkpoint.read_file("LICENSE") == b"{}"
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(InputError, match="belongs to another user"):
        checkpoint.read_file("LICENSE")


@pytest.mark.parametrize("shared", [False, True])
def test_links_of_a_local_folder_to_blobs_of_a_hub_cache(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What huggingface_hub made for years of `local_dir`; the cache may belong to someone else."""
    snapshot = hub_cache(tmp_path / "cache", shared)
    path = tmp_path / "local"
    path.mkdir()
    for file in snapshot.iterdir():
        (path / file.name).symlink_to(os.path.realpath(file))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    events: list[Event] = []
    assert open_source(str(path), emit=events.append).ref("c").read(0, 1).tolist() == [[6]]
    assert events == []


@pytest.mark.parametrize("name", LINKED)
def test_links_out_of_a_download_are_refused(name: str, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot / name).unlink(missing_ok=True)
    (tmp_path / "secret").write_text("{}")
    (snapshot / name).symlink_to(tmp_path / "secret")
    refused(snapshot, "is a link to .*secret, outside the checkpoint")


@pytest.mark.parametrize("name", ["additional_chat_templates", "1_Pooling"])
def test_a_download_has_no_links_to_folders_elsewhere(name: str, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    write(tmp_path / "outside", {"a.jinja": b"template", "config.json": b"{}", "private.txt": b""})
    (snapshot / name).symlink_to(tmp_path / "outside")
    events: list[Event] = []
    refused(snapshot, "is a link to .*outside, outside the checkpoint")
    with pytest.raises(InputError):
        open_source(str(snapshot), emit=events.append)
    assert "private.txt" not in str(events)


def test_template_folder_that_is_a_link(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"a.jinja": b"template"})
    path = sharded(tmp_path / "c")
    (path / "additional_chat_templates").symlink_to("../outside")
    events: list[Event] = []
    assert "additional_chat_templates/a.jinja" in open_source(str(path), emit=events.append).file_names()
    assert str(outside) in str(events)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    for target, message in (("model-1.safetensors", "is missing"), ("nothing", "is missing"),
                            ("/dev/zero", "not a regular file"), ("/", "is a folder")):  # fmt: skip
        (path / "model-1.safetensors").unlink()
        (path / "model-1.safetensors").symlink_to(target)
        refused(path, message)


def test_things_that_are_not_files(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    (path / "model-1.safetensors").unlink()
    os.mkfifo(path / "model-1.safetensors")
    refused(path, "not a regular file")
    (path / "model-1.safetensors").unlink()
    (path / "model-1.safetensors").mkdir()
    refused(path, "is a folder")


def hub_cache(tmp_path: Path, shared: bool = False) -> Path:
    """The layout of the Hub cache: snapshots link to blobs, which may link to a store shared by repositories."""
    repo = tmp_path / "models--some-org--Model-1B"
    snapshot = sharded(repo / "snapshots" / ("c" * 40))
    (repo / "blobs").mkdir()
    for number, name in enumerate(sorted(p.name for p in snapshot.iterdir())):
        blob = repo / "blobs" / f"{number:x}".rjust(64 if name.startswith("model-") else 40, "f")
        (snapshot / name).rename(blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
        if shared and name.startswith("model-"):
            store = tmp_path / "blobs" / "ab" / f"{number:x}".rjust(64, "b").replace("bb", "ab", 1)
            store.parent.mkdir(parents=True, exist_ok=True)
            blob.rename(store)
            blob.symlink_to(f"../../blobs/ab/{store.name}")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_links_of_the_hub_cache(shared: bool, tmp_path: Path) -> None:
    checkpoint = open_source(str(hub_cache(tmp_path, shared)))
    assert (checkpoint.name, checkpoint.repo, checkpoint.commit) == ("Model-1B", "some-org/Model-1B", "c" * 40)
    assert checkpoint.ref("c").read(0, 1).tolist() == [[6]]
    hashes = {file.name: file.sha256 for file in checkpoint.files()}
    assert hashes["config.json"] is None
    assert len(hashes["model-1.safetensors"] or "") == 64


def test_links_from_one_cached_repository_to_another(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    other = tmp_path / "models--other--secret" / "blobs" / ("e" * 64)
    other.parent.mkdir(parents=True)
    other.write_bytes(whole(c=[[1]]))
    (snapshot / "model-2.safetensors").unlink()
    (snapshot / "model-2.safetensors").symlink_to(other)
    refused(snapshot, "outside the checkpoint")


WEIGHTLESS: dict[str, tuple[dict[str, bytes], type[QuantkitError], str]] = {
    "pickle": ({"pytorch_model.bin": b""}, InputError, r"only as pickles \(pytorch_model.bin\).*never loaded"),
    "sharded pickle": ({"pytorch_model-00001-of-00002.bin": b""}, InputError, "never loaded"),
    "pt": ({"model.pt": b""}, InputError, "never loaded"),
    "ckpt": ({"model.ckpt": b""}, InputError, "never loaded"),
    "pth": ({"consolidated.00.pth": b""}, InputError, "never loaded"),
    "mistral": ({"consolidated.safetensors": b""}, UnsupportedError, "Mistral's own layout"),
    "adapter": ({"adapter_model.safetensors": b""}, InputError, "a LoRA adapter"),
    "gguf": ({"x.gguf": b""}, InputError, "holds GGUF files"),
    "trainer": ({"training_args.bin": b""}, InputError, "has no model.safetensors"),
    "nothing": ({}, InputError, "has no model.safetensors"),
    "tensorflow": ({"tf_model.h5": b""}, InputError, "has no model.safetensors"),
}


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_folders_without_weights(name: str, tmp_path: Path) -> None:
    files, kind, message = WEIGHTLESS[name]
    refused(folder(tmp_path, **files), message, kind)


CONFIGS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "not json": (b"{", "not valid JSON"),
    "list": (b"[]", "expected a JSON object"),
    "not utf-8": (b'{"a": "\xff"}', "not UTF-8"),
    "nested": (b'{"a":' + b"[" * 100_000, "nested too deeply"),
    "many values": (b'{"a": [' + b"[]," * (1 << 20) + b"[]]}", "JSON values"),
    "large": (b" " * (MAX_CONFIG_BYTES + 1), "at most"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_configurations(name: str, tmp_path: Path) -> None:
    raw, message = CONFIGS[name]
    error = refused(write(tmp_path, {"config.json": raw, "model.safetensors": whole(a=[1])}), message)
    assert str(error.path).endswith("config.json")


def test_numbers_that_nobody_uses_may_be_long(tmp_path: Path) -> None:
    raw = b'{"a": [%s, 1e400, -0], "max_length": 1000000000000000019884624838656}' % (b"1" * 5000)
    config = open_source(str(write(tmp_path, {"config.json": raw, "model.safetensors": whole(a=[1])}))).config
    assert config == {"a": [math.inf, math.inf, 0], "max_length": int(1e30)}


def test_missing_configuration(tmp_path: Path) -> None:
    refused(write(tmp_path, {"model.safetensors": whole(a=[1])}), "has no config.json")


def header(raw: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (struct.pack("<Q", 1 << 60) + b"{}", "claims a header of 1,152,921,504,606,846,976 bytes"),
        (whole(a=[1, 2])[:-1], "ends at byte"),
        (header(b'{"a\\u001b[2J":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), r"a\\x1b\[2J"),
        (header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,1]}}', b"x"), "unknown dtype"),
        (whole(a=np.zeros((0, 4))), r'zero-size tensor "a" of shape \(0, 4\)'),
        (header(b"{}"), "holds no tensors"),
        (b"", "too few"),
    ],
    ids=["2^60 header", "truncated", "control characters", "dtype", "zero-size", "no tensors", "empty"],
)
def test_bad_weights(raw: bytes, message: str, tmp_path: Path) -> None:
    refused(folder(tmp_path, **{"model.safetensors": raw}), message)


@pytest.mark.parametrize(
    ("values", "config", "hint"),
    [
        (torch.zeros(2, 2, dtype=torch.float64), {}, "save the checkpoint in bfloat16"),
        (torch.zeros(2, 2, dtype=torch.int16), {}, "save the checkpoint in bfloat16"),
        (torch.zeros(2, 2).to(torch.float8_e4m3fn), {}, "BF16, F16 or F32"),
        (
            torch.zeros(2, 2, dtype=torch.uint8),
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "already quantized (gptq)",
        ),
    ],
)
def test_dtypes_without_decoder(values: torch.Tensor, config: dict[str, Any], hint: str, tmp_path: Path) -> None:
    save_file({"w": values, "ok": torch.ones(2)}, folder(tmp_path, **{"config.json": config}) / "model.safetensors")
    checkpoint = open_source(str(tmp_path))
    assert checkpoint.ref("ok").read(0, 2).tolist() == [[1], [1]]
    with pytest.raises(UnsupportedError, match='tensor "w"') as caught:
        checkpoint.ref("w")
    assert hint in str(caught.value.hint)
    assert caught.value.tensor == "w"


def test_side_files(tmp_path: Path) -> None:
    sides = {
        "tokenizer.json": b"{}",
        "additional_chat_templates/tool_use.jinja": b"tools",
        "additional_chat_templates/x.txt": b"",
        "1_Pooling/config.json": b"{}",
        "notes.txt": b"",
        "modeling.py": b"",
        ".hidden.json": b"",
    }
    checkpoint = open_source(str(folder(tmp_path, **sides, **{"model.safetensors": whole(a=[1])})))
    names = ("1_Pooling/config.json", "additional_chat_templates/tool_use.jinja", "config.json", "tokenizer.json")
    assert checkpoint.file_names() == names
    assert [f.name for f in checkpoint.files()] == ["model.safetensors", *names]
    assert checkpoint.read_file("additional_chat_templates/tool_use.jinja") == b"tools"
    assert checkpoint.carried() == (*names[:3], "modeling.py", "notes.txt", "tokenizer.json"), "what goes along"
    assert checkpoint.read_file("notes.txt") == b""
    for name in ("tokenizer.model", "../x", "/etc/passwd", ".hidden.json", "", "1_Pooling/../config.json"):
        assert checkpoint.read_file(name) is None


def test_module_folders_without_a_configuration(tmp_path: Path) -> None:
    path = folder(tmp_path, **{"model.safetensors": whole(a=[1]), "1_Pooling/other.json": b"", "2_Normalize/x": b""})
    assert open_source(str(path)).file_names() == ("config.json",)


def test_side_files_have_a_limit(tmp_path: Path) -> None:
    path = folder(tmp_path, **{"model.safetensors": whole(a=[1]), "tokenizer.json": b"{}"})
    os.truncate(path / "tokenizer.json", (256 << 20) + 1)
    checkpoint = open_source(str(path))
    with pytest.raises(InputError, match="at most 268,435,456 are read"):
        checkpoint.read_file("tokenizer.json")


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path: Path) -> None:
    path = folder(tmp_path, **{"model.safetensors": whole(a=np.ones((1000, 1000)))})
    checkpoint = open_source(str(path))
    os.truncate(path / "model.safetensors", 1 << 20)
    assert checkpoint.ref("a").read(0, 100).shape == (100, 1000)
    with pytest.raises(InputError, match="changed while it was read"):
        checkpoint.ref("a").read(0, 1000)
    with pytest.raises(InputError, match="changed while it was read"):
        checkpoint.unchanged()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", ["touched", "replaced", "removed", "same size"])
def test_changes_are_noticed(name: str, how: str, tmp_path: Path) -> None:
    path = folder(tmp_path, **{"model.safetensors": whole(a=[1]), "tokenizer.json": b"{}"})
    checkpoint = open_source(str(path))
    checkpoint.unchanged()
    file = path / name
    if how == "touched":
        os.utime(file, ns=(1, 1))
    elif how == "replaced":
        (path / "new").write_bytes(file.read_bytes())
        (path / "new").replace(file)
    elif how == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(InputError):
        checkpoint.unchanged()


def test_reading_slabs_takes_the_memory_of_a_slab(tmp_path: Path) -> None:
    rows, cols = 1 << 16, 1 << 12  # 1 GB, sparse
    raw = json.dumps({"w": {"dtype": "F32", "shape": [rows, cols], "data_offsets": [0, 4 * rows * cols]}}).encode()
    path = folder(tmp_path, **{"model.safetensors": header(raw)})
    os.truncate(path / "model.safetensors", 8 + len(raw) + 4 * rows * cols)
    ref = open_source(str(path)).ref("w")
    ref.read(0, 1)
    tracemalloc.start()
    for start in range(0, rows, rows // 16):
        ref.read(start, start + 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20  # a slab is 4 MB


def test_threads_may_read_one_checkpoint() -> None:
    checkpoint = open_source(str(MODEL))
    name = "model.embed_tokens.weight"
    ref, rows = checkpoint.ref(name), checkpoint.tensors()[name].rows
    expected = ref.read(0, rows)
    with ThreadPoolExecutor(8) as pool:
        slabs = list(pool.map(lambda start: ref.read(start, start + 64), range(0, rows, 64)))
    assert np.array_equal(np.concatenate(slabs), expected)


def test_remote_code_is_named_and_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w')\n".encode()
    config = {
        "architectures": ["X"],
        "auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": "other/repo--configuration_x.X"},
        "_attn_implementation": "evil/kernel",
        "custom_pipelines": {"x": {"impl": "modeling_x.X"}},
    }
    files: dict[str, bytes | dict[str, Any]] = {
        "config.json": config,
        "model.safetensors": whole(a=[1]),
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["modeling_x.X", None]}},
    }
    for name in ("modeling_x.py", "configuration_x.py", "sitecustomize.py", "json.py", "__init__.py", "x.pth"):
        files[name] = code
    path = write(tmp_path / "c", files)
    events: list[Event] = []
    open_source(str(path), emit=events.append)
    assert events == [
        Warned(
            "remote-code",
            "config.json names Python code of the repository (modeling_x.X, other/repo--configuration_x.X); "
            "it is never run",
        )
    ]
    harmless = write(tmp_path / "harmless", {"config.json": {}, "model.safetensors": whole(a=[1])})
    script = """
import sys
from quantkit.source import open_source
import quantkit.qtypes.floats
open_source(sys.argv[2])  # imports what quantkit itself imports late
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.split(".")[0] in
    {"import", "exec", "compile", "socket", "subprocess", "os.system", "ctypes", "pickle", "marshal"} else None)
checkpoint = open_source(sys.argv[1])
checkpoint.ref("a").read(0, 1)
assert not seen, seen
"""
    command = [sys.executable, "-c", script, str(path), str(harmless)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not canary.exists()


def test_damaged_json_gives_clear_errors(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    for name in ("config.json", INDEX):
        raw = (path / name).read_bytes()
        for mutant in mutants(raw, 400, seed=5):
            (path / name).write_bytes(mutant)
            try:
                open_folder(path, lambda event: None).close()
            except (InputError, UnsupportedError) as error:
                assert error.message.isprintable()
        (path / name).write_bytes(raw)


def test_files_are_closed_after_a_refusal(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    (path / "model-2.safetensors").write_bytes(b"")
    gc.collect()  # what tests before have left open gives up its numbers now
    before = os.open(path, os.O_RDONLY)
    os.close(before)
    for _ in range(5):
        refused(path, "too few")
    after = os.open(path, os.O_RDONLY)  # the lowest free number, so a file left open shows
    os.close(after)
    assert after == before


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("model.safetensors", UsageError, "give its folder"),
        ("pytorch_model.bin", InputError, "safetensors version"),
        ("notes.txt", UsageError, "a .gguf file"),
        ("modle", InputError, "did you mean"),
        ("nothing/at/all", InputError, "give a folder"),
        ("x" * 5000, InputError, "give a folder"),
        ("nul\0byte", InputError, "give a folder"),
    ],
)
def test_what_is_not_a_checkpoint(name: str, kind: type[QuantkitError], hint: str, tmp_path: Path) -> None:
    write(tmp_path, {"model.safetensors": b"", "pytorch_model.bin": b"", "notes.txt": b"", "model/x": b""})
    with pytest.raises(kind) as caught:
        open_source(str(tmp_path / name))
    assert hint in str(caught.value.hint)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4976698672\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Login</title></head></html>"
CHECKPOINT_FILES = (
    "config.json",
    INDEX,
    "model-1.safetensors",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
@pytest.mark.parametrize(("body", "message", "hint"), [
    (POINTER, "Git LFS pointer", "git lfs pull"), (PAGE, "web page", "hf download"),
    (b"\xef\xbb\xbf" + PAGE.lower(), "web page", "hf download"),
])  # fmt: skip
def test_what_lies_in_the_place_of_a_file(name: str, body: bytes, message: str, hint: str, tmp_path: Path) -> None:
    path = sharded(tmp_path)
    (path / name).write_bytes(body)
    error = refused(path, rf"{name} is a {message}")
    assert hint in str(error.hint)


@pytest.mark.parametrize("body", [POINTER, PAGE])
def test_what_lies_in_the_place_of_a_gguf_file(body: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(body)
    refused(file, "is a (Git LFS pointer|web page)")


def test_a_card_may_be_a_page(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    (path / "README.md").write_bytes(PAGE)
    assert open_source(str(path)).read_file("README.md") == PAGE


REVISION = "refs/pr/7"
ADDRESSES = {
    "hf://o/n": ("o/n", None, None),
    "o/n@v1": ("o/n", "v1", None),
    f"hf://o/n@{REVISION}": ("o/n", REVISION, None),
    "https://huggingface.co/o/n": ("o/n", None, None),
    "http://www.huggingface.co/o/n/": ("o/n", None, None),
    "https://hf.co/o/n?library=transformers#usage": ("o/n", None, None),
    "huggingface.co/o/n": ("o/n", None, None),
    "hf://huggingface.co/o/n/tree/main": ("o/n", "main", None),
    "https://huggingface.co/o/n/tree/v1.0": ("o/n", "v1.0", None),
    "https://huggingface.co/o/n/tree/refs%2Fpr%2F7": ("o/n", REVISION, None),
    f"https://huggingface.co/o/n/commit/{'a' * 40}": ("o/n", "a" * 40, None),
    "https://huggingface.co/o/n/blob/main/config.json": ("o/n", "main", None),
    "https://huggingface.co/o/n/resolve/main/model-00001-of-00002.safetensors?download=true": ("o/n", "main", None),
    "https://huggingface.co/o/n/discussions/3": ("o/n", None, None),
    "https://huggingface.co/o/n/blob/main/n-Q4_K_M.gguf": ("o/n", "main", "n-Q4_K_M.gguf"),
    "https://huggingface.co/o/n/resolve/main/UD/n%20x.gguf?download=true": ("o/n", "main", "UD/n x.gguf"),
    "hf://o/n/x.gguf": ("o/n", None, "x.gguf"),
    "hf://o/n:x.gguf": ("o/n", None, "x.gguf"),
    "o/n:sub/x.gguf": ("o/n", None, "sub/x.gguf"),
    "hf://o/n@v1.0:sub/x-00001-of-00002.gguf": ("o/n", "v1.0", "sub/x-00001-of-00002.gguf"),
    f"hf://o/n@{REVISION}:x.gguf": ("o/n", REVISION, "x.gguf"),
    "o/n/sub/x-00001-of-00002.gguf": ("o/n", None, "sub/x-00001-of-00002.gguf"),
    "hf://o/n@main/x.gguf": ("o/n", "main", "x.gguf"),
    "hf://o/n/x.gguf@v2": ("o/n", "v2", "x.gguf"),
    f"hf://o/n@{REVISION}/a/x.gguf": ("o/n", REVISION, "a/x.gguf"),
}


@pytest.mark.parametrize("spec", ADDRESSES)
def test_addresses_of_the_hub(spec: str) -> None:
    found = parse_hub(spec)
    assert found is not None
    assert (found.repo, found.revision, found.file) == ADDRESSES[spec]


@pytest.mark.parametrize(("spec", "message"), [
    ("https://huggingface.co/datasets/o/n", "datasets of the Hub"),
    ("https://huggingface.co/spaces/o/n", "spaces of the Hub"),
    ("https://example.org/o/n", "example.org is not"),
    ("https://user:secret@example.org/o/n", "example.org is not"),
    ("https://huggingface.co/o/n/tree/main/onnx", "inside of o/n"),
    ("https://huggingface.co/o/n/blob/main/original/params.json", "inside of o/n"),
    ("https://huggingface.co/gpt2", "does not name"),
    ("https://huggingface.co/", "does not name"),
    ("https://huggingface.co/o/../n", "does not name"),
    ("https://huggingface.co/o/n/tree/..%2F..%2Fx", "does not name"),
    ("https://huggingface.co/o/n/blob/main/..%2Fx.gguf", "does not name"),
    ("https://[", "does not name"),
    ("hf://o/n/../x.gguf", "does not name"),
    ("hf://o/n/.x.gguf", "does not name"),
    ("hf://datasets/o/n", "datasets of the Hub"),
    ("hf://datasets/o/n:x.jsonl", "datasets of the Hub"),
    ("hf://spaces/o/n", "spaces of the Hub"),
    ("hf://o/n:", "no file is named"),
    ("hf://o/n:model.safetensors", "no name of a GGUF file"),
    ("hf://o/n@v1:../x.gguf", "no name of a GGUF file"),
    ("hf://o/n:a/../x.gguf", "no name of a GGUF file"),
])  # fmt: skip
def test_addresses_that_lead_elsewhere(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_source(spec, offline=True)
    assert caught.value.hint is not None
    assert "secret" not in str(caught.value)


def test_a_mistyped_path_does_not_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_source("models/x/y.gguf", offline=True)
    with pytest.raises(NetworkError, match="not in the cache"):
        open_source("org/x/y.gguf", offline=True)


@pytest.mark.parametrize(
    "spec",
    [
        "hf://",
        "hf://name",
        "hf://a/b/c",
        "hf://a/b@",
        "hf://a/../b",
        "hf://a/b@../x",
        "hf://a/b@x y",
        "hf://-a/b",
        "hf://a--b/c",
        "hf://a/b..c",
    ],
)
def test_specs_that_name_no_repository(spec: str) -> None:
    with pytest.raises(UsageError, match="does not name a model repository"):
        open_source(spec, offline=True)


def test_repositories_and_folders_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded(tmp_path / "some-org" / "model")
    monkeypatch.chdir(tmp_path)
    assert open_source("some-org/model", offline=True).name == "model"
    for spec in ("hf://some-org/model", "hf://some-org/model@main", "some-org/other", "some-org/other@v1"):
        with pytest.raises(NetworkError, match="not in the cache"):
            open_source(spec, offline=True)


@pytest.mark.parametrize("spec", ["", "~nobody-of-this-name/x", "a--b/c", "a/b/c"])
def test_specs_that_name_nothing(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sharded(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        open_source(spec, offline=True)


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    names = [f"model-{i:05d}-of-00040.safetensors" for i in range(1, 41)]
    path = folder(tmp_path, **{name: whole(**{name: [1]}) for name in names})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(path, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 20, hard))
    try:
        with pytest.raises(ResourceError, match="too many open files"):
            open_source(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(open_source(str(path)).tensors()) == 40


def test_folders_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sharded(tmp_path)
    monkeypatch.setattr("quantkit.source.folder.MAX_FOLDER_ENTRIES", 4)
    assert open_source(str(path)).tensors()
    (path / "one more").touch()
    refused(path, "more than 4 files")
