"""Published four-bit floats in a GGUF file: the same codes and scales, factors beside them, the same predictions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from adapters import Lora, make_adapter, merged
from coded_folder import gpt_oss, modelopt_nvfp4, say, stored_tensors
from commands import quantkit
from gguf import GGUFReader, dequantize
from oracles import ggml
from quantized_folder import MODEL, VARIANTS, WEIGHTS, quantized_model, write_tensors

from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.formats.containers.packed import values_of as stored_values
from quantkit.source import open_source

PRE = ("--pre", checkpoints.PRE)
EXPERTS = "model.layers.1.mlp.experts"
TOKENS = [5, 9, 33, 120, 77, 8, 201, 64, 12, 300, 41, 6]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    return gpt_oss(tmp_path_factory.mktemp("gpt-oss"))


@pytest.fixture(scope="module")
def nvfp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return modelopt_nvfp4(tmp_path_factory.mktemp("nvfp4") / "model", layers=2)


def tensors_of(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    return {str(t.name): (t.tensor_type.name, np.array(t.data)) for t in GGUFReader(path).tensors}


def keys_of(path: Path) -> dict[str, object]:
    return {key: field.contents() for key, field in GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


def values_of(path: Path, name: str) -> np.ndarray:
    """A tensor as the graph sees it, decoded by the gguf package."""
    found = {str(t.name): t for t in GGUFReader(path).tensors}
    decoded = dequantize(found[name].data, found[name].tensor_type)
    factors = found.get(name.replace(".weight", ".scale"))
    return decoded if factors is None else decoded * factors.data.reshape(-1, *[1] * (decoded.ndim - 1))


def logits(path: Path) -> np.ndarray:
    with ggml.Model(path) as model:
        return model.logits(TOKENS)


def divergence(found: np.ndarray, expected: np.ndarray) -> float:
    """Kullback-Leibler divergence of next-token distributions, the mean over the context."""
    p, q = (x - x.max(-1, keepdims=True) for x in (expected.astype(np.float64), found.astype(np.float64)))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


# --- MXFP4 -----------------------------------------------------------------------------------------------------------


def test_a_stack_reads_as_the_plain_checkpoint_has_it(published):
    folder, values = published
    source = open_source(str(folder))
    for name, expected in values.items():
        info = source.tensors()[name]
        assert info.shape == expected.shape
        rows = expected.reshape(-1, info.cols)
        for start, stop in ((0, info.rows), (3, 4), (info.shape[1] - 1, info.shape[1] + 1), (5, info.rows - 7)):
            assert np.array_equal(source.ref(name).read(start, stop), rows[start:stop])
    source.close()


@pytest.mark.parametrize(
    "recipe", ["bf16", "mxfp4_moe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("f16", "f32"))]
)
def test_codes_and_scales_of_experts_stay_bit_for_bit(recipe, published, tmp_path):
    folder, values = published
    done = quantkit("convert", folder, "--to", recipe, *PRE, "-o", tmp_path / "out.gguf")
    assert done.status == 0, done.stderr
    assert "12 tensors (98,304 weights) are carried over, lossless" in done.stderr
    stored, made = stored_tensors(folder), tensors_of(tmp_path / "out.gguf")
    for layer in range(4):
        for target, source, step in (("gate", "gate_up", 0), ("up", "gate_up", 1), ("down", "down", None)):
            blocks, scales = (
                stored[f"model.layers.{layer}.mlp.experts.{source}_proj_{kind}"] for kind in ("blocks", "scales")
            )
            raw = blocks.data.reshape(blocks.entry.shape)
            codes = np.stack([raw & 15, raw >> 4], axis=4).reshape(*raw.shape[:3], 32)  # the even element is low
            halves = codes[..., :16] | codes[..., 16:] << 4
            expected = np.concatenate([scales.data.reshape(*raw.shape[:3], 1), halves], axis=3)
            expected = expected.reshape(*raw.shape[:2], -1)[:, slice(step, None, 1 if step is None else 2)]
            kind, found = made[f"blk.{layer}.ffn_{target}_exps.weight"]
            assert kind == "MXFP4"
            assert np.array_equal(found, expected)
    assert keys_of(tmp_path / "out.gguf")["general.file_type"] == 38
    down = values_of(tmp_path / "out.gguf", "blk.2.ffn_down_exps.weight")
    assert np.array_equal(down, values["model.layers.2.mlp.experts.down_proj"].transpose(0, 2, 1))


def test_files_with_factors_are_turned_back(nvfp4, tmp_path):
    """The weights of the checkpoint are codes times factors; scales of inputs have no place there, and are told of."""
    file, out = tmp_path / "file.gguf", tmp_path / "back"
    assert quantkit("convert", nvfp4, "--to", "bf16", "-o", file, "--no-verify").status == 0
    assert {"blk.0.attn_k.scale", "blk.0.attn_k.input_scale"} <= tensors_of(file).keys()
    done = quantkit("convert", file, "--to", "hf-f32", "-o", out)
    assert done.status == 0, done.stderr
    assert "warning[not-restored]: files of the checkpoint do not say 14 static scales of inputs" in done.stderr
    source, back = open_source(str(nvfp4)), open_source(str(out))
    assert back.tensors().keys() == source.tensors().keys()
    for name, info in source.tensors().items():
        expected, found = (each.ref(name).read(0, info.rows) for each in (source, back))
        np.testing.assert_allclose(found, expected, rtol=3e-7, atol=0, err_msg=name)  # products of two and three
    source.close()
    back.close()
    assert quantkit("verify", out, "--against", file).status == 0


def test_a_file_with_codes_is_turned_back_to_its_values(published, tmp_path):
    folder, values = published
    file, out = tmp_path / "file.gguf", tmp_path / "back"
    assert quantkit("convert", folder, "--to", "bf16", *PRE, "-o", file, "--no-verify").status == 0
    assert quantkit("convert", file, "--to", "hf-bf16", "-o", out).status == 0
    back = open_source(str(out))
    for name, expected in values.items():
        found = back.ref(name).read(0, back.tensors()[name].rows).reshape(expected.shape)
        assert np.array_equal(found, expected), name
    back.close()


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan])
def test_a_factor_that_is_none_is_named(factor, nvfp4, tmp_path):
    file = tmp_path / "file.gguf"
    assert quantkit("convert", nvfp4, "--to", "bf16", "-o", file, "--no-verify").status == 0
    reader = GGUFReader(file, "r+")
    next(t for t in reader.tensors if t.name == "blk.1.attn_k.scale").data[:] = factor
    reader.data.flush()
    done = quantkit("convert", file, "--to", "hf-bf16", "-o", tmp_path / "out")
    assert (done.status, 'tensor "blk.1.attn_k.scale"' in done.stderr) == (3, True), done.stderr


def weights_of_one(folder: Path, name: str) -> dict[str, np.ndarray]:
    source = open_source(str(folder))
    found = {name: source.ref(name).read(0, source.tensors()[name].rows)}
    source.close()
    return found


def test_an_adapter_decodes_what_it_changes_and_no_more(nvfp4, tmp_path):
    """Merged weights have none of the base's codes; all others are carried over as without an adapter."""
    weight = "model.layers.0.self_attn.q_proj.weight"
    base = weights_of_one(nvfp4, weight)
    adapter = make_adapter(tmp_path / "adapter", base, Lora(modules=("q_proj",)))
    out = tmp_path / "merged.gguf"
    done = quantkit("convert", nvfp4, "--to", "f32", "--adapter", adapter, "-o", out)
    assert done.status == 0, done.stderr
    expected = merged(base, [(adapter, Lora(modules=("q_proj",)))])[weight]
    name = "blk.0.attn_q.weight"
    kinds = {target: kind for target, (kind, _) in tensors_of(out).items() if target.startswith("blk.")}
    assert kinds[name] == "F32"
    assert "blk.0.attn_q.scale" not in kinds
    assert {kinds[target] for target in kinds if target.endswith("_k.weight")} == {"NVFP4"}
    heads = 4
    rows = values_of(out, name).reshape(heads, -1, 2, expected.shape[1]).swapaxes(1, 2).reshape(expected.shape)
    np.testing.assert_allclose(rows, expected, rtol=3e-7, atol=1e-8)


