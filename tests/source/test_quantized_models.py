"""Whole models that are stored quantized: converted, inspected, run, and read by llama.cpp's converter too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import llama_folder as llama
import numpy as np
import pytest
from checkpoints import build
from commands import quantkit
from predictions import next_token_logits
from quantized_folder import (
    MODEL,
    VARIANTS,
    WEIGHTS,
    plain_tensor,
    quantized_model,
    round_weight,
    write_folder,
    write_tensors,
)

from quantkit.formats.containers.packed import values_of
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.source import open_source
from quantkit.source.memory import MemoryCheckpoint

ONE_OF_EACH = (
    "gptq-v1-4-symmetric-g32", "gptq-v2-8-asymmetric-g64-act", "awq-asymmetric-g32", "packed-4-asymmetric-g32",
    "int8-static", "fp8-channel-dynamic", "nvfp4", "mxfp4", "nf4-nested-64", "fp4-64", "llm-int8", "native-fp8",
    "modelopt-fp8-tensor",
)  # fmt: skip
# Rows of these stay where they are; those of q and k are put in the order of llama.cpp's rotary embedding.
UNMOVED = {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}


def bf16(values: np.ndarray) -> np.ndarray:
    return values_of(plain_tensor("w", values))


EIGHT_BITS = [
    "fp8-tensor-static", "fp8-channel-dynamic", "fp8-block-dynamic", "int8-dynamic", "int8-static", "llm-int8",
    "native-fp8", "modelopt-fp8-tensor", "gptq-v1-8-symmetric-g32", "gptq-v2-8-asymmetric-g64-act",
]  # fmt: skip


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_convert(name, tmp_path):
    folder, out = tmp_path / "model", tmp_path / "out.gguf"
    values = quantized_model(folder, VARIANTS[name], layers=2)
    if name not in EIGHT_BITS:
        refused = quantkit("convert", folder, "--to", "q8_0", "-o", out)
        assert refused.status == 4
        assert "quantized already" in refused.stderr
        assert "--allow-requantize" in refused.stderr
    decode = ["--allow-requantize"] if name == "nvfp4" else []  # without, its codes are carried over
    assert quantkit("convert", folder, "--to", "bf16", *decode, "-o", out).status == 0
    made = open_source(str(out))
    assert not [
        entry.key for entry in made.metadata if "quantization_config" in entry.key or "gptq" in str(entry.value)
    ]
    for layer in range(2):
        for target, source in UNMOVED.items():
            expected = bf16(values[f"model.layers.{layer}.{source}.weight"])
            assert np.array_equal(made.ref(f"blk.{layer}.{target}.weight").read(0, len(expected)), expected)
    made.close()
    again = quantkit("convert", folder, "--to", "q8_0", "--allow-requantize", "-o", tmp_path / "q8.gguf", "--no-verify")
    assert again.status == 0, again.stderr


@pytest.mark.parametrize(("model", "down"), [("qwen3-moe", "mlp.experts.{}.down_proj"),
                                             ("mixtral-4x1M", "block_sparse_moe.experts.{}.w2")])  # fmt: skip
@pytest.mark.parametrize("name", ["gptq-v1-4-symmetric-g32", "packed-8-symmetric-g32", "nf4-64"])
def test_experts_are_stacked_as_ever(model, down, name, tmp_path):
    values = quantized_model(tmp_path / "m", VARIANTS[name], build(model, tmp_path))
    out = tmp_path / "out.gguf"
    assert quantkit("convert", tmp_path / "m", "--to", "bf16", "-o", out, "--no-verify").status == 0
    made = open_source(str(out))
    stack = made.ref("blk.1.ffn_down_exps.weight")
    count, rows, cols = stack.info.shape
    found = stack.read(0, count * rows).reshape(count, rows, cols)
    for expert in range(count):
        assert np.array_equal(found[expert], bf16(values[f"model.layers.1.{down.format(expert)}.weight"]))
    made.close()


def test_the_order_of_reading_does_not_show(tmp_path):
    """The bytes are those of the decoded model, for one thread and for four."""
    values = quantized_model(tmp_path / "q", VARIANTS["gptq-v1-3-asymmetric-g64-act"])
    original = open_source(str(MODEL))
    plain = [
        plain_tensor(n, values[n], "F32")
        if n in values
        else plain_tensor(n, original.ref(n).read(0, i.rows).reshape(i.shape))
        for n, i in original.tensors().items()
    ]
    original.close()
    (tmp_path / "p").mkdir()
    for side in ("config.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / "p" / side).write_bytes((MODEL / side).read_bytes())
    write_tensors(tmp_path / "p" / WEIGHTS, plain)
    files = {}
    for run, folder, threads in (("p", "p", 1), ("q1", "q", 1), ("q4", "q", 4)):
        out = tmp_path / run / "model.gguf"
        options = ("--to", "q4_k_m", "--allow-requantize", "--threads", threads, "-o", out, "--no-verify")
        assert quantkit("convert", tmp_path / folder, *options).status == 0
        tensors = open_source(str(out))
        files[run] = {n: tensors.ref(n).read_packed(0, i.rows).tobytes() for n, i in tensors.tensors().items()}
        tensors.close()
    assert files["p"] == files["q1"] == files["q4"]


@pytest.mark.parametrize(
    ("name", "kind", "facts"),
    [
        (
            "gptq-v2-4-symmetric-g32",
            "gptq_v2 w4g32 symmetric",
            {"quant_method": "gptq", "bits": 4, "group_size": 32},
        ),
        ("packed-8-asymmetric-g-1", "compressed-tensors pack-quantized w8 asymmetric", {"format": "pack-quantized"}),
        ("nf4-nested-64", "bitsandbytes nf4 block 64 nested", {"quant_method": "bitsandbytes"}),
        ("modelopt-fp8-tensor", "modelopt fp8 tensor", {"quant_method": "modelopt"}),
    ],
)
def test_inspect(name, kind, facts, tmp_path):
    quantized_model(tmp_path / "m", VARIANTS[name])
    seen = quantkit("inspect", tmp_path / "m", "--json").json
    types = {row["type"]: row["tensors"] for row in seen["types"]}
    assert types == {kind: 28, "BF16": 10}
    said = {key: seen["metadata"][f"quantization_config.{key}"]["value"] for key in facts}
    assert said == facts
    assert kind in quantkit("inspect", tmp_path / "m", "--tensors").stdout


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_what_is_published_in_eight_bits_needs_no_permission(name, tmp_path):
    quantized_model(tmp_path / "m", VARIANTS[name], layers=1)
    for recipe in ("q4_k_m", "w8a16"):
        seen = quantkit("plan", tmp_path / "m", "--to", recipe)
        assert seen.status == 0, seen.stderr
        assert "stores its weights in 8 bits" in seen.stderr
    assert "8 bits" not in quantkit("plan", tmp_path / "m", "--to", "bf16").stderr


@pytest.mark.parametrize(("recipe", "rounded"), [("hf-bf16", bf16), ("hf-f16", lambda v: v.astype("f2").astype("f4"))])
@pytest.mark.parametrize("name", ["awq-asymmetric-g32", "native-fp8"])
def test_a_plain_checkpoint_can_be_had(name, recipe, rounded, tmp_path):
    """Without permission: nothing is quantized. The safetensors library and transformers read what is written."""
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    values = quantized_model(tmp_path / "m", VARIANTS[name], layers=1)
    done = quantkit("convert", tmp_path / "m", "--to", recipe, "-o", tmp_path / "out", "--max-shard-size", "1M")
    assert done.status == 0, done.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"quantization_config", "compression_config"} & set(config)
    assert config["dtype"] == {"hf-bf16": "bfloat16", "hf-f16": "float16"}[recipe]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors.index.json", "tokenizer.model", "generation_config.json", "SHA256SUMS"} <= names
    assert not {"quantize_config.json", "quant_config.json"} & names
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for weight, expected in values.items():
        assert np.array_equal(model[weight].float().numpy(), rounded(expected)), weight
    if recipe == "hf-f16":
        stored = {n: t for path in (tmp_path / "out").glob("*.safetensors") for n, t in load_file(path).items()}
        assert {str(t.dtype) for t in stored.values()} == {"float16"}
    again = quantkit("plan", tmp_path / "out", "--to", "w4a16")
    assert again.status == 0, again.stderr


def test_a_checkpoint_of_four_bits_becomes_another_with_permission(tmp_path):
    """Weights of the new checkpoint are those of the old one, rounded as its format rounds any others."""
    quantized_model(tmp_path / "m", VARIANTS["awq-asymmetric-g32"], layers=1)
    refused = quantkit("convert", tmp_path / "m", "--to", "w8a16", "-o", tmp_path / "out")
    assert refused.status == 4
    assert "--allow-requantize" in refused.stderr
    done = quantkit("convert", tmp_path / "m", "--to", "w8a16", "-o", tmp_path / "out", "--allow-requantize")
    assert done.status == 0, done.stderr
    before, after = open_source(str(tmp_path / "m")), open_source(str(tmp_path / "out"))
    assert set(before.tensors()) == set(after.tensors())
    for name, info in before.tensors().items():
        old, new = before.ref(name).read(0, info.rows), after.ref(name).read(0, info.rows)
        assert np.abs(old - new).max() <= np.abs(old).max() / 120, name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert not (tmp_path / "out" / "quantize_config.json").exists()


def test_plan(tmp_path):
    quantized_model(tmp_path / "m", VARIANTS["awq-asymmetric-g32"])
    assert quantkit("plan", tmp_path / "m", "--to", "q4_k_m").status == 4
    assert quantkit("plan", tmp_path / "m", "--to", "q4_k_m", "--allow-requantize").status == 0
    assert quantkit("plan", tmp_path / "m", "--to", "f16").status == 0


@pytest.mark.parametrize("name", ["gptq-v1-4-symmetric-g32", "nf4-nested-64", "fp8-channel-dynamic"])
def test_the_model_that_runs_is_the_decoded_one(name, tmp_path):
    values = quantized_model(tmp_path / "m", VARIANTS[name])
    quantized = open_source(str(tmp_path / "m"))
    original = open_source(str(MODEL))
    weights = {n: original.ref(n).read(0, i.rows).reshape(i.shape) for n, i in original.tensors().items()} | values
    decoded = MemoryCheckpoint(original.config, weights)
    contexts = [[1, 5, 77, 300], [1, 2000]]
    found = next_token_logits(quantized, contexts)
    assert np.array_equal(found, next_token_logits(decoded, contexts))
    assert not np.array_equal(found, next_token_logits(original, contexts))
    quantized.close()
    original.close()


def test_a_quantized_head_is_not_rounded_once_more(tmp_path):
    """Heads are kept in their stored type; that of a decoded one is float32."""
    from quantkit.calibration.walk.weights import stored_type

    quantized_model(tmp_path / "m", VARIANTS["awq-asymmetric-g32"])
    checkpoint = open_source(str(tmp_path / "m"))
    kinds = {str(stored_type(info)): info.stored_as for info in checkpoint.tensors().values()}
    assert kinds == {"torch.float32": "awq w4g32 asymmetric", "torch.bfloat16": None}
    checkpoint.close()


def test_what_a_checkpoint_said_of_its_quantization_does_not_go_along(tmp_path):
    quantized_model(tmp_path / "m", VARIANTS["gptq-v1-4-symmetric-g32"])
    checkpoint = open_source(str(tmp_path / "m"))
    assert {"config.json", "quantize_config.json"} <= {file.name for file in checkpoint.files()}
    assert "quantize_config.json" not in (*checkpoint.file_names(), *checkpoint.carried())
    assert checkpoint.read_file("quantize_config.json") is None
    assert (
        json.loads(checkpoint.read_file("config.json"))
        == checkpoint.config
        == json.loads((MODEL / "config.json").read_text())
    )
    checkpoint.unchanged()
    (tmp_path / "m" / "quantize_config.json").write_text("{}")
    with pytest.raises(Exception, match="changed"):
        checkpoint.unchanged()
    checkpoint.close()


def test_damage_that_shows_late_names_the_tensor(tmp_path):
    quantized_model(tmp_path / "m", VARIANTS["gptq-v1-4-symmetric-g32"])
    scales = "model.layers.2.mlp.up_proj.scales"
    entry = read_safetensors(tmp_path / "m" / WEIGHTS).tensors[scales]
    raw = bytearray((tmp_path / "m" / WEIGHTS).read_bytes())
    raw[entry.start : entry.start + 2] = b"\x00\x7e"
    (tmp_path / "m" / WEIGHTS).write_bytes(raw)
    outcome = quantkit("convert", tmp_path / "m", "--to", "bf16", "-o", tmp_path / "out.gguf")
    assert outcome.status == 3
    assert scales in outcome.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != "m"]


DEEP = """
import sys
from pathlib import Path
from quantkit import Output, Request, convert
request = Request(source=sys.argv[1], recipes=("q4_k_m",), allow_requantize=True)
convert(request, Output(out=Path(sys.argv[2]), threads=2, verify=False))
print(*(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
MEMORY_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 512,
    "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip


def peak_kib(folder: Path, name: str, layers: int) -> int:
    """Peak memory of converting a Llama of so many equal layers of 4.2 million weights."""
    variant = VARIANTS[name]
    config = {**MEMORY_CONFIG, "num_hidden_layers": layers}
    random = np.random.default_rng(0)
    linears = {n.removesuffix(".weight"): size for n, size in llama.shapes(config).items() if "_proj" in n}
    kinds = {size: round_weight(variant.layout, random.standard_normal(size, np.float32)) for size in linears.values()}
    rounded = {name: kinds[size] for name, size in linears.items()}
    others = [
        plain_tensor(n, np.ones(size, np.float32)) for n, size in llama.shapes(config).items() if "_proj" not in n
    ]
    write_folder(folder, variant, rounded, others, config)
    for side in ("tokenizer.model", "tokenizer_config.json"):
        (folder / side).write_bytes((MODEL / side).read_bytes())
    command = [sys.executable, "-c", DEEP, str(folder), str(folder.with_suffix(".gguf"))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gptq-v2-8-asymmetric-g64-act", "nf4-nested-64"])
def test_memory_does_not_grow_with_the_model(name, tmp_path):
    few, many = (peak_kib(tmp_path / f"{layers}", name, layers) for layers in (2, 14))
    assert many - few < 16 << 10  # twelve more layers are 200 MB of float32, 25 or 50 MB as they are stored
