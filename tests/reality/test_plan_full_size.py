"""Real checkpoints at their full size, as holes: planned in seconds and little memory, whatever they hold.

Times are those of the processor, by its speed: the machine that runs the tests has other things to do.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
from commands import quantkit
from machine_speed import check
from real_folders import (
    claimed,
    make_sparse,
    make_sparse_of_rows,
    needs_reality,
    read_config,
    shapes,
    side_files,
    text_config,
)  # fmt: skip

SECONDS, MEGABYTES = 10, 600
LLAMA_405B = {
    "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
    "num_key_value_heads": 8,
}  # fmt: skip
LARGEST: dict[str, tuple[str, dict[str, int], str]] = {
    "405b": ("llama3-8b", LLAMA_405B, "q4_k_m"),
    "480b of experts": ("aic-qwen3-coder-480b-a35b-instruct", {}, "q4_k_m"),
    "480b for servers": ("aic-qwen3-coder-480b-a35b-instruct", {}, "fp8"),
    "256k tokens": ("medgemma-27b-it", {}, "q4_k_m"),
}


MEASURED = """
import os, sys
from quantkit.cli.main import main
status = main(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print("measured", sum(os.times()[:2]), peak, file=sys.stderr)
sys.exit(status)
"""


def cost_of_plan(folder: Path, recipe: str, *more: str) -> tuple[float, float]:
    """Seconds of the processor and megabytes at the peak of a plan in a process of its own.

    The process says so itself: what the system counts of it begins with the memory of the one that forked it.
    """
    command = [sys.executable, "-c", MEASURED, "plan", str(folder), "--to", recipe, *more]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    word, seconds, kilobytes = ran.stderr.splitlines()[-1].split()
    assert word == "measured"
    return float(seconds), int(kilobytes) / 1024


@needs_reality
@pytest.mark.slow
@pytest.mark.parametrize("which", LARGEST)
def test_the_largest_are_planned_in_seconds(which: str, tmp_path: Path) -> None:
    name, changes, recipe = LARGEST[which]
    alone = () if recipe == "fp8" else ("--mmproj", "none")  # the sizes of encoders are not the published ones
    seconds, megabytes = cost_of_plan(make_sparse(name, tmp_path, **changes), recipe, *alone)
    check(seconds, SECONDS)
    assert megabytes < MEGABYTES


KIMI_K2 = {
    "n_routed_experts": 384, "num_attention_heads": 64, "num_key_value_heads": 64, "first_k_dense_replace": 1,
    "n_group": 1, "topk_group": 1, "vocab_size": 163840, "num_nextn_predict_layers": 0,
}  # fmt: skip
UNLIKE = {"a trillion": ("aic-deepseek-v3", KIMI_K2, 1026.0),
          "stacks that lie the other way": ("aic-llama-4-scout-17b-16e-instruct", {}, 107.8)}  # fmt: skip


@needs_reality
@pytest.mark.slow
@pytest.mark.parametrize("which", UNLIKE)
def test_the_largest_mixtures_are_planned_in_seconds(which: str, tmp_path: Path) -> None:
    """Of 70,000 matrices, and of stacks whose experts are cut and turned: nothing of their size is made."""
    name, changes, billions = UNLIKE[which]
    folder = make_sparse_of_rows(name, tmp_path, **changes)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert stored / 2e9 == pytest.approx(billions, rel=0.01)
    seconds, megabytes = cost_of_plan(folder, "q4_k_m")
    check(seconds, SECONDS)
    assert megabytes < MEGABYTES


@pytest.mark.parametrize("name", sorted(set(claimed()) - {name for name, *_ in LARGEST.values()}))
def test_every_folder_is_planned_at_its_size(name: str, tmp_path: Path) -> None:
    """The tensors of the whole language model, to the byte; no tokenizer is read for servers."""
    folder = make_sparse(name, tmp_path)
    seen = quantkit("plan", folder, "--to", "w8a16", "--json")
    assert seen.status == 0, seen.stderr
    [plan] = seen.json["plans"]
    linears = [s for n, s in shapes(read_config(name)).items() if ".layers." in n and len(s) == 2 and "gate.w" not in n]
    weights = next(row["weights"] for row in plan["size"]["types"] if row["type"].startswith("int8"))
    assert weights == sum(map(prod, linears))


Stored = dict[str, tuple[str, tuple[int, ...]]]
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1, "U8": 1, "U32": 4, "I32": 4}


def native_fp8(module: str, rows: int, cols: int) -> Stored:
    return {f"{module}.weight": ("F8_E4M3", (rows, cols)),
            f"{module}.weight_scale_inv": ("BF16", (-(-rows // 128), -(-cols // 128)))}  # fmt: skip


def modelopt_fp8(module: str, rows: int, cols: int) -> Stored:
    return {f"{module}.weight": ("F8_E4M3", (rows, cols)), f"{module}.weight_scale": ("F32", ()),
            f"{module}.input_scale": ("F32", ())}  # fmt: skip


def llm_int8(module: str, rows: int, cols: int) -> Stored:
    return {f"{module}.weight": ("I8", (rows, cols)), f"{module}.SCB": ("F32", (rows,)),
            f"{module}.weight_format": ("U8", ())}  # fmt: skip


def mlx_4(module: str, rows: int, cols: int) -> Stored:
    return {f"{module}.weight": ("U32", (rows, cols // 8)), f"{module}.scales": ("BF16", (rows, cols // 64)),
            f"{module}.biases": ("BF16", (rows, cols // 64))}  # fmt: skip


def gptq(bits: int, group: int, indexed: bool) -> Any:
    def of_module(module: str, rows: int, cols: int) -> Stored:
        groups = 1 if group == -1 else cols // group
        index: Stored = {f"{module}.g_idx": ("I32", (cols,))} if indexed else {}
        return {
            f"{module}.qweight": ("I32", (cols * bits // 32, rows)),
            f"{module}.qzeros": ("I32", (groups, rows * bits // 32)),
            f"{module}.scales": ("F16", (groups, rows)),
            **index,
        }

    return of_module


QUANTIZED = {
    "aic-qwen3-30b-a3b-fp8": (native_fp8, False),
    "aic-qwen3-32b-fp8-static-pertensor": (modelopt_fp8, False),
    "aic-llama-3.1-70b-instruct-fp8": (modelopt_fp8, False),
    "llama31-8b-networks-nf4": (llm_int8, False),
    "qwen3-14b-mlx-4bit": (mlx_4, True),
    "genz-70b-gptq": (gptq(3, -1, indexed=True), False),
    "wizard-mega-13b-gptq": (gptq(4, 128, indexed=False), False),
}


def make_quantized(name: str, folder: Path) -> Path:
    """A folder as published, its weights stored as its configuration says: real names and shapes, no data."""
    form, everything = QUANTIZED[name]
    config = read_config(name)
    stored: Stored = {}
    for tensor, shape in shapes(config).items():
        rounded = len(shape) == 2 and (everything or re.search(r"layers\.\d+\..*_proj\.weight$", tensor))
        stored |= form(tensor.removesuffix(".weight"), *shape) if rounded else {tensor: ("BF16", shape)}
    out = folder / name
    out.mkdir()
    for path in side_files(name):
        (out / path.name).write_bytes(path.read_bytes())
    (out / "config.json").write_text(json.dumps(config))
    entries, end = {}, 0
    for tensor, (dtype, shape) in stored.items():
        start, end = end, end + BYTES[dtype] * prod(shape)
        entries[tensor] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(out / "model.safetensors", 8 + len(text) + end)
    return out


@needs_reality
@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_folders_are_read_as_they_are_published(name: str, tmp_path: Path) -> None:
    folder = make_quantized(name, tmp_path)
    bits = {mlx_4: 4}.get(QUANTIZED[name][0], 3 if "gptq" in name else 8)
    permission = [] if bits >= 8 else ["--allow-requantize"]
    recipe = "q8_0" if name.startswith("aic-qwen3-30b") else "w8a16"  # GGUF files take a tokenizer
    seconds, megabytes = cost_of_plan(folder, recipe, *permission)
    check(seconds, SECONDS)
    assert megabytes < MEGABYTES
    seen = quantkit("inspect", folder, "--json").json
    layers = text_config(read_config(name))["num_hidden_layers"]
    assert max(row["tensors"] for row in seen["types"] if row["type"] not in BYTES) >= 7 * layers