def test_a_quantized_base_with_an_adapter_is_no_original(nvfp4, tmp_path):
    embedding = weights_of_one(nvfp4, "model.embed_tokens.weight")
    adapter = make_adapter(tmp_path / "adapter", embedding, Lora(embedding=True))
    made = tmp_path / "made.gguf"
    assert quantkit("convert", nvfp4, "--to", "bf16", "--adapter", adapter, "-o", made, "--no-verify").status == 0
    (tmp_path / "t.txt").write_text("The harbour was quiet in the morning. " * 50)
    text = ("--data", tmp_path / "t.txt", "--adapter", adapter, "--window", 64)
    seen = quantkit("eval", made, "--against", nvfp4, *text)
    assert (seen.status, "is quantized itself" in seen.stderr) == (2, True)
    asked = quantkit("eval", made, "--against-quantized", nvfp4, *text, "--json")
    assert asked.status == 0, asked.stderr
    assert asked.json["reference"]["quantized"] is True


@pytest.mark.slow
def test_other_types_ask_for_the_flag_and_then_grow(published, tmp_path):
    folder, values = published
    refused = quantkit("plan", folder, "--to", "q4_k_m", *PRE)
    assert (refused.status, "quantized already" in refused.stderr) == (4, True)
    assert "--keep REGEX=mxfp4 carries tensors over" in refused.stderr
    kept = quantkit("plan", folder, "--to", "q8_0", "--keep", "_exps.weight=mxfp4", *PRE, "--json")
    assert kept.status == 0, kept.stderr
    out = tmp_path / "out"
    done = quantkit("convert", folder, "--to", "f32,q8_0,mxfp4_moe", "--allow-requantize", *PRE, "-o", out)
    assert done.status == 0, done.stderr
    types = {path.stem.split("-")[-1]: tensors_of(path)["blk.1.ffn_up_exps.weight"][0] for path in out.glob("*.gguf")}
    assert types == {"F32": "F32", "Q8_0": "Q8_0", "MXFP4_MOE": "MXFP4"}
    [decoded] = out.glob("*-F32.gguf")
    up = values_of(decoded, "blk.1.ffn_up_exps.weight")
    assert np.array_equal(up, values[f"{EXPERTS}.gate_up_proj"].transpose(0, 2, 1)[:, 1::2])


