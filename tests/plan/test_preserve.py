"""--preserve: a grid or zeros that are there stay there, bit for bit where the type can hold them, and it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import weights
from commands import quantkit
from gguf import GGUFReader, dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ggml
from quantized_folder import MODEL, VARIANTS, WEIGHTS, plain_tensor, quantized_model, write_tensors

from quantkit.qtypes import base
from quantkit.qtypes.search.preserving import HOLDERS, as_source, encode_preserving
from quantkit.source import open_source

SIDES = ("config.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json")
COMMON = {"q6_k": 31, "q3_k": 3, "q2_k": 3, "q4_k": 15, "q5_k": 31}  # one lattice for 256 weights, so many steps wide


def on_grid(name: str, seed: int, spread: float, rows: int = 3) -> np.ndarray:
    """Weights that a type can hold: what its bytes decode to, or a lattice for each of its blocks."""
    qtype, random = base.get(name), np.random.default_rng(seed)
    if name in COMMON:
        steps = np.float16(random.uniform(spread, 4 * spread, (rows, 2, 1))).astype(np.float32)
        top = COMMON[name] // 2
        return (steps * random.integers(-top, top + 1, (rows, 2, 256))).astype(np.float32).reshape(rows, 512)
    w = random.normal(0, spread, (rows, 512)).astype(np.float32)
    return qtype.decode(qtype.encode(w, None), 512)


@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", HOLDERS)
@settings(derandomize=True, max_examples=3, deadline=None)
@given(seed=st.integers(0, 1 << 30), spread=st.sampled_from([0.001, 0.03, 1.0, 40.0]))
def test_weights_on_a_grid_stay_what_they_are(name, source, seed, spread):
    """Decoded by ggml and rounded to the type of the source, every weight is what it was."""
    w = as_source(on_grid(name, seed, spread), source)
    raw, kept = encode_preserving(name, w, None, source)
    decoded = as_source(ggml.dequantize(base.get(name).gguf, raw, 512), source)
    blocks = (decoded == w).reshape(-1, base.get(name).block).all(axis=1)
    assert kept.exact == blocks.sum()
    # 8 bits of a type that has 8 bits: levels are told apart just so
    assert blocks.mean() >= (0.95 if (name, source) == ("q8_0", "BF16") else 1)
    assert (kept.weights, kept.zeros) == (w.size, (w == 0).sum())
    assert kept.zeros_kept == ((w == 0) & (decoded == 0)).sum()


@pytest.mark.parametrize("name", [n for n in base.names() if base.get(n).widen is None])
def test_what_is_on_no_grid_gets_the_bytes_of_its_encoder(name):
    w = as_source(weights.weights("gaussian", (4, 512)), "BF16")
    importance = weights.importances(512)["smooth"] if base.get(name).needs_importance else None
    raw, kept = encode_preserving(name, w, importance, "BF16")
    same = (raw == base.get(name).encode(w, importance)).reshape(-1, base.get(name).nbytes).all(axis=1)
    assert same.sum() >= same.size - kept.exact
    assert ggml.validate(base.get(name).gguf, raw)


@pytest.mark.parametrize("name", HOLDERS)
def test_hostile_blocks(name):
    """Zeros, minus zeros, one weight alone, the largest and the smallest numbers: bytes that ggml accepts."""
    size = base.get(name).block
    w = np.zeros((6, max(size, 256)), np.float32)
    w[1] = -0.0
    w[2, 3] = 1.5
    w[3, ::2] = 1e-38
    w[4] = 6e4 * np.sign(np.sin(np.arange(w.shape[1]) + 1))
    w[5, 0], w[5, 1] = 1e-45, 1
    raw, kept = encode_preserving(name, as_source(w, "BF16"), None, "BF16")
    assert ggml.validate(base.get(name).gguf, raw)
    assert kept.blocks == w.size // size
    if name != "iq4_nl":
        assert kept.zeros_kept >= 2 * w.shape[1]


Edit = Callable[[str, np.ndarray], np.ndarray]


def q4_grid(name: str, w: np.ndarray) -> np.ndarray:
    """Codes of four bits from -7 to 7 in groups of 32, as training with quantization has them: ggml divides by 8."""
    groups = w.reshape(-1, 32)
    scale = (np.abs(groups).max(axis=1, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    return (np.clip(np.rint(groups / scale), -7, 7) * scale).reshape(w.shape)


def ternary(name: str, w: np.ndarray) -> np.ndarray:
    return np.sign(w) * (np.abs(w) > 0.02) * np.float32(0.037)


def two_of_four(name: str, w: np.ndarray) -> np.ndarray:
    fours = w.reshape(-1, 4).copy()
    np.put_along_axis(fours, np.argsort(np.abs(fours), 1)[:, :2], 0, 1)
    return fours.reshape(w.shape)


def trained(folder: Path, edit: Edit) -> dict[str, np.ndarray]:
    """A model whose linear layers lie on a grid, or are pruned; their weights by name."""
    folder.mkdir(parents=True)
    source, tensors, values = open_source(str(MODEL)), [], {}
    for name, info in source.tensors().items():
        if ".layers." in name and ".layers.0." not in name:
            continue
        w = source.ref(name).read(0, info.rows).reshape(info.shape)
        if name.endswith("_proj.weight"):
            w = values[name] = as_source(np.ascontiguousarray(edit(name, w), np.float32), "BF16")
        tensors.append(plain_tensor(name, w))
    source.close()
    for side in SIDES:
        shutil.copyfile(MODEL / side, folder / side)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    write_tensors(folder / WEIGHTS, tensors)
    return values


def convert(folder: Path, recipe: str, *options: object) -> tuple[Any, Any, dict[str, np.ndarray]]:
    out = folder.parent / f"{recipe}.gguf"
    done = quantkit("convert", folder, "--to", recipe, "-o", out, *options)
    assert done.status == 0, done.stderr
    manifest = json.loads(out.with_name(f"{recipe}.manifest.json").read_text())
    decoded = {str(t.name): dequantize(t.data, t.tensor_type) for t in GGUFReader(out).tensors}
    return done, manifest, decoded


@pytest.mark.parametrize(
    ("edit", "recipe"),
    [(q4_grid, "q4_0"), (ternary, "q4_k_m"),
     *(pytest.param(ternary, name, marks=pytest.mark.slow) for name in ("q4_0", "tq2_0"))],
)  # fmt: skip
def test_a_grid_is_kept_and_reported(edit, recipe, tmp_path):
    values = trained(tmp_path / "m", edit)
    done, manifest, decoded = convert(tmp_path / "m", recipe, "--preserve")
    assert "bit for bit" in done.stderr
    for target, name in (("attn_v", "self_attn.v_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")):
        found = as_source(decoded[f"blk.0.{target}.weight"], "BF16")
        assert np.array_equal(found, values[f"model.layers.0.{name}.weight"]), target
    [said] = [one for one in manifest["preserved"] if one["name"] == "blk.0.ffn_up.weight"]
    expected = values["model.layers.0.mlp.up_proj.weight"]
    assert said["exact_blocks"] == said["blocks"] > 0
    assert said["zeros"] == said["zeros_kept"] == said["zeros_after"] == (expected == 0).sum()
    assert manifest["recipe"]["name"] == f"{recipe} --preserve"
    seen = quantkit("plan", tmp_path / "m", "--to", recipe, "--preserve", "--tensors")
    assert "lie on the grid of" in seen.stderr
    assert ", kept" in seen.stdout
    assert quantkit("verify", tmp_path / f"{recipe}.gguf", "--against", tmp_path / "m").status == 0


def test_without_the_option_nothing_changes(tmp_path):
    trained(tmp_path / "m", q4_grid)
    done, manifest, plain = convert(tmp_path / "m", "q4_0")
    assert "preserved" not in manifest
    assert "preserve" not in done.stderr
    _, _, kept = convert(tmp_path / "m", "q4_0", "--preserve", "--force")
    assert not np.array_equal(plain["blk.0.ffn_up.weight"], kept["blk.0.ffn_up.weight"])
    assert np.array_equal(plain["token_embd.weight"], kept["token_embd.weight"])


def test_a_type_that_cannot_hold_the_grid_is_named_with_one_that_can(tmp_path):
    trained(tmp_path / "m", q4_grid)
    seen = quantkit("plan", tmp_path / "m", "--to", "q4_k_m", "--preserve", "--tensors")
    assert seen.status == 0
    assert "which q4_k does not hold: --keep REGEX=q4_0 does" in seen.stderr
    assert "on the grid of q4_0, kept in 0% of blocks" in seen.stdout


def test_zeros_of_a_pruned_model_stay_zeros(tmp_path):
    values = trained(tmp_path / "m", two_of_four)
    done, manifest, decoded = convert(tmp_path / "m", "q4_0", "--preserve")
    assert "7 of them two in every four; their types keep all of 7" in done.stderr
    zeros = values["model.layers.0.mlp.down_proj.weight"] == 0
    assert zeros.mean() >= 0.5
    assert not decoded["blk.0.ffn_down.weight"][zeros].any()
    assert sum(one["zeros_kept"] for one in manifest["preserved"]) == sum((w == 0).sum() for w in values.values())
    lost = quantkit("plan", tmp_path / "m", "--to", "q4_k_s", "--preserve")
    assert "zeros do not all stay zeros in 7 tensors" in lost.stderr


def test_integers_in_groups_of_32_become_q4_0_without_loss(tmp_path):
    """As Kimi K2 Thinking is published: a scale in BF16 for each 32 weights is one that Q4_0 has."""
    values = quantized_model(tmp_path / "m", VARIANTS["packed-4-symmetric-g32"], layers=1)
    refused = quantkit("plan", tmp_path / "m", "--to", "q4_0", "--preserve")
    assert (refused.status, "--allow-requantize" in refused.stderr) == (4, True)
    _, manifest, decoded = convert(tmp_path / "m", "q4_0", "--preserve", "--allow-requantize")
    assert np.array_equal(decoded["blk.0.ffn_down.weight"], values["model.layers.0.mlp.down_proj.weight"])
    [said] = [one for one in manifest["preserved"] if one["name"] == "blk.0.ffn_gate.weight"]
    assert said["exact_blocks"] == said["blocks"]


@pytest.mark.parametrize("options", [("--to", "w4a16"), ("--to", "q4_0", "--calib", "default")])
def test_where_it_has_no_meaning_it_is_refused(options):
    refused = quantkit("plan", MODEL, "--preserve", *options)
    assert refused.status == 2
    assert "--preserve" in refused.stderr


@pytest.mark.slow
def test_bytes_are_those_of_any_number_of_threads_and_of_a_resumed_run(tmp_path):
    trained(tmp_path / "m", q4_grid)
    files = []
    for threads in (1, 3):
        out = tmp_path / f"{threads}" / "x.gguf"
        options = ("--to", "q4_0", "--preserve", "--threads", threads, "--no-verify", "-o", out)
        assert quantkit("convert", tmp_path / "m", *options).status == 0
        files.append(out.read_bytes())
        facts = json.loads(out.with_name("x.manifest.json").read_text())["preserved"]
        assert all(one["blocks"] for one in facts)
    assert files[0] == files[1]
