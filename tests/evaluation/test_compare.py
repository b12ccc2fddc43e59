"""quantkit compare: what differs is found and nothing else, in every container, whoever stands on which side."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coded_folder import modelopt_nvfp4
from commands import TINY, quantkit
from gguf import GGUFReader
from gguf.quants import dequantize
from published import require
from quantized_folder import VARIANTS, quantized_model
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from quantkit.evaluation import comparison
from quantkit.formats.gguf.file import read_gguf

SERVERS = ("fp8", "nf4")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    for recipe in ("q8_0,q4_0", *SERVERS):
        out = folder if "q8_0" in recipe else folder / recipe
        assert quantkit("convert", TINY, "--to", recipe, "-o", out, "--no-verify", "-q").status == 0
    return folder


def gguf(made: Path, name: str) -> Path:
    return made / f"docs-llama-tiny-{name}.gguf"


def compare(a: Path, b: Path, *options: object) -> dict[str, Any]:
    found = quantkit("compare", a, b, "--json", *options)
    assert found.status == 0, found.stderr
    require(found.json)
    return found.json


def source_values(name: str) -> np.ndarray:
    with safe_open(TINY / "model.safetensors", "pt") as file:
        return file.get_tensor(name).float().numpy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(np.float64) - b).sum() / np.square(b.astype(np.float64)).sum())


def test_a_copy_is_equal(made: Path, tmp_path: Path) -> None:
    shutil.copy(gguf(made, "Q4_0"), tmp_path / "copy.gguf")
    shutil.copytree(made / "nf4", tmp_path / "nf4")
    for a, b in ((tmp_path / "copy.gguf", gguf(made, "Q4_0")), (tmp_path / "nf4", made / "nf4")):
        found = compare(a, b, "--exit-code")
        assert found["equal"] is True
        tensors = found["tensors"]
        assert (tensors["compared"], tensors["equal"], tensors["differing"]) == (38, 38, [])
        assert found["metadata"] == []
        assert found["tokenizer"] == {"equal": True, "difference": ""}


def test_errors_are_those_of_other_decoders(made: Path) -> None:
    """A GGUF file beside its source: the gguf package decodes, the safetensors package reads."""
    found = compare(gguf(made, "Q4_0"), TINY)
    errors = {each["name"]: each["relative_error"] for each in found["tensors"]["differing"]}
    stored = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(gguf(made, "Q4_0")).tensors}
    for here, there in (("blk.1.ffn_down.weight", "mlp.down_proj"), ("blk.1.attn_v.weight", "self_attn.v_proj")):
        name = f"model.layers.1.{there}.weight"
        assert errors[name] == pytest.approx(relative(stored[here], source_values(name)), rel=1e-6)
    # rows of attn_q and attn_k are stored in another order: put back, they are as near as others
    assert errors["model.layers.1.self_attn.q_proj.weight"] == pytest.approx(errors[name], rel=0.5)
    assert {each["a"]["type"] for each in found["tensors"]["differing"]} == {"q4_0", "q6_k", "f32"}
    assert found["equal"] is False


@pytest.mark.parametrize("recipe", SERVERS)
def test_every_container_beside_its_source_and_turned_round(made: Path, recipe: str) -> None:
    found, turned = compare(made / recipe, TINY), compare(TINY, made / recipe)
    assert (found["tensors"]["only_a"], found["tensors"]["only_b"]) == ([], [])
    errors = [each["relative_error"] for each in found["tensors"]["differing"]]
    assert len(errors) >= 28
    assert all(0 < error < 0.03 for error in errors)
    assert [row["tensors"] for row in turned["tensors"]["by_type"]] == [
        row["tensors"] for row in found["tensors"]["by_type"]
    ]
    assert {key["key"] for key in found["metadata"]} == {key["key"] for key in turned["metadata"]}
    assert any(key["key"].startswith("quantization_config.") and key["b"] is None for key in found["metadata"])


def test_a_file_beside_a_checkpoint_of_another_container(made: Path) -> None:
    found = compare(made / "fp8", gguf(made, "Q8_0"))
    assert found["tensors"]["compared"] == 38
    types = {(row["a"], row["b"]) for row in found["tensors"]["by_type"]}
    assert ("bf16", "f32") in types
    [fp8] = [row for row in found["tensors"]["by_type"] if row["b"] == "q8_0" and row["tensors"] == 28]
    assert 1e-4 < fp8["relative_error"] < 2e-3
    assert found["tokenizer"]["equal"] is True


def test_one_bit_is_found(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "bit.gguf"
    data = bytearray(gguf(made, "Q8_0").read_bytes())
    [target] = [t for t in read_gguf(gguf(made, "Q8_0")).tensors if t.name == "blk.2.ffn_up.weight"]
    data[target.offset + 100] ^= 1
    path.write_bytes(data)
    found = compare(path, gguf(made, "Q8_0"))
    [only] = found["tensors"]["differing"]
    assert (only["name"], only["same_bytes"]) == ("blk.2.ffn_up.weight", False)
    assert 0 < only["relative_error"] < 1e-6
    differing = quantkit("compare", path, gguf(made, "Q8_0"), "--exit-code")
    assert (differing.status, "1 tensor of both" in differing.stderr) == (7, True)
    folder = tmp_path / "nf4"
    shutil.copytree(made / "nf4", folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    name = next(name for name in header if name.endswith("layers.3.mlp.up_proj.weight"))
    weights[8 + length + header[name]["data_offsets"][0] + 5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    found = compare(folder, made / "nf4")
    assert [each["name"] for each in found["tensors"]["differing"]] == ["model.layers.3.mlp.up_proj.weight"]


def test_names_shapes_keys_and_tokens_that_differ(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    with safe_open(TINY / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118 - no mapping
    tensors["model.layers.0.mlp.extra<b>.weight"] = np.ones((4, 4), np.float32)
    del tensors["model.norm.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = np.ones((3, 5), np.float32)
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"rms_norm_eps": 1e-6, "added": {"deep": [1, 2]}, "\x1b[31mred\u202e": "\x07"}
    (folder / "config.json").write_text(json.dumps(config))
    body = json.loads((folder / "tokenizer.json").read_text())
    words = body["model"]["vocab"]
    one, two = (next(k for k, v in words.items() if v == n) for n in (700, 701))
    words[one], words[two] = 701, 700
    (folder / "tokenizer.json").write_text(json.dumps(body))
    (folder / "tokenizer.model").unlink()
    found = compare(folder, TINY)
    assert found["tensors"]["only_a"] == ["model.layers.0.mlp.extra<b>.weight"]
    assert found["tensors"]["only_b"] == ["model.norm.weight"]
    differing = {each["name"]: each for each in found["tensors"]["differing"]}
    assert differing["model.layers.1.mlp.up_proj.weight"]["a"]["shape"] == [3, 5]
    assert differing["model.layers.1.mlp.up_proj.weight"]["relative_error"] is None
    assert differing["model.layers.2.mlp.up_proj.weight"]["relative_error"] is None  # NaN is no number
    assert differing["model.layers.3.mlp.up_proj.weight"]["relative_error"] == 0  # BF16 and F32 of the same values
    keys = {key["key"]: (key["a"], key["b"]) for key in found["metadata"]}
    assert keys["rms_norm_eps"] == ("1e-06", "1e-05")
    assert keys["added.deep"] == ("[1, 2]", None)
    assert "token 700 is" in found["tokenizer"]["difference"]
    shown = quantkit("compare", folder, TINY).stdout
    assert "\\x1b[31mred\\u202e" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_lines_fit_the_terminal(made: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for a, b in ((gguf(made, "Q4_0"), TINY), (made / "nf4", made / "fp8")):
        found = quantkit("compare", a, b)
        assert found.status == 0
        assert max(map(len, found.stdout.splitlines())) <= columns
        assert found.stdout.splitlines()[-1] == "equal: no"


def test_the_same_for_any_threads_and_slabs(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = (gguf(made, "Q4_0"), TINY)
    first = compare(*pair, "--threads", 1)
    again = compare(*pair, "--threads", 3)
    assert first | {"seconds": 0} == again | {"seconds": 0}
    reads: list[int] = []
    plain = comparison.compare

    def noting(name: str, kind: str, source: Any, decoded: Any) -> Any:
        reads.append(source.size)
        return plain(name, kind, source, decoded)

    monkeypatch.setattr(comparison, "SLAB_WEIGHTS", 10_000)
    monkeypatch.setattr(comparison, "compare", noting)
    small = compare(*pair, "--threads", 1)
    assert max(reads) <= 10_000
    for one, two in zip(first["tensors"]["differing"], small["tensors"]["differing"], strict=True):
        assert one["relative_error"] == pytest.approx(two["relative_error"], rel=1e-9)


def test_what_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copy(gguf(made, "Q4_0"), tmp_path / "cut.gguf")
    with (tmp_path / "cut.gguf").open("r+b") as file:
        file.truncate(5000)
    for status, said, a, b in (
        (2, "beside itself", TINY, TINY),
        (3, "does not exist", tmp_path / "none.gguf", TINY),
        (3, "cut.gguf", tmp_path / "cut.gguf", TINY),
        (2, "one file of a checkpoint", TINY / "model.safetensors", gguf(made, "Q4_0")),
    ):
        found = quantkit("compare", a, b)
        assert (found.status, said in found.stderr) == (status, True), found.stderr


def test_text_side_by_side(made: Path) -> None:
    """Greedy text of transformers itself is that of the source; a copy in eight bits parts from it late."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = "The server reads"
    options = ("--prompt", prompt, "--tokens", 12)
    found = compare(gguf(made, "Q4_0"), TINY, *options)
    [text] = found["text"]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")
    whole = model.generate(**ids, max_new_tokens=12, do_sample=False)[0]
    assert text["b"] == tokenizer.decode(whole)[len(tokenizer.decode(ids["input_ids"][0])) :]
    assert (text["prompt"], text["b_tokens"]) == (prompt, 12)
    assert text["equal"] == (text["a"] == text["b"])
    turned = compare(TINY, gguf(made, "Q4_0"), *options)["text"][0]
    assert (turned["a"], turned["b"], turned["same_tokens"]) == (text["b"], text["a"], text["same_tokens"])
    both = compare(gguf(made, "Q4_0"), gguf(made, "Q8_0"), *options, "--against", TINY)["text"][0]
    assert both["a"] == text["a"]
    shown = quantkit("compare", made / "nf4", made / "fp8", *options).stdout
    assert f"prompt: {prompt}" in shown
    assert "the same for" in shown or "both:" in shown