def test_an_option_that_names_a_tensor_decodes_it(published):
    folder, _ = published
    seen = quantkit("plan", folder, "--to", "bf16", "--keep", "blk.0.*_exps=f16", *PRE, "--json").json
    types = {t["name"]: t["type"] for t in seen["plans"][0]["tensors"]}
    assert types["blk.0.ffn_up_exps.weight"] == "f16"
    assert types["blk.1.ffn_up_exps.weight"] == "mxfp4"


@pytest.mark.parametrize("recipe", ["w4a16", "fp8"])
def test_servers_get_experts_as_floats_where_that_is_accepted(recipe, published):
    folder, _ = published
    refused = quantkit("plan", folder, "--to", recipe)
    assert refused.status == 4
    assert "the source is quantized already" in refused.stderr
    planned = quantkit("plan", folder, "--to", recipe, "--allow-requantize", "--json")
    assert "no loader takes single experts" in planned.stderr
    types = {t["name"]: t["type"] for t in planned.json["plans"][0]["tensors"]}
    assert {types[name] for name in types if ".experts." in name} == {"bf16"}
    assert {types[name] for name in types if ".q_proj.weight" in name} != {"bf16"}


def test_a_plain_checkpoint_is_made_of_it(published, tmp_path):
    """Of a family whose layers are not run here as well: every value is that of the codes, which bfloat16 holds."""
    folder, values = published
    done = quantkit("convert", folder, "--to", "hf-bf16", "-o", tmp_path / "plain")
    assert done.status == 0, done.stderr
    made = open_source(str(tmp_path / "plain"))
    for name, expected in values.items():
        info = made.tensors()[name]
        assert (info.dtype, info.shape) == ("BF16", expected.shape)
        assert np.array_equal(made.ref(name).read(0, info.rows).reshape(info.shape), expected)
    made.close()
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


