"""Input that is damaged, hostile or does not fit: one line, a hint, an exit code, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import checkpoints
import gguf_bytes as g
import llama_folder as llama
import numpy as np
import pytest
from commands import TINY, Outcome, quantkit
from gguf_bytes import Parts
from machine_speed import within

import quantkit as api
from quantkit.cli.exits import exit_code
from quantkit.errors import InputError
from quantkit.events import Event, TensorProgress
from quantkit.formats.gguf.file import TensorEntry, encode_header, read_gguf
from quantkit.formats.gguf.imatrix import Entry, Imatrix, encode_imatrix_gguf
from quantkit.metadata import KeyValue

Damage = Callable[[Path], object]
Header = dict[str, dict[str, Any]]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NORM = "model.norm.weight"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """All files and hidden folders below `folder`, with sizes and times of change."""
    found = (p for p in folder.rglob("*") if not p.is_dir() or p.name.startswith("."))
    return {str(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in found}


def check_refusal(outcome: Outcome, code: str, status: int, words: Iterable[str]) -> None:
    """One error line and its hint at the end of stderr, the same as an object on stdout, no traceback."""
    assert outcome.status == status, outcome.stderr
    *_, line, hint = outcome.stderr.splitlines()
    assert line.startswith(f"error[{code}]: ")
    assert hint.startswith("hint: ")
    assert outcome.stderr.replace("\n", "").isprintable()
    assert "Traceback" not in outcome.stderr
    error = outcome.json["error"]
    assert (outcome.json["schema"], error["code"], error["exit"]) == ("quantkit.error/1", code, status)
    assert hint == f"hint: {error['hint']}"
    for word in words:
        assert word in line, line


def refused(arguments: list[object], code: str, status: int, words: Iterable[str], root: Path) -> Outcome:
    """Run a command that has to fail and to leave everything below `root` as it is."""
    before = state(root)
    outcome = quantkit(*arguments, "--json")
    check_refusal(outcome, code, status, words)
    assert state(root) == before
    return outcome


# --- checkpoints -----------------------------------------------------------------------------------------------------


def header(change: Callable[[Header], object], text: Callable[[str], str] = str) -> Damage:
    """Change the header of the file of weights, as a dictionary or as text."""

    def damage(folder: Path) -> None:
        tensors = llama.weights()
        entries = llama.header(tensors)
        change(entries)
        (folder / WEIGHTS).write_bytes(llama.encode(tensors, text(json.dumps(entries)).encode()))

    return damage


def tensors(change: Callable[[dict[str, llama.Stored]], object], dtype: str = "BF16") -> Damage:
    """Change the tensors themselves."""

    def damage(folder: Path) -> None:
        found = llama.weights(dtype)
        change(found)
        (folder / WEIGHTS).write_bytes(llama.encode(found))

    return damage


def shards(change: Callable[[dict[str, str]], object] = lambda index: None, twice: bool = False) -> Damage:
    """Two shards; `change` edits the index, `twice` puts a tensor of the first into the second as well."""

    def damage(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        found = llama.weights()
        names = list(found)
        first, second = names[:4], names[4:] + (names[:1] if twice else [])
        index = {name: FIRST if name in names[:4] else SECOND for name in names}
        change(index)
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))
        for shard, members in ((FIRST, first), (SECOND, second)):
            (folder / shard).write_bytes(llama.encode({name: found[name] for name in members}))

    return damage


def then(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def remove(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str) -> Damage:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)


def configure(**changes: Any) -> Damage:
    return lambda folder: (folder / "config.json").write_text(json.dumps({**llama.CONFIG, **changes}))


def claimed(nbytes: int) -> Damage:
    return lambda folder: (folder / WEIGHTS).write_bytes(llama.encode(llama.weights(), length=nbytes))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02c__builtin__\neval\n")


def bpe(folder: Path, pattern: str | None = None) -> None:
    """A byte-level BPE in place of the SentencePiece vocabulary, split by `pattern`."""
    (folder / "tokenizer.model").unlink()
    tokenizer = json.loads(checkpoints.bpe_tokenizer())
    if pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text("{}")


def shift(name: str, by: int) -> Callable[[Header], object]:
    return lambda entries: entries[name].update(data_offsets=[o + by for o in entries[name]["data_offsets"]])


def renamed(new: str) -> Callable[[dict[str, llama.Stored]], object]:
    return lambda found: found.update({new: found.pop(llama.UP)})


EMPTY = llama.Stored("BF16", (0, 32), b"")
EIGHT_BIT = llama.Stored("I8", (64, 32), bytes(64 * 32))
LONG = "n" * 600

DAMAGED: dict[str, tuple[Damage, str, int, tuple[str, ...]]] = {
    "missing shard": (then(shards(), remove(SECOND)), "input", 3, ("1 of 2 shards", SECOND)),
    "truncated file": (cut(WEIGHTS), "input", 3, (WEIGHTS, NORM, "ends at byte")),
    "truncated shard": (then(shards(), cut(SECOND)), "input", 3, (SECOND, "ends at byte")),
    "empty shard": (then(shards(), lambda f: (f / SECOND).write_bytes(b"")), "input", 3, (SECOND, "too few")),
    "shard outside": (shards(lambda i: i.update({NORM: "../x.safetensors"})), "input", 3, (INDEX, "../x.safetensors")),
    "absolute shard": (shards(lambda i: i.update({NORM: "/x.safetensors"})), "input", 3, (INDEX, "/x.safetensors")),
    "index of more": (shards(lambda i: i.update({"more": FIRST})), "input", 3, (INDEX, "more")),
    "index of less": (shards(lambda i: i.pop(NORM)), "input", 3, (INDEX, NORM)),
    "twice in shards": (shards(twice=True), "input", 3, (llama.EMBEDDING, FIRST, SECOND)),
    "twice in header": (header(lambda h: None, lambda t: t.replace(llama.DOWN, llama.UP)), "input", 3, (llama.UP,)),
    "overlap": (header(shift(llama.UP, -2)), "input", 3, (llama.UP, "overlaps")),
    "gap": (header(shift(llama.UP, 2)), "input", 3, (llama.UP, "gap")),
    "outside of the file": (header(shift(NORM, 10**9)), "input", 3, (NORM, "ends at byte")),
    "header of 2^60": (claimed(1 << 60), "input", 3, ("1,152,921,504,606,846,976",)),
    "unknown dtype": (header(lambda h: h[llama.UP].update(dtype="F128")), "input", 3, (llama.UP, "F128")),
    "eight bits": (tensors(lambda t: t.update({llama.UP: EIGHT_BIT})), "unsupported", 4, (llama.UP, "I8")),
    "zero size": (tensors(lambda t: t.update(extra=EMPTY)), "input", 3, ("zero-size", "extra", "(0, 32)")),
    "control characters": (tensors(renamed("up\x1b[31m\n")), "input", 3, (r"up\x1b[31m\n",)),
    "right to left": (tensors(renamed("up\u202e")), "input", 3, (r"up\u202e",)),
    "long name": (tensors(renamed(LONG)), "input", 3, ("nnn", "600 characters")),
    "unmapped tensor": (tensors(renamed(f"{llama.UP}s")), "unsupported", 4, (f"{llama.UP}s",)),
    "missing tensor": (tensors(lambda t: t.pop(NORM)), "input", 3, (NORM,)),
    "pickles only": (pickled, "input", 3, ("pytorch_model.bin", "never loaded")),
    "no config": (remove("config.json"), "input", 3, ("config.json",)),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "input", 3, ("config.json", "object")),
    "unknown family": (configure(architectures=["LamaForCausalLM"]), "unsupported", 4, ("LamaForCausalLM", "Llama")),
    "quantized already": (configure(quantization_config={"quant_method": "aqlm"}), "unsupported", 4, ("aqlm",)),
    "no tokenizer": (remove("tokenizer.model"), "input", 3, ("no tokenizer",)),
    "damaged tokenizer": (cut("tokenizer.model"), "input", 3, ("tokenizer.model",)),
    "unknown pre-tokenizer": (lambda f: bpe(f, r"\d{1,7}|\w+"), "unsupported", 4, ("pre-tokenizer", r"\\d{1,7}|\\w+")),
    "more tokens than rows": (configure(vocab_size=2000), "input", 3, ("2048", "2,000")),
    "layers that are not there": (configure(num_hidden_layers=2), "input", 3, ("model.layers.1.",)),
    "heads that do not fit": (configure(num_attention_heads=4), "input", 3, ("self_attn.k_proj",)),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_refused_from_its_headers(name: str, tmp_path: Path) -> None:
    damage, code, status, words = DAMAGED[name]
    folder = llama.write(tmp_path / "model")
    damage(folder)
    for command in (["plan", folder], ["convert", folder, "-o", tmp_path / "out"]):
        refused([*command, "--to", "q8_0"], code, status, words, tmp_path)
    refused(["quantize", folder, "--to", "q8_0", "-o", tmp_path / "out"], code, status, words, tmp_path)


def test_the_checkpoint_that_is_damaged_above_converts(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model")
    shards()(folder)
    assert quantkit("convert", folder, "--to", "q8_0", "-o", tmp_path / "out").status == 0


def test_a_missing_or_empty_source(tmp_path: Path) -> None:
    refused(["convert", tmp_path / "nothing", "--to", "q8_0"], "input", 3, ("nothing",), tmp_path)
    (tmp_path / "empty").mkdir()
    refused(["convert", tmp_path / "empty", "--to", "q8_0"], "input", 3, ("empty", WEIGHTS), tmp_path)


# --- weights that only reading them shows ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_weight_that_is_not_finite_is_named(dtype: str, value: str, tmp_path: Path) -> None:
    damaged = llama.replaced(llama.weights(dtype), llama.UP, 5 * 32 + 7, float(value))
    folder = llama.write(tmp_path / "model", damaged)
    arguments = ["convert", folder, "-o", tmp_path / "out", "--to"]
    for recipe in ("q8_0", "f32", "q4_k_m,bf16"):
        outcome = refused([*arguments, recipe], "non-finite", 3, (f"{llama.UP}[5, 7]", value), tmp_path)
        assert outcome.json["error"]["tensor"] in {llama.UP, "blk.0.ffn_up.weight"}


def test_the_index_is_that_of_the_source(tmp_path: Path) -> None:
    """The rows of queries are stored in another order; a norm has one axis."""
    query = "model.layers.0.self_attn.q_proj.weight"
    for name, flat, index in ((query, 9 * 32 + 1, "[9, 1]"), (NORM, 30, "[30]")):
        folder = llama.write(tmp_path / name, llama.replaced(llama.weights(), name, flat, float("nan")))
        refused(["convert", folder, "--to", "q8_0", "-o", tmp_path / "out"], "non-finite", 3, (name + index,), tmp_path)


def test_a_weight_that_does_not_fit_float16_is_an_error_and_no_infinity(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model", llama.replaced(llama.weights(), llama.DOWN, 3 * 64 + 9, 7e4))
    words = (f"{llama.DOWN}[3, 9]", "69632", "65504")
    refused(["convert", folder, "--to", "f16", "-o", tmp_path / "out"], "non-finite", 3, words, tmp_path)
    both = quantkit("convert", folder, "--to", "bf16,f16", "-o", tmp_path / "both")
    assert both.status == 10  # the other recipe's file is made all the same
    assert [path.name for path in (tmp_path / "both").glob("*.gguf")] == ["model-BF16.gguf"]
    assert all(word in both.stderr for word in words)
    kept = quantkit("convert", folder, "--to", "f16", "--keep", "ffn_down=bf16", "-o", tmp_path / "out")
    assert kept.status == 0, kept.stderr


def test_a_scale_that_does_not_fit_float16_is_an_error(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model", llama.replaced(llama.weights("F32"), llama.DOWN, 3 * 64 + 9, 3e38))
    words = (llama.DOWN, "scale", "float16")
    refused(["convert", folder, "--to", "q8_0", "-o", tmp_path / "out"], "non-finite", 3, words, tmp_path)


# --- code, tokenizers, recipes, importance ---------------------------------------------------------------------------


def test_code_of_a_checkpoint_is_announced_and_never_run(tmp_path: Path) -> None:
    auto_map = {name: f"modeling_own.{name}" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")}
    folder = llama.write(tmp_path / "model", auto_map=auto_map)
    canary = f"open({str(tmp_path / 'canary')!r}, 'w')\n"
    for name in ("modeling_own.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (folder / name).write_text(canary)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": auto_map}))
    for command in ("convert", "plan", "inspect"):
        options = ["--to", "q8_0", "-o", tmp_path / "out"] if command != "inspect" else []
        outcome = quantkit(command, folder, *options)
        assert outcome.status == 0, outcome.stderr
        assert outcome.stderr.count("warning[remote-code]: ") == 1
        assert "never run" in outcome.stderr
    assert quantkit("verify", tmp_path / "out" / "model-Q8_0.gguf", "--against", folder).status == 0
    assert not (tmp_path / "canary").exists()
    shutil.rmtree(tmp_path / "out")
    configure(auto_map=auto_map, architectures=["OwnForCausalLM"])(folder)
    words = ("OwnForCausalLM",)
    outcome = refused(["convert", folder, "-o", tmp_path / "out"], "unsupported", 4, words, tmp_path)
    assert "never run" in outcome.json["error"]["hint"]
    assert not (tmp_path / "canary").exists()


LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def test_an_unknown_pre_tokenizer_can_be_named(tmp_path: Path) -> None:
    """The pattern of Llama 3 in other words: nobody knows it, and whoever does can say which one splits alike."""
    folder = llama.write(tmp_path / "model")
    bpe(folder, f"(?:{LLAMA3_SPLIT})")
    arguments: list[object] = ["convert", folder, "--to", "q8_0", "-o", tmp_path / "out"]
    outcome = refused(arguments, "unsupported", 4, ("pre-tokenizer",), tmp_path)
    assert "--pre" in outcome.json["error"]["hint"]
    refused([*arguments, "--pre", "lama-bpe"], "usage", 2, ("lama-bpe", "llama-bpe"), tmp_path)
    named = quantkit(*arguments, "--pre", "llama-bpe")
    assert named.status == 0, named.stderr
    assert "2,000/2,000 probes" in named.stderr


def test_a_wrong_pre_tokenizer_does_not_verify(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model")
    bpe(folder, LLAMA3_SPLIT)
    outcome = quantkit("convert", folder, "--to", "q8_0", "-o", tmp_path / "out", "--pre", "starcoder", "--json")
    check_refusal(outcome, "verification", 7, ("tokenizer", "probes"))
    assert not [p for p in (tmp_path / "out").iterdir() if not p.name.startswith(".quantkit-")]


def test_recipes_that_do_not_fit(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model")
    arguments: list[object] = ["convert", folder, "-o", tmp_path / "out", "--to"]
    refused([*arguments, "q4_km"], "recipe", 2, ("q4_km", 'did you mean "q4_k_m"'), tmp_path)
    refused([*arguments, "q8_0", "--keep", "attn_z=f16"], "recipe", 2, ("attn_z=f16", "matches no"), tmp_path)
    refused([*arguments, tmp_path / "none.toml"], "recipe", 2, ("none.toml",), tmp_path)
    good = 'schema = 1\nfile_type = 7\n[default]\nqtype = "q8_0"\n'
    recipes = {
        "idle": (good + '[[rule]]\nnames = ["blk.*.attn_z.weight"]\nqtype = "f16"\nwhy = "x"\n', "matches no tensor"),
        "type": (good.replace("q8_0", "q8_1"), "q8_1"),
        "key": (good + "colour = 1\n", "colour"),
        "role": (good + '[[rule]]\nroles = ["attn_w"]\nqtype = "f16"\nwhy = "x"\n', "attn_w"),
        "schema": (good.replace("schema = 1", "schema = 9"), "schema"),
        "none": ("", "schema"),
        "text": ("{", "TOML"),
    }
    for name, (text, word) in recipes.items():
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        refused([*arguments, path], "recipe", 2, (path.name, word), tmp_path)


def imatrix(path: Path, weights: dict[str, np.ndarray]) -> Path:
    entries = {name: Entry(w[None].astype(np.float32), np.array([1])) for name, w in weights.items()}
    path.write_bytes(encode_imatrix_gguf(Imatrix(path.name, entries, 1, 512, ("text",), "")))
    return path


def test_an_imatrix_that_does_not_fit(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model")
    query, ones = "blk.0.attn_q.weight", np.ones(32)
    bad = {
        "other-size": ({query: np.ones(64)}, (query, "64", "expected 32", "another model")),
        "other-names": ({"blk.7.attn_q.weight": ones}, ("blk.7.attn_q.weight", "another model")),
        "nan": ({query: np.where(np.arange(32) == 3, np.nan, 1)}, (query, "nan")),
        "infinite": ({query: ones * np.inf}, (query, "inf")),
        "negative": ({query: -ones}, (query, "-1")),
    }
    arguments: list[object] = ["convert", folder, "--to", "q4_0", "-o", tmp_path / "out", "--imatrix"]
    for name, (weights, words) in bad.items():
        path = imatrix(tmp_path / f"{name}.gguf", weights)
        refused([*arguments, path], "input", 3, (path.name, *words), tmp_path)
    refused([*arguments, tmp_path / "none.dat"], "input", 3, ("none.dat",), tmp_path)
    refused([*arguments, folder / "config.json"], "input", 3, ("config.json", "imatrix"), tmp_path)
    refused(["convert", TINY, "--to", "q2_k_s", "-o", tmp_path / "out"], "recipe", 2, ("importance", "blk."), tmp_path)
    assert quantkit(*arguments, imatrix(tmp_path / "good.gguf", {query: ones})).status == 0


# --- where it should go ----------------------------------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = llama.write(tmp_path / "model")
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "model.gguf"):
        words = (str(tmp_path / "file"), os.strerror(20))
        refused(["convert", folder, "--to", "q8_0", "-o", out], "not-writable", 6, words, tmp_path)


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300 + ".gguf", "loop/model.gguf"])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    folder, path = llama.write(tmp_path / "model"), tmp_path / name
    (tmp_path / "loop").symlink_to("loop")
    for command in (["convert", folder], ["plan", folder], ["quantize", folder]):
        outcome = quantkit(*command, "--to", "q8_0", "-o", path, "--json")
        if command[0] != "plan" or path.suffix != ".gguf":  # a plan asks for the space in the folder only
            check_refusal(outcome, "not-writable", 6, (name.split("/")[0][:40],))
    for command in ("verify", "inspect", "convert", "pack"):
        outcome = quantkit(command, path, "--json")
        assert outcome.status in {2, 3}
        check_refusal(outcome, outcome.json["error"]["code"], outcome.status, (name.split("/")[0][:40],))
    refused(["convert", folder, "--imatrix", path], "input", 3, (name.split("/")[0][:40],), tmp_path)
    refused(["convert", folder, "--events", path], "not-writable", 6, (name.split("/")[0][:40],), tmp_path)


WITHOUT_PRIVILEGES = """
import ctypes
none = (ctypes.c_uint32 * 6)()
header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h: version 3, this process
assert ctypes.CDLL(None).capset(header, none) == 0
from quantkit.cli.main import run
run()
"""


def test_a_read_only_folder(tmp_path: Path) -> None:
    """As an ordinary user: root may write everywhere until it gives up its capabilities."""
    folder, out = llama.write(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    before = state(tmp_path)
    out.chmod(0o555)
    arguments = ["convert", str(folder), "--to", "q8_0", "-o", str(out), "--json"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_PRIVILEGES, *arguments], capture_output=True, text=True)
    out.chmod(0o755)
    check_refusal(Outcome(done.returncode, done.stdout, done.stderr), "not-writable", 6, (str(out),))
    assert state(tmp_path) == before


def test_a_disk_that_is_too_small_is_found_before_anything_is_read(tmp_path: Path) -> None:
    """A checkpoint that is one hole, of which float32 would take twice the free space."""
    folder = llama.write(tmp_path / "model")
    free = shutil.disk_usage(tmp_path).free
    config = {**llama.CONFIG, "hidden_size": 4096, "intermediate_size": max(free // (2 * 3 * 4096), 64)}
    shapes, start = {}, 0
    for name, shape in llama.shapes(config).items():
        stop = start + 2 * int(np.prod(shape))
        shapes[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    head = llama.encode({}, json.dumps(shapes).encode())
    (folder / WEIGHTS).write_bytes(head)
    os.truncate(folder / WEIGHTS, len(head) + start)
    configure(**config)(folder)
    [plan] = quantkit("plan", folder, "--to", "f32", "-o", tmp_path / "out", "--json").json["plans"]
    assert not plan["disk"]["fits"]
    arguments: list[object] = ["convert", folder, "--to", "f32", "-o", tmp_path / "out"]
    outcome = refused(arguments, "resource", 5, ("not enough disk",), tmp_path)
    needed, available = (int(n.replace(",", "")) for n in re.findall(r"([\d,]{4,}) (?:bytes|free)", outcome.stderr)[:2])
    assert needed >= plan["files"][0]["bytes"] > free
    assert abs(available - free) < free / 2  # others use the disk, too


# --- sources that change under our feet ------------------------------------------------------------------------------


@contextmanager
def when_half_done(act: Callable[[], object]) -> Iterator[Callable[[Event], None]]:
    """A sink that acts once, while tensors are being written."""
    done: list[Event] = []

    def sink(event: Event) -> None:
        if isinstance(event, TensorProgress) and not done:
            done.append(event)
            act()

    yield sink
    assert done


CHANGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 1 << 20),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 1),
    "touched": lambda path: os.utime(path, (0, 0)),
    "rewritten": lambda path: path.write_bytes(path.read_bytes()),
    "replaced": lambda path: path.with_name("other").replace(path),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_while_it_is_read(change: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    weights = folder / WEIGHTS
    shutil.copyfile(weights, folder / "other")
    request = api.Request(str(folder), ("q8_0", "bf16"))
    with when_half_done(lambda: CHANGES[change](weights)) as sink, pytest.raises(InputError) as caught:
        api.convert(request, api.Output(tmp_path / "out"), emit=sink)
    assert exit_code(caught.value) == 3
    assert WEIGHTS in caught.value.message
    assert caught.value.hint
    assert not list((tmp_path / "out").iterdir())


# --- GGUF as a source ------------------------------------------------------------------------------------------------

ARCHITECTURE = g.entry(b"general.architecture", g.STRING, g.string(b"llama"))
WIDE = [b"token_embd.weight", b"blk.0.attn_q.weight"]
DATA = bytes(64)
HOSTILE: dict[str, tuple[Parts, str]] = {
    "array of 2^40": (Parts(entries=[g.entry(b"k", g.ARRAY, g.array(g.U8, [], 1 << 40))]), "1,099,511,627,776"),
    "string of 2^63": (Parts(entries=[g.entry(b"k", g.STRING, g.string(b"x", 1 << 63))]), "9,223,372,036,854,775,808"),
    "key of 2^40": (Parts(entries=[g.string(b"k", 1 << 40)]), "1,099,511,627,776"),
    "2^60 keys": (Parts(entry_count=1 << 60), "1,152,921,504,606,846,976"),
    "2^60 tensors": (Parts(tensor_count=1 << 60), "1,152,921,504,606,846,976"),
    "nested arrays": (Parts(entries=[g.entry(b"k", g.ARRAY, g.array(g.ARRAY, [g.array(g.ARRAY, [])]))]), "k"),
    "unknown kind of value": (Parts(entries=[g.entry(b"k", 99, b"")]), "99"),
    "key twice": (Parts(entries=[ARCHITECTURE, ARCHITECTURE]), "general.architecture"),
    "tensor twice": (Parts(infos=[g.info(WIDE[0], [8]), g.info(WIDE[0], [8], offset=32)], data=DATA), "token_embd"),
    "five axes": (Parts(infos=[g.info(WIDE[0], [1] * 5)], data=DATA), "token_embd"),
    "axes that overflow": (Parts(infos=[g.info(WIDE[0], [1 << 32, 1 << 32])], data=DATA), "token_embd"),
    "zero size": (Parts(infos=[g.info(WIDE[0], [0, 8])], data=DATA), "zero-size"),
    "unknown type": (Parts(infos=[g.info(WIDE[0], [8], type_id=77)], data=DATA), "77"),
    "row of half a block": (Parts(infos=[g.info(WIDE[0], [48], type_id=8)], data=DATA), "48"),
    "past the end": (Parts(infos=[g.info(WIDE[0], [1 << 20])], data=DATA), "ends at byte"),
    "overlap": (Parts(infos=[g.info(WIDE[0], [16]), g.info(WIDE[1], [8], offset=32)], data=DATA), "blk.0.attn_q"),
    "crooked offset": (Parts(infos=[g.info(WIDE[0], [8], offset=4)], data=DATA), "without gap"),
    "alignment of 3": (Parts(entries=[ARCHITECTURE, g.entry(b"general.alignment", g.U32, g.u32(3))]), "alignment"),
    "version 77": (Parts(version=77), "77"),
    "another magic": (Parts(magic=b"GGML"), "GGUF"),
    "no tensors": (Parts(), "no tensors"),
    "no architecture": (Parts(entries=[], infos=[g.info(WIDE[0], [8])], data=bytes(32)), "general.architecture"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_gguf_source_is_refused_at_once(name: str, tmp_path: Path) -> None:
    parts, word = HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(parts.encode())
    with within(1):
        refused(["convert", path, "--to", "q8_0", "-o", tmp_path / "out"], "input", 3, (word,), tmp_path)
    refused(["plan", path, "--to", "q8_0"], "input", 3, (word,), tmp_path)


def test_forty_nine_bytes_cannot_claim_a_terabyte(tmp_path: Path) -> None:
    parts = Parts(entries=[g.entry(b"k", g.ARRAY, g.array(g.U8, [], 1 << 40))])
    raw = parts.encode()[: 24 + 8 + 1 + 4 + 4 + 8]
    assert len(raw) == 49
    (tmp_path / "bomb.gguf").write_bytes(raw)
    for command in ("convert", "plan", "inspect", "verify"):
        with within(1):
            refused([command, tmp_path / "bomb.gguf"], "input", 3, ("1,099,511,627,776",), tmp_path)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gguf")
    path = root / "model.gguf"
    assert quantkit("convert", llama.write(root / "model"), "--to", "bf16", "-o", path).status == 0
    return path


def rewritten(source: Path, target: Path, change: Callable[[KeyValue], KeyValue | None]) -> Path:
    """The same tensors under changed metadata."""
    file, raw = read_gguf(source), source.read_bytes()
    entries = [TensorEntry(t.name, t.shape, t.type_id, t.nbytes) for t in file.tensors]
    head = encode_header([kv for kv in map(change, file.metadata) if kv is not None], entries)
    data = bytearray(head.nbytes)
    data[: len(head.data)] = head.data
    for tensor, offset in zip(file.tensors, head.offsets, strict=True):
        data[offset : offset + tensor.nbytes] = raw[tensor.offset : tensor.offset + tensor.nbytes]
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"tokens", "scores", "token_type"}, ("token_embd.weight", "2,048", "2,000")),
        ({"scores"}, ("tokenizer.ggml.scores", "2,000", "2,048")),
        ({"token_type"}, ("tokenizer.ggml.token_type", "2,000", "2,048")),
    ],
)
def test_a_vocabulary_that_is_not_that_of_the_embedding(
    keys: set[str], words: tuple[str, ...], gguf_file: Path, tmp_path: Path
) -> None:
    def shorten(kv: KeyValue) -> KeyValue:
        return replace(kv, value=kv.items()[:2000]) if kv.key.removeprefix("tokenizer.ggml.") in keys else kv

    path = rewritten(gguf_file, tmp_path / "model.gguf", shorten)
    refused(["convert", path, "--to", "q8_0", "-o", tmp_path / "out"], "input", 3, words, tmp_path)


def test_a_gguf_source_with_bad_weights(gguf_file: Path, tmp_path: Path) -> None:
    raw = bytearray(gguf_file.read_bytes())
    [up] = [t for t in read_gguf(gguf_file).tensors if t.name == "blk.0.ffn_up.weight"]
    at = up.offset + 2 * (5 * 32 + 7)
    raw[at : at + 2] = b"\x80\x7f"
    (tmp_path / "model.gguf").write_bytes(raw)
    words = ("blk.0.ffn_up.weight[5, 7]", "inf")
    arguments: list[object] = ["convert", tmp_path / "model.gguf", "--to", "q8_0", "-o", tmp_path / "out"]
    refused(arguments, "non-finite", 3, words, tmp_path)
    os.truncate(tmp_path / "model.gguf", len(raw) - 33)
    refused(arguments, "input", 3, ("ends at byte",), tmp_path)


@pytest.mark.parametrize("command", ["release", "card", "push"])
def test_a_folder_that_cannot_be_read_is_no_bug(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, *, listed: Callable[..., Any]) -> Any:
        if str(tmp_path) in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    (tmp_path / "out").mkdir()
    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, partial(refuse, listed=getattr(os, name)))
    found = quantkit(command, tmp_path / "out", *(["hf://a/b"] if command == "push" else []))
    assert found.status == 3, found.stderr
    assert "Permission denied" in found.stderr and str(tmp_path / "out") in found.stderr
    assert "Traceback" not in found.stderr
