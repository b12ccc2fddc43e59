"""Bad input through the command line: the right exit code, one clear error with a hint, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TINY, quantkit

WEIGHT = "model.layers.1.mlp.up_proj.weight"
Edit = Callable[[Path], None]


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write(path: Path, header: dict[str, Any] | str, data: bytes) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_header(change: Callable[[dict[str, Any]], Any]) -> Edit:
    def edit(folder: Path) -> None:
        header, data = header_of(folder / "model.safetensors")
        write(folder / "model.safetensors", change(header) or header, data)

    return edit


def set_weight(value: int, index: int) -> Edit:
    """Put a BF16 bit pattern at a flat index of WEIGHT."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        header, data = header_of(path)
        start = header[WEIGHT]["data_offsets"][0] + 2 * index
        write(path, header, data[:start] + struct.pack("<H", value) + data[start + 2 :])

    return edit


def edit_json(name: str, **changes: object) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def shards(names: dict[str, str]) -> Edit:
    """An index in front of model.safetensors; `names` replaces the file of some tensors."""

    def edit(folder: Path) -> None:
        header, _ = header_of(folder / "model.safetensors")
        weight_map = {name: "model.safetensors" for name in header if name != "__metadata__"} | names
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return edit


def remove(*names: str) -> Edit:
    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return edit


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def rename(new: str) -> Edit:
    def change(header: dict[str, Any]) -> None:
        header[new] = header.pop(WEIGHT)

    return edit_header(change)


def move(offset: int) -> Edit:
    def change(header: dict[str, Any]) -> None:
        header[WEIGHT]["data_offsets"] = [n + offset for n in header[WEIGHT]["data_offsets"]]

    return edit_header(change)


def empty(folder: Path) -> None:
    header, data = header_of(folder / "model.safetensors")
    start, stop = header[WEIGHT]["data_offsets"]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= stop:
            entry["data_offsets"] = [n - (stop - start) for n in entry["data_offsets"]]
    header[WEIGHT] = {"dtype": "BF16", "shape": [0, 256], "data_offsets": [start, start]}
    write(folder / "model.safetensors", header, data[:start] + data[stop:])


def huge_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def twice(folder: Path) -> None:
    header, data = header_of(folder / "model.safetensors")
    text = json.dumps(header)
    write(folder / "model.safetensors", text[:-1] + f', "{WEIGHT}": {json.dumps(header[WEIGHT])}}}', data)


def unknown_dtype(header: dict[str, Any]) -> None:
    header[WEIGHT]["dtype"] = "F12"