def test_text_that_cannot_be_compared_is_refused(made: Path) -> None:
    found = quantkit("compare", gguf(made, "Q4_0"), gguf(made, "Q8_0"), "--text")
    assert (found.status, "--against SRC" in found.stderr) == (2, True)
    found = quantkit("compare", gguf(made, "Q4_0"), TINY, "--prompt", "")
    assert (found.status, "has no token to continue" in found.stderr) == (3, True)


def test_factors_beside_codes_count_as_their_weights_do(tmp_path: Path) -> None:
    """Codes that were carried over, times their factors, are what decoded weights are; another factor is another
    weight, whatever the codes."""
    source = modelopt_nvfp4(tmp_path / "nvfp4", layers=2)
    for name, more in (("codes", ()), ("decoded", ("--allow-requantize",))):
        done = quantkit("convert", source, "--to", "f32", *more, "-o", tmp_path / f"{name}.gguf", "--no-verify")
        assert done.status == 0, done.stderr
    found = compare(tmp_path / "codes.gguf", tmp_path / "decoded.gguf")["tensors"]
    errors = {each["name"]: each["relative_error"] for each in found["differing"] if each["a"]["type"] == "nvfp4"}
    assert len(errors) >= 14
    assert max(errors.values()) < 1e-12  # products of two and of three numbers
    assert found["only_b"] == []
    assert found["only_a"] != []
    assert all(name.endswith(".input_scale") for name in found["only_a"])
    shutil.copy(tmp_path / "codes.gguf", tmp_path / "other.gguf")
    changed = GGUFReader(tmp_path / "other.gguf", "r+")
    for end, value in ((".scale", 2.0), (".input_scale", 3.0)):
        next(t for t in changed.tensors if t.name == f"blk.1.attn_k{end}").data[:] *= value
    changed.data.flush()
    found = compare(tmp_path / "other.gguf", tmp_path / "codes.gguf")["tensors"]
    errors = {each["name"]: (each["same_bytes"], each["relative_error"]) for each in found["differing"]}
    assert errors == {"blk.1.attn_k.weight": (False, 1.0), "blk.1.attn_k.input_scale": (False, 4.0)}


def test_scales_of_activations_are_compared_as_they_are(tmp_path: Path) -> None:
    """No weight is made of them, and the model predicts otherwise with others."""
    quantized_model(tmp_path / "a", VARIANTS["fp8-tensor-static"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert compare(tmp_path / "a", tmp_path / "b")["equal"]
    path, module = tmp_path / "b" / "model.safetensors", "model.layers.1.mlp.up_proj"
    tensors = load_file(path)
    for end in (".input_scale", ".weight_scale"):
        tensors[module + end] *= 2
    save_torch(tensors, path, {"format": "pt"})
    found = compare(tmp_path / "b", tmp_path / "a")["tensors"]
    errors = {each["name"]: each["relative_error"] for each in found["differing"]}
    assert errors == {f"{module}.input_scale": 1.0, f"{module}.weight": 1.0}