@pytest.mark.slow
def test_bytes_do_not_depend_on_threads_or_on_other_files_of_the_run(published, tmp_path):
    folder, _ = published
    for threads, recipes in ((1, "bf16"), (3, "mxfp4_moe,bf16")):
        done = quantkit(
            "convert", folder, "--to", recipes, *PRE, "--threads", threads, "--no-verify", "-o",
            tmp_path / "one.gguf" if threads == 1 else tmp_path / "many",
        )  # fmt: skip
        assert done.status == 0, done.stderr
    [other] = (tmp_path / "many").glob("*-BF16.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == other.read_bytes()


Damage = Callable[[dict[str, PackedTensor]], None]


def changed(name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(tensors: dict[str, PackedTensor]) -> None:
        values = edit(stored_values(tensors[name]).copy())
        tensors[name] = packed(Entry(name, tensors[name].entry.dtype, values.shape), values)

    return damage


def gone(name: str) -> Damage:
    return lambda tensors: tensors.pop(name) and None


def with_byte(index: int, byte: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        values.reshape(-1)[index] = byte
        return values

    return edit


def doubled(tensors: dict[str, PackedTensor]) -> None:
    values = np.zeros((4, 64, 64), np.uint8).astype(np.float32)
    tensors[f"{EXPERTS}.gate_up_proj"] = packed(Entry(f"{EXPERTS}.gate_up_proj", "BF16", values.shape), values)


DAMAGES = {
    "no scales": (gone(f"{EXPERTS}.down_proj_scales"), 'no tensor "model.layers.1.mlp.experts.down_proj_scales"'),
    "no blocks": (gone(f"{EXPERTS}.down_proj_blocks"), 'no tensor "model.layers.1.mlp.experts.down_proj_blocks"'),
    "another grid": (changed(f"{EXPERTS}.gate_up_proj_scales", lambda v: v[:, :, :1]), "expected [4, 64, 2]"),
    "half a group": (changed(f"{EXPERTS}.gate_up_proj_blocks", lambda v: v[..., :8]), "groups of 16 bytes"),
    "a matrix": (changed(f"{EXPERTS}.gate_up_proj_blocks", lambda v: v.reshape(4, 64, 32)), "expected 4 axes"),
    "no number": (changed(f"{EXPERTS}.down_proj_scales", with_byte(7, 255)), "is not a number (byte 0xFF)"),
    "twice": (doubled, "is stored twice"),
    "other experts": (
        lambda tensors: (
            [changed(f"{EXPERTS}.down_proj_{k}", lambda v: v[:3])(tensors) for k in ("blocks", "scales")] and None
        ),
        "down_proj",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_stack_is_named(name, published, tmp_path):
    damage, said = DAMAGES[name]
    shutil.copytree(published[0], tmp_path / "m")
    tensors = stored_tensors(tmp_path / "m")
    damage(tensors)
    write_tensors(tmp_path / "m" / WEIGHTS, tensors.values())
    failed = quantkit("convert", tmp_path / "m", "--to", "bf16", *PRE, "-o", tmp_path / "out.gguf")
    assert failed.status in (3, 4), failed.stderr
    assert said in failed.stderr
    assert not (tmp_path / "out.gguf").exists()


# --- NVFP4 -----------------------------------------------------------------------------------------------------------


def test_nvfp4_keeps_its_bits_and_brings_its_factors(nvfp4, tmp_path):
    done = quantkit("convert", nvfp4, "--to", "bf16", "-o", tmp_path / "out.gguf")
    assert done.status == 0, done.stderr
    stored, made = stored_tensors(nvfp4), tensors_of(tmp_path / "out.gguf")
    module = "model.layers.1.mlp.down_proj"
    raw = stored[f"{module}.weight"].data.reshape(256, -1, 4, 8)  # four groups of sixteen
    codes = np.stack([raw & 15, raw >> 4], axis=4).reshape(*raw.shape[:3], 16)
    halves = (codes[..., :8] | codes[..., 8:] << 4).reshape(*raw.shape[:2], 32)
    scales = stored[f"{module}.weight_scale"].data.reshape(*raw.shape[:2], 4)
    expected = np.concatenate([scales, halves], axis=2).reshape(256, -1)
    assert made["blk.1.ffn_down.weight"][0] == "NVFP4"
    assert np.array_equal(made["blk.1.ffn_down.weight"][1], expected)
    for target, source in (("scale", "weight_scale_2"), ("input_scale", "input_scale")):
        assert made[f"blk.1.ffn_down.{target}"][1].tobytes() == stored[f"{module}.{source}"].data.tobytes()
    assert keys_of(tmp_path / "out.gguf")["general.file_type"] == 39


def test_llama_cpp_multiplies_by_the_factors(nvfp4, tmp_path):
    for name, options in (("carried", ()), ("decoded", ("--allow-requantize",))):
        done = quantkit("convert", nvfp4, "--to", "f32", "-o", tmp_path / f"{name}.gguf", *options)
        assert done.status == 0, done.stderr
    carried, decoded = tmp_path / "carried.gguf", tmp_path / "decoded.gguf"
    assert {kind for kind, _ in tensors_of(decoded).values()} == {"F32"}
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_up.weight"):
        assert np.allclose(values_of(carried, name), values_of(decoded, name), rtol=1e-6, atol=0)
    assert divergence(logits(carried), logits(decoded)) < 2e-3
    checked = quantkit("verify", carried, "--against", nvfp4, "--engine", "llama.cpp", "--json").json
    assert checked["ok"], checked


def test_a_wrong_factor_does_not_pass_verification(nvfp4, tmp_path):
    path = tmp_path / "out.gguf"
    assert quantkit("convert", nvfp4, "--to", "bf16", "-o", path, "--no-verify").status == 0
    [found] = [t for t in GGUFReader(path).tensors if t.name == "blk.0.attn_k.scale"]
    raw = bytearray(path.read_bytes())
    raw[found.data_offset : found.data_offset + 4] = np.float32(found.data[0] * 1.001).tobytes()
    path.write_bytes(raw)
    failed = quantkit("verify", path, "--against", nvfp4)
    assert failed.status != 0
    assert "blk.0.attn_k.weight" in failed.stdout + failed.stderr


def test_where_the_graph_ignores_factors_weights_are_decoded(nvfp4, tmp_path):
    """llama.cpp multiplies in the attention of Qwen2, and not in its MLP: a file with factors there would be wrong."""
    folder = tmp_path / "m"
    modelopt_nvfp4(folder, _with_rows_of_64(tmp_path / "plain", "qwen2-tied"))
    done = quantkit("convert", folder, "--to", "bf16", *PRE, "-o", tmp_path / "out.gguf")
    assert done.status == 0, done.stderr
    assert "llama.cpp's graph of qwen2 ignores the factors of blk.0.ffn_down.weight" in done.stderr
    made = tensors_of(tmp_path / "out.gguf")
    assert (made["blk.0.attn_q.weight"][0], made["blk.0.ffn_up.weight"][0]) == ("NVFP4", "BF16")
    assert "blk.0.ffn_up.scale" not in made
    done = quantkit("convert", folder, "--to", "f32", *PRE, "--allow-requantize", "-o", tmp_path / "f32.gguf")
    assert divergence(logits(tmp_path / "out.gguf"), logits(tmp_path / "f32.gguf")) < 2e-3


def _with_rows_of_64(folder: Path, name: str) -> Path:
    sizes = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32, "moe_intermediate_size": 64}
    variant = checkpoints.VARIANTS[name]
    config = {**variant.config, **{k: v for k, v in sizes.items() if k in variant.config or "moe" not in k}}
    return checkpoints.build_variant(replace(variant, config=config), folder)


NVFP4_DAMAGES = {
    "no scales": (gone("model.layers.1.mlp.down_proj.weight_scale"), "weight_scale"),
    "no factor": (gone("model.layers.1.mlp.down_proj.weight_scale_2"), "weight_scale_2"),
    "NaN": (changed("model.layers.1.mlp.down_proj.weight_scale", with_byte(5, 0x7F)), "not a number"),
    "negative": (changed("model.layers.1.mlp.down_proj.weight_scale", with_byte(5, 0xB8)), "negative"),
    "zero factor": (
        changed("model.layers.0.mlp.up_proj.weight_scale_2", lambda v: np.zeros((), np.float32)), "one positive number"
    ),
    "NaN factor": (
        changed("model.layers.0.mlp.up_proj.weight_scale_2", lambda v: np.full((), np.nan, np.float32)),
        "one positive number",
    ),
    "infinite inputs": (
        changed("model.layers.0.mlp.up_proj.input_scale", lambda v: np.full((), np.inf, np.float32)),
        "one positive number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NVFP4_DAMAGES)
def test_damaged_nvfp4_is_named(name, nvfp4, tmp_path):
    damage, said = NVFP4_DAMAGES[name]
    shutil.copytree(nvfp4, tmp_path / "m")
    tensors = stored_tensors(tmp_path / "m")
    damage(tensors)
    write_tensors(tmp_path / "m" / WEIGHTS, tensors.values())
    failed = quantkit("convert", tmp_path / "m", "--to", "bf16", "-o", tmp_path / "out.gguf")
    assert failed.status in (3, 4), failed.stderr
    assert said in failed.stderr


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.slow
def test_files_are_those_of_the_reference(published, nvfp4, tmp_path):
    """Every tensor byte for byte, and every key: published MXFP4, NVFP4 of both writers, and a mixture of experts."""
    folders = {"gpt-oss": published[0], "modelopt": nvfp4}
    folders["pair"] = tmp_path / "pair"
    quantized_model(folders["pair"], VARIANTS["nvfp4"], MODEL, 1)
    folders["experts"] = modelopt_nvfp4(
        tmp_path / "experts", _with_rows_of_64(tmp_path / "plain", "qwen3-moe"), algorithm="W4A16_NVFP4"
    )
    jobs = []
    for name, folder in folders.items():
        bpe = (folder / "tokenizer.json").exists()
        done = quantkit("convert", folder, "--to", "bf16", *(PRE if bpe else ()), "-o", tmp_path / f"{name}.gguf")
        assert done.status == 0, done.stderr
        jobs.append([str(folder), str(tmp_path / f"{name}.ref.gguf"), "auto", checkpoints.PRE if bpe else None])
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in folders:
        found, expected = (tensors_of(tmp_path / f"{name}{end}") for end in (".gguf", ".ref.gguf"))
        assert found.keys() == expected.keys(), name
        for tensor, (kind, data) in expected.items():
            assert found[tensor][0] == kind, (name, tensor)
            assert np.array_equal(found[tensor][1], data), (name, tensor)
        own, said = keys_of(tmp_path / f"{name}.gguf"), keys_of(tmp_path / f"{name}.ref.gguf")
        assert {k: v for k, v in own.items() if not k.startswith("quantkit.")} == said, name


@pytest.mark.slow
def test_llama_cpp_predicts_what_transformers_does(published, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, Mxfp4Config

    folder, _ = published
    done = quantkit("convert", folder, "--to", "bf16", *PRE, "-o", tmp_path / "out.gguf")
    assert done.status == 0, done.stderr
    how = Mxfp4Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=how, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert divergence(logits(tmp_path / "out.gguf"), expected) < 1e-4


def test_a_folder_that_says_nothing_of_its_stacks_is_read(published, tmp_path):
    shutil.copytree(published[0], tmp_path / "m")
    say(tmp_path / "m", {})
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    seen = quantkit("plan", tmp_path / "m", "--to", "bf16", *PRE)
    assert seen.status == 0, seen.stderr
    assert "carried over, lossless" in seen.stderr
