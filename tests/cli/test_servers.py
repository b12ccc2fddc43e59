"""Checkpoints for servers, made by the command line: every recipe, its files, its manifest, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build
from commands import TINY, quantkit
from predictions import next_token_logits

from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.text.samples import select_samples
from quantkit.formats.containers.declared import CONFIG_KEYS, declared
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.recipes.read import load_recipe, recipe_names
from quantkit.source import Checkpoint, open_source

TEXT = TINY.parent / "calibration.jsonl"
RECIPES = [name for name in recipe_names() if load_recipe(name).mixture is None]
CALIBRATED = [name for name in RECIPES if load_recipe(name).needs_calibration]
SHORT = ["--samples", "8", "--seqlen", "64"]
LAYERS = 28


def arguments(recipe: str, out: Path, *more: object) -> list[object]:
    text = ["--calib", TEXT, *SHORT] if recipe in CALIBRATED else []
    return ["convert", TINY, "--to", recipe, *text, "-o", out, *more]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a loader sees."""
    told = {"model.manifest.json", "SHA256SUMS"}  # the manifest says how long it took
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name not in told}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every recipe, made when it is first asked for."""

    class Built(dict[str, Path]):
        def __missing__(self, recipe: str) -> Path:
            out = tmp_path_factory.mktemp("servers") / recipe
            ran = quantkit(*arguments(recipe, out))
            assert ran.status == 0, ran.stderr
            assert ran.stdout == f"{out}\n"
            self[recipe] = out
            return out

    return Built()


@pytest.mark.parametrize("recipe", RECIPES)
def test_holds_what_was_planned(recipe: str, built: dict[str, Path]) -> None:
    out = built[recipe]
    text = ["--calib", TEXT, *SHORT] if recipe in CALIBRATED else []
    planned = quantkit("plan", TINY, "--to", recipe, *text, "--json").json["plans"][0]
    assert {f["name"]: f["bytes"] for f in planned["files"]} == {
        p.name: p.stat().st_size for p in out.iterdir() if p.name not in {"model.manifest.json", "SHA256SUMS"}
    }
    assert planned["size"]["bytes"] == sum(f["bytes"] for f in planned["files"])
    stored = read_safetensors(out / "model.safetensors").tensors
    assert {t["name"]: t["shape"] for t in planned["tensors"]} == {n: list(t.shape) for n, t in stored.items()}
    assert len(planned["layers"]) == LAYERS
    assert planned["plain"] == ["lm_head"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_carries_everything_over(recipe: str, built: dict[str, Path]) -> None:
    out = built[recipe]
    for source in TINY.iterdir():
        if source.name not in {"config.json", "model.safetensors"}:
            assert (out / source.name).read_bytes() == source.read_bytes(), source.name
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (TINY, out))
    sections = {key: after.pop(key) for key in CONFIG_KEYS if key in after}
    container = load_recipe(recipe).container
    if container == "plain":
        dtype = {"hf-bf16": "bfloat16", "hf-f16": "float16", "hf-f32": "float32"}[recipe]
        assert (sections, after) == (
            {},
            {**before, **{key: dtype for key in ("dtype", "torch_dtype") if key in before}},
        )
    else:
        said = declared(sections, {})
        assert said is not None
        assert (said["quant_method"], after) == (container, before)
    sums = (out / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in sums} == {p.name for p in out.iterdir()} - {"SHA256SUMS"}
    for line in sums:
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


CHECKS = ("structure", "tokenizer", "numbers")


@pytest.mark.parametrize("recipe", RECIPES)
def test_manifest(recipe: str, built: dict[str, Path]) -> None:
    out = built[recipe]
    manifest = json.loads((out / "model.manifest.json").read_text())
    raw = (out / "model.safetensors").read_bytes()
    for tensor in manifest["tensors"]:
        found = raw[tensor["offset"] : tensor["offset"] + tensor["bytes"]]
        assert hashlib.sha256(found).hexdigest() == tensor["sha256"], tensor["name"]
    assert {check["check"]: check["ok"] for check in manifest["checks"]} == dict.fromkeys(CHECKS, True)
    assert ("layers" in manifest) == ("calibration" in manifest) == (recipe in CALIBRATED)
    text = json.dumps(manifest)
    assert "mailcap" not in text, "never the text"
    if recipe in CALIBRATED:
        record = manifest["calibration"]
        assert len(record["ids"]) == 8
        assert record["tokens"] == 8 * 64
        assert [layer["name"] for layer in manifest["layers"]] == [m["name"] for m in planned_layers(recipe)]
        for layer in manifest["layers"]:
            assert layer["tokens"] == 8 * 64
            if "loss" in layer:
                assert layer["loss"] <= layer["rounding_loss"] * (1 + 1e-6), layer


def planned_layers(recipe: str) -> list[dict[str, object]]:
    return quantkit("plan", TINY, "--to", recipe, "--json").json["plans"][0]["layers"]


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not load_recipe(name).method.transform])
def test_decodes_near_the_source(recipe: str, built: dict[str, Path]) -> None:
    source, made = open_source(str(TINY)), open_source(str(built[recipe]))
    assert made.tensors().keys() == source.tensors().keys()
    for name, info in source.tensors().items():
        before, after = source.ref(name).read(0, info.rows), made.ref(name).read(0, info.rows)
        if made.tensors()[name].stored_as is None:
            plain = before.astype(np.float16).astype(np.float32) if recipe == "hf-f16" else before
            assert np.array_equal(plain, after), name
        else:
            assert np.square(after - before).sum() < 0.5 * np.square(before).sum(), name


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gptq-w4g128", "awq-w4g128", "w8a8-static", "fp8", "nf4-double", "fp8-kv"])
def test_same_bytes_for_any_number_of_threads(recipe: str, built: dict[str, Path], tmp_path: Path) -> None:
    for threads in (1, 3):
        out = tmp_path / str(threads)
        assert quantkit(*arguments(recipe, out, "--threads", threads)).status == 0
        assert hashes(out) == hashes(built[recipe]), threads


@pytest.mark.parametrize("recipe", ["fp8", "gptq-w4g128"])
def test_the_same_command_again_does_nothing(recipe: str, built: dict[str, Path]) -> None:
    before = {p: p.stat().st_mtime_ns for p in built[recipe].iterdir()}
    again = quantkit(*arguments(recipe, built[recipe]))
    assert again.status == 0
    assert "already built" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in built[recipe].iterdir()} == before


def test_shards(tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = quantkit(*arguments("w8a16", out, "--max-shard-size", "1M"), "--dry-run", "--json").json["plans"][0]
    assert quantkit(*arguments("w8a16", out, "--max-shard-size", "1M")).status == 0
    assert {f["name"]: f["bytes"] for f in planned["files"]} == {
        name: (out / name).stat().st_size for name in hashes(out)
    }
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    assert shards == sorted(p.name for p in out.glob("*.safetensors"))
    for name in shards:
        tensors = read_safetensors(out / name).tensors
        assert {n for n, shard in index["weight_map"].items() if shard == name} == set(tensors)
        assert (out / name).stat().st_size <= 1_000_000 or len(tensors) == 1
    assert (out / "model.manifest.json").is_file()


def test_several_recipes_get_a_folder_each(tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, "--to", "fp8,q8_0,nf4", "-o", tmp_path)
    assert ran.status == 0, ran.stderr
    names = ["docs-llama-tiny-FP8", "docs-llama-tiny-Q8_0.gguf", "docs-llama-tiny-NF4"]
    assert ran.stdout.splitlines() == [str(tmp_path / name) for name in names]
    assert (tmp_path / names[0] / "config.json").is_file()


def test_layers_can_be_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = quantkit(*arguments("gptq-w4g128", out, "--keep", "layers.0.mlp=bf16"))
    assert ran.status == 0, ran.stderr
    stored = read_safetensors(out / "model.safetensors").tensors
    assert stored["model.layers.0.mlp.up_proj.weight"].dtype == "BF16"
    assert "model.layers.1.mlp.up_proj.qweight" in stored
    section = json.loads((out / "config.json").read_text())["quantization_config"]
    assert section["modules_in_block_to_quantize"]


@pytest.mark.parametrize("recipe", CALIBRATED)
def test_text_is_needed(recipe: str, tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, "--to", recipe, "-o", tmp_path / "out")
    assert ran.status == 2
    assert "needs calibration text" in ran.stderr
    assert "--calib" in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--to", "fp8", "--calib", TEXT], 2, "needs no calibration"),
        (["--to", "fp8", "--pure"], 2, "--pure is for GGUF files"),
        (["--to", "fp8", "--keep", "mlp=q8_0"], 2, "keep layers only as floats"),
        (["--to", "fp8", "--keep", "nothing=bf16"], 2, "matches no layer"),
        (["--to", "fp8", "--method", "gptk"], 2, "did you mean"),
        (["--to", "q8_0", "--method", "gptq"], 2, "--method rtn, which needs none"),
        (["--to", "bf16", "--method", "gptq"], 2, "has nothing to round"),
        (["--to", "fp8", "-o", "x.gguf"], 2, "makes a folder"),
        (["--to", "gptq-w4g12"], 2, "did you mean"),
        (["--to", "w4a16", "--calib", TEXT, "--seqlen", "4000000"], 3, "one sequence"),
        (["--to", "w4a16", "--calib", "missing.jsonl"], 3, "missing.jsonl"),
        (["--to", "fp8", "--max-shard-size", "big"], 2, "--max-shard-size"),
    ],
)
def test_refused_before_any_work(
    options: list[object], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = quantkit("convert", TINY, *options)
    assert ran.status == status, ran.stderr
    assert said in ran.stderr
    assert "hint:" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_is_a_source_like_the_checkpoint_that_it_was(built: dict[str, Path], tmp_path: Path) -> None:
    assert quantkit("convert", TINY, "--to", "bf16", "-o", tmp_path / "m.gguf").status == 0
    ran = quantkit("convert", tmp_path / "m.gguf", "--to", "fp8", "-o", tmp_path / "out")
    assert ran.status == 0, ran.stderr
    made, other = (
        {t["name"]: t["sha256"] for t in json.loads((folder / "model.manifest.json").read_text())["tensors"]}
        for folder in (tmp_path / "out", built["fp8"])
    )
    assert made == other
    assert quantkit("convert", TINY, "--to", "q4_0", "-o", tmp_path / "m4.gguf").status == 0
    refused = quantkit("convert", tmp_path / "m4.gguf", "--to", "fp8", "-o", tmp_path / "out4")
    assert refused.status == 4
    assert "--allow-requantize" in refused.stderr


def test_a_source_of_four_bits_is_refused_and_one_of_eight_noted(built: dict[str, Path], tmp_path: Path) -> None:
    refused = quantkit("convert", built["nf4"], "--to", "fp8", "-o", tmp_path / "out")
    assert refused.status == 4
    assert "--allow-requantize" in refused.stderr
    noted = quantkit("convert", built["fp8"], "--to", "nf4", "-o", tmp_path / "out")
    assert noted.status == 0
    assert "warning[eight-bit" in noted.stderr


def test_work_is_packed_elsewhere(built: dict[str, Path], tmp_path: Path) -> None:
    ran = quantkit("quantize", TINY, "--to", "nf4", "-o", tmp_path / "work")
    assert ran.status == 0, ran.stderr
    packed = quantkit("pack", tmp_path / "work" / "NF4", "-o", tmp_path / "out")
    assert packed.status == 0, packed.stderr
    assert packed.stdout == f"{tmp_path / 'out'}\n"
    assert hashes(tmp_path / "out") == hashes(built["nf4"])


# Who loads it


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("awq-w4g128", ["--for", "llama.cpp"], "does not read AWQ"),
        ("gptq-w4g128", ["--for", "vllm,tensorrt-llm"], "tensorrt-llm does not load"),
        ("gptq-w3g128", ["--for", "vllm"], "vllm does not load"),
        ("w4a16", ["--for", "vllm", "--tp", 8], "vllm does not load"),
        ("q4_k_m", ["--for", "tensorrt-llm"], "does not read GGUF"),
    ],
)
def test_refused_for_a_consumer_before_any_work(recipe: str, options: list[object], said: str, tmp_path: Path) -> None:
    text = ["--calib", TEXT, *SHORT] if recipe in CALIBRATED else []
    ran = quantkit("convert", TINY, "--to", recipe, *text, *options, "-o", tmp_path / "out")
    assert ran.status == 4, ran.stderr
    assert said in ran.stderr
    assert "hint: use " in ran.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_consumer(tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, "--to", "fp8", "--for", "vlm", "-o", tmp_path / "out")
    assert ran.status == 2
    assert 'did you mean "vllm"' in ran.stderr


def test_tensorrt_gets_its_configuration(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = quantkit(*arguments("fp8-kv", out, "--for", "tensorrt-llm"))
    assert ran.status == 0, ran.stderr
    described = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    assert described["quant_algo"] == "FP8"
    assert described["kv_cache_quant_algo"] == "FP8"


def test_plan_says_who_loads_it() -> None:
    said = quantkit("plan", TINY, "--to", "awq-w4g128", "--json").json["plans"][0]["consumers"]
    assert {v["consumer"]: v["ok"] for v in said} == {
        "transformers": True, "vllm": True, "sglang": True, "llama.cpp": False, "ollama": False, "lmstudio": False,
        "tensorrt-llm": False, "mlx": True,
    }  # fmt: skip
    assert all(v["reason"] and v["nearest"] for v in said if not v["ok"])


# Verify


@pytest.mark.parametrize("recipe", ["gptq-w4g128", "fp8-block", "nf4-double", "w8a8-smooth"])
def test_verify(recipe: str, built: dict[str, Path]) -> None:
    ran = quantkit("verify", built[recipe], "--against", TINY, "--engine", "torch", "--json")
    assert ran.status == 0, ran.stderr
    found = {check["check"]: check for check in ran.json["checks"]}
    assert {name: check["ok"] for name, check in found.items()} == {
        "files": True, "structure": True, "tokenizer": True, "torch": True,
        "numbers": None if load_recipe(recipe).method.transform else True,
    }  # fmt: skip
    assert found["torch"]["kl_mean"] < 0.02


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_verify_finds_a_flipped_bit(built: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(built["w4a16"], tmp_path / "copy")
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    ran = quantkit("verify", folder)
    assert ran.status == 7
    assert "is damaged" in ran.stderr


def test_verify_finds_another_tokenizer(built: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(built["fp8"], tmp_path / "copy")
    (folder / "model.manifest.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    ran = quantkit("verify", folder, "--against", TINY)
    assert ran.status == 7
    assert "tokenizer.json is not what the source has" in ran.stderr


def test_verify_finds_weights_of_another_layer(built: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(built["fp8"], tmp_path / "copy")
    (folder / "model.manifest.json").unlink()
    tensors = read_safetensors(folder / "model.safetensors").tensors
    raw = bytearray((folder / "model.safetensors").read_bytes())
    one, other = (tensors[f"model.layers.{n}.mlp.up_proj.weight"] for n in (0, 1))
    raw[one.start : one.stop], raw[other.start : other.stop] = raw[other.start : other.stop], raw[one.start : one.stop]
    (folder / "model.safetensors").write_bytes(raw)
    ran = quantkit("verify", folder, "--against", TINY)
    assert ran.status == 7
    assert "up_proj" in ran.stderr


@pytest.mark.parametrize("engine", ["transformers", "torch"])
def test_a_checkpoint_runs_beside_its_source_alone(engine: str, built: dict[str, Path]) -> None:
    """Nothing is asked of an engine that nobody can ask: said, and not passed over."""
    ran = quantkit("verify", built["fp8"], "--engine", engine)
    assert ran.status == 2, ran.stdout
    assert f"--engine {engine} runs a checkpoint beside its source" in ran.stderr and "--against" in ran.stderr


@pytest.mark.parametrize("engine", ["llama.cpp", "torch"])
def test_engines_load_what_they_load(engine: str, built: dict[str, Path], tmp_path: Path) -> None:
    artifact = built["fp8"]
    if engine == "torch":
        artifact = tmp_path / "m.gguf"
        assert quantkit("convert", TINY, "--to", "q8_0", "-o", artifact).status == 0
    ran = quantkit("verify", artifact, "--engine", engine)
    assert ran.status == 2
    assert f"--engine {engine} does not load a" in ran.stderr
    assert f"use --engine {'torch' if engine == 'llama.cpp' else 'llama.cpp'}" in ran.stderr


# Text for GGUF files


def test_gguf_files_use_the_text_too(tmp_path: Path) -> None:
    imatrix, out = tmp_path / "imatrix.gguf", tmp_path / "text.gguf"
    ran = quantkit("convert", TINY, "--to", "q4_k_m", "--method", "rtn", "--calib", TEXT, *SHORT, "-o", out)
    assert ran.status == 0, ran.stderr
    assert quantkit("calibrate", TINY, "--data", TEXT, *SHORT, "-o", imatrix).status == 0
    assert quantkit("convert", TINY, "--to", "q4_k_m", "--imatrix", imatrix, "-o", tmp_path / "file.gguf").status == 0
    plain = tmp_path / "plain.gguf"
    assert quantkit("convert", TINY, "--to", "q4_k_m", "-o", plain).status == 0
    text, file, none = (tensor_hashes(tmp_path / f"{name}.manifest.json") for name in ("text", "file", "plain"))
    assert text == file != none


def tensor_hashes(manifest: Path) -> dict[str, str]:
    return {t["name"]: t["sha256"] for t in json.loads(manifest.read_text())["tensors"]}


def test_too_little_text_is_said(built: dict[str, Path], tmp_path: Path) -> None:
    ran = quantkit(*arguments("w4a16", tmp_path / "out"))
    assert "warning[QK-CAL-001]" in ran.stderr, "few tokens"
    assert "warning[QK-CAL-007]" in ran.stderr, "fewer than columns"
    assert "model.layers.0.mlp.down_proj has 768 columns" in ran.stderr


def test_files_beside_the_weights_go_along(tmp_path: Path) -> None:
    source = copied(TINY, tmp_path / "source")
    (source / "preprocessor_config.json").write_text("{}")
    (source / "notes.md").write_text("notes")
    ran = quantkit("convert", source, "--to", "fp8", "-o", tmp_path / "out")
    assert ran.status == 0, ran.stderr
    assert {"preprocessor_config.json", "notes.md"} <= {p.name for p in (tmp_path / "out").iterdir()}


# Statistics of an earlier run


@pytest.fixture(scope="session")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statistics") / "tiny.safetensors"
    assert quantkit("calibrate", TINY, "--data", TEXT, "--samples", 64, "--seqlen", 64, "-o", path).status == 0
    return path


@pytest.mark.parametrize("recipe", ["w4a16", "awq-w4g128", "w8a8-static", "gptq-w4g128-actorder"])
def test_statistics_serve_every_recipe_without_a_run(recipe: str, statistics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = quantkit("convert", TINY, "--to", recipe, "--calib", statistics, "-o", out)
    assert ran.status == 0, ran.stderr
    manifest = json.loads((out / "model.manifest.json").read_text())
    assert manifest["calibration"]["statistics"]["name"] == statistics.name
    assert all(layer["tokens"] == 64 * 64 for layer in manifest["layers"])
    seen = quantkit("verify", out, "--against", TINY, "--engine", "torch", "--json")
    assert seen.status == 0, seen.stderr
    assert next(c for c in seen.json["checks"] if c["check"] == "torch")["kl_mean"] < 0.01
    for threads in (1, 3):
        again = tmp_path / str(threads)
        command = ["convert", TINY, "--to", recipe, "--calib", statistics, "--threads", threads, "-o", again]
        assert quantkit(*command).status == 0
        assert hashes(again) == hashes(out)


def test_statistics_move_with_the_scales(statistics: Path, tmp_path: Path) -> None:
    """After AWQ the file's sums are those of the scaled inputs: the losses are near those of a run. Values stand for
    what queries and keys read as well: where text runs, those are rounded by what they give, too, and cost otherwise.
    """
    losses, fed = [], []
    for number, text in enumerate(([statistics], [TEXT, "--samples", 64, "--seqlen", 64])):
        out = tmp_path / str(number)
        assert quantkit("convert", TINY, "--to", "w4a16-awq", "--calib", *text, "-o", out).status == 0
        layers = json.loads((out / "model.manifest.json").read_text())["layers"]
        first = [layer for layer in layers if ".layers.0.self_attn." in layer["name"]]
        losses.append({layer["name"].split(".")[-1]: layer["loss"] for layer in first})
        fed.append({layer["name"].split(".")[-1] for layer in layers if layer.get("rows_fed")})
    assert fed == [set(), {"q_proj", "k_proj"}]
    for name in ("v_proj", "o_proj"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=0.2), name


def test_statistics_and_gguf_files(statistics: Path, tmp_path: Path) -> None:
    plainly = ["convert", TINY, "--to", "q4_k_m", "--method", "rtn"]
    ran = quantkit(*plainly, "--calib", statistics, "-o", tmp_path / "m.gguf")
    assert ran.status == 0, ran.stderr
    text = [TEXT, "--samples", 64, "--seqlen", 64]
    assert quantkit(*plainly, "--calib", *text, "-o", tmp_path / "t.gguf").status == 0
    assert tensor_hashes(tmp_path / "m.manifest.json") == tensor_hashes(tmp_path / "t.manifest.json")


def test_statistics_that_do_not_do(statistics: Path, tmp_path: Path) -> None:
    def refused(*options: object) -> tuple[int, str]:
        ran = quantkit("convert", TINY, *options, "-o", tmp_path / "out")
        return ran.status, ran.stderr

    status, said = refused("--to", "fp8-kv", "--calib", statistics)
    assert (status, "largest keys and values" in said) == (4, True)
    status, said = refused("--to", "w4a16", "--calib", statistics, "--calib", TEXT)
    assert (status, "statistics and text together" in said) == (2, True)
    status, said = refused("--to", "w4a16", "--calib", TINY / "model.safetensors")
    assert (status, "not a file of statistics" in said) == (3, True)
    moments = tmp_path / "moments.safetensors"
    text = ["--data", TEXT, *SHORT, "--no-hessian"]
    assert quantkit("calibrate", TINY, *text, "-o", moments).status == 0
    status, said = refused("--to", "w4a16", "--calib", moments)
    assert (status, "holds no Hessians" in said) == (3, True)


def test_statistics_of_another_model(tmp_path: Path) -> None:
    source = build("llama-untied-gqa", tmp_path / "source")
    other = tmp_path / "other.safetensors"
    assert quantkit("calibrate", source, "--data", TEXT, *SHORT, "-o", other).status == 0
    ran = quantkit("convert", TINY, "--to", "w4a16", "--calib", other, "-o", tmp_path / "out")
    assert ran.status == 3
    assert "statistics of another model" in ran.stderr


# Quality


def log_probabilities(checkpoint: Checkpoint, contexts: list[list[int]]) -> torch.Tensor:
    return torch.from_numpy(next_token_logits(checkpoint, contexts)).double().log_softmax(1)


@pytest.mark.slow
def test_methods_in_the_order_of_their_quality(tmp_path: Path) -> None:
    """On text that nobody has seen: GPTQ is nearer to the source than AWQ, and AWQ than rounding."""
    source = open_source(str(TINY))
    texts = load_texts(str(TEXT.with_name("held-out.jsonl")))
    contexts = select_samples(texts, model_tokens(source, 2048), seqlen=64, samples=64).tokens.tolist()
    reference = log_probabilities(source, contexts)
    found = []
    for name, options in (("gptq", []), ("awq", ["--method", "rtn"]), ("rounding", ["--method", "rtn"])):
        recipe = ["w4a16-awq"] if name == "awq" else ["w4a16"]
        text = [] if name == "rounding" else ["--calib", TEXT, "--samples", 64, "--seqlen", 128]
        out = tmp_path / name
        ran = quantkit("convert", TINY, "--to", *recipe, *options, *text, "-o", out)
        assert ran.status == 0, ran.stderr
        candidate = log_probabilities(open_source(str(out)), contexts)
        found.append(float((reference.exp() * (reference - candidate)).sum(1).mean()))
    assert found == sorted(found)
    assert found[0] < 0.5 * found[2]


def test_a_model_card_goes_along(tmp_path: Path) -> None:
    """README.md of the source is taken over, and is no part of what is compared: an artifact may have its own."""
    folder = build("llama-card", tmp_path)
    seen = quantkit("convert", folder, "--to", "w8a16", "-o", tmp_path / "out")
    assert seen.status == 0, seen.stderr
    assert (tmp_path / "out" / "README.md").read_bytes() == (folder / "README.md").read_bytes()
    assert quantkit("verify", tmp_path / "out", "--against", folder).status == 0


def test_what_no_engine_loads_is_said(tmp_path):
    """Packed mixers of Mamba 1: transformers stops at them, and other servers build them as floats."""
    folder = build("mamba", tmp_path)
    packed = quantkit("convert", folder, "--to", "w4a16", "--method", "rtn", "--no-verify", "-o", tmp_path / "packed")
    assert packed.status == 0
    assert "warning[no-loader]: w4a16 --method rtn: none of the engines that are known here loads it" in packed.stderr
    floats = quantkit("convert", folder, "--to", "fp8", "--no-verify", "-o", tmp_path / "floats")
    assert floats.status == 0
    assert "no-loader" not in floats.stderr