CASES: dict[str, tuple[Edit, int, list[str]]] = {
    "missing shard": (shards({WEIGHT: "model-00002.safetensors"}), 3, ["model-00002.safetensors"]),
    "index leaves the folder": (shards({WEIGHT: "../x.safetensors"}), 3, ["../x.safetensors"]),
    "index names an absolute path": (shards({WEIGHT: "/etc/passwd"}), 3, ["/etc/passwd"]),
    "truncated file": (truncate, 3, ["model.safetensors"]),
    "offsets overlap": (move(-64), 3, [WEIGHT]),
    "offsets out of range": (move(1 << 40), 3, [WEIGHT]),
    "header of 2^60 bytes": (huge_header, 3, ["model.safetensors"]),
    "a tensor twice": (twice, 3, [WEIGHT]),
    "unknown dtype": (edit_header(unknown_dtype), 3, ["F12", WEIGHT]),
    "pickle only": (pickle_only, 3, ["pickle", "safetensors"]),
    "NaN": (set_weight(0x7FC0, 700), 3, [f"{WEIGHT}[2, 188]", "nan"]),
    "infinity": (set_weight(0xFF80, 256), 3, [f"{WEIGHT}[1, 0]", "-inf"]),
    "zero-size tensor": (empty, 3, [WEIGHT]),
    "control characters in a name": (rename("model.\x1b[31mred\x07.weight"), 3, ["\\x1b[31mred\\x07"]),
    "no tokenizer": (remove("tokenizer.model", "tokenizer.json", "tokenizer_config.json"), 3, ["tokenizer"]),
    "no config": (remove("config.json"), 3, ["config.json"]),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), 3, ["config.json"]),
    "unknown family": (edit_json("config.json", architectures=["LamaForCausalLM"]), 4, ["LamaFor", "LlamaFor"]),
    "unmapped tensor": (rename("model.layers.1.mlp.up_prj.weight"), 4, ["up_prj", "up_proj"]),
    "shape against config": (edit_json("config.json", intermediate_size=512), 3, ["weight"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "model"
    shutil.copytree(TINY, source)
    return source


def convert(source: Path, out: Path, *more: object) -> tuple[int, str]:
    outcome = quantkit("convert", source, "--to", "q8_0", "-o", out, *more)
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == "" or outcome.status == 0
    return outcome.status, outcome.stderr


@pytest.mark.parametrize("name", CASES)
def test_a_bad_checkpoint_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    edit, status, words = CASES[name]
    edit(folder)
    out = tmp_path / "out"
    out.mkdir()
    found, errors = convert(folder, out)
    assert found == status, errors
    assert "error[" in errors
    assert "hint: " in errors
    assert all(word in errors for word in words), errors
    assert "\x1b" not in errors
    assert not list(out.iterdir())


def test_float16_overflow_names_the_weight(folder: Path, tmp_path: Path) -> None:
    set_weight(0x4789, 700)(folder)  # 70144
    out = tmp_path / "out"
    outcome = quantkit("convert", folder, "--to", "f16", "-o", out)
    assert outcome.status == 3
    assert f"{WEIGHT}[2, 188]" in outcome.stderr
    assert "70144" in outcome.stderr
    assert not out.exists() or not list(out.iterdir())
    assert quantkit("convert", folder, "--to", "bf16", "-o", out).status == 0


def test_code_in_a_checkpoint_is_never_run(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')")
    edit_json("config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})(folder)
    outcome = quantkit("convert", folder, "--to", "q8_0", "-o", tmp_path / "out", "--engine", "llama.cpp")
    assert outcome.status == 0, outcome.stderr
    assert "warning[remote-code]" in outcome.stderr
    assert not canary.exists()


def test_an_unknown_pre_tokenizer_shows_its_pattern_and_can_be_named(folder: Path, tmp_path: Path) -> None:
    vocabulary = {chr(i): i - 33 for i in range(33, 127)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    split = {"type": "Split", "pattern": {"Regex": "a strange pattern"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pre = {"type": "Sequence", "pretokenizers": [split, level]}
    body = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": pre, "model": model}
    body |= {"truncation": None, "padding": None, "post_processor": None, "decoder": {"type": "ByteLevel"}}
    (folder / "tokenizer.json").write_text(json.dumps(body))
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    status, errors = convert(folder, tmp_path / "out")
    assert status == 4
    assert "a strange pattern" in errors
    assert "--pre" in errors
    assert convert(folder, tmp_path / "out", "--pre", "gpt-2", "--no-verify")[0] == 0
    status, errors = convert(folder, tmp_path / "other", "--pre", "gpt2")
    assert status == 2
    assert 'did you mean "gpt-2"' in errors


def test_a_rule_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'schema = 1\n[default]\nqtype = "q4_k"\n[[rule]]\nnames = ["nothing.*"]\nqtype = "q6_k"\n', encoding="utf-8"
    )
    outcome = quantkit("convert", TINY, "--to", recipe, "-o", tmp_path / "out")
    assert outcome.status == 2
    assert "rule[0]" in outcome.stderr
    recipe.write_text('schema = 1\n[default]\nqtype = "q4_k"\n[[rule]]\nroles = ["attn_v"]\nqtype = "q6k"\n')
    outcome = quantkit("convert", TINY, "--to", recipe, "-o", tmp_path / "out")
    assert outcome.status == 2
    assert 'rule[0].qtype: unknown "q6k"; did you mean "q6_k"?' in outcome.stderr


def test_an_imatrix_of_another_model_is_refused(tmp_path: Path) -> None:
    from quantkit.formats.imatrix import Entry, Imatrix, encode_imatrix_gguf

    path = tmp_path / "other.imatrix.gguf"
    for width, bad, words in ((512, 1.0, "512"), (256, np.nan, "nan")):
        entries = {"blk.0.attn_q.weight": Entry(np.full((1, width), bad, np.float32), np.array([4]))}
        path.write_bytes(encode_imatrix_gguf(Imatrix(path.name, entries, 1, 512, ("x",), "")))
        outcome = quantkit("convert", TINY, "--to", "q4_k_m", "--imatrix", path, "-o", tmp_path / "out")
        assert outcome.status == 3, outcome.stderr
        assert "blk.0.attn_q.weight" in outcome.stderr
        assert words in outcome.stderr.lower()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    status, errors = convert(TINY, tmp_path / "file" / "out")
    assert status == 6, errors
    assert "hint: " in errors


def test_a_disk_that_is_too_small_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    """A checkpoint as a sparse file, whose artifact is larger than what is free here."""
    path = folder / "model.safetensors"
    header, _ = header_of(path)
    header.pop("__metadata__", None)
    width = shutil.disk_usage(tmp_path).free // (4 * 3 * 256 * 4) * 2  # 4 layers of 3 matrices, 4 bytes a weight
    end = 0
    for entry in header.values():
        entry["shape"] = [width if n == 768 else n for n in entry["shape"]]
        start, end = end, end + 2 * int(np.prod(entry["shape"], dtype=np.int64))
        entry["data_offsets"] = [start, end]
    write(path, header, b"")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + end)
    edit_json("config.json", intermediate_size=width)(folder)
    out = tmp_path / "out"
    outcome = quantkit("convert", folder, "--to", "f32", "-o", out)
    assert outcome.status == 5, outcome.stderr
    assert "free" in outcome.stderr
    assert not out.exists() or not list(out.iterdir())


def test_a_small_gguf_that_claims_much_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gguf"
    key = b"k" * 9
    body = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, len(key)) + key + struct.pack("<IIQ", 9, 4, 1 << 40)
    path.write_bytes(body[:49])
    start = time.perf_counter()
    status, errors = convert(path, tmp_path / "out")
    assert time.perf_counter() - start < 5
    assert status == 3, errors
    assert quantkit("inspect", path).status == 3
    assert quantkit("verify", path).status == 3
