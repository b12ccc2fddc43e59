"""GGUF files rounded with feedback: what their methods say is so, by the gguf package and the statistics alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tower_table
from checkpoints import build
from commands import TINY, quantkit
from safetensors.torch import load_file, save_file
from walks import carrying

from quantkit.calibration.statistics.file import open_statistics
from quantkit.source import open_source

TEXT = TINY.parent / "calibration.jsonl"
SHORT = ["--samples", 8, "--seqlen", 64]
DAMPING = 0.03
LINEARS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
HEADS = {"attn_q": 4, "attn_k": 2}


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statistics") / "tiny.safetensors"
    assert quantkit("calibrate", TINY, "--data", TEXT, "--samples", 32, "--seqlen", 64, "-o", path).status == 0
    return path


@pytest.fixture(scope="module")
def by_threads(statistics: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool, int], str]:
    """SHA-256 of a file made with text, or with statistics that are known, by a number of threads."""

    @cache
    def made(known: bool, threads: int) -> str:
        out = tmp_path_factory.mktemp("threads") / "out.gguf"
        text = [statistics] if known else [TEXT, *SHORT]
        converted(TINY, out, "--to", "q3_k_m", "--calib", *text, "--threads", threads)
        return hashlib.sha256(out.read_bytes()).hexdigest()

    return made


def converted(source: Path, out: Path, *options: object) -> dict[str, Any]:
    """What the manifest of a new file says."""
    ran = quantkit("convert", source, *options, "-o", out)
    assert ran.status == 0, ran.stderr
    manifest: dict[str, Any] = json.loads(out.with_name(f"{out.stem}.manifest.json").read_text())
    return manifest


def decoded(path: Path) -> dict[str, np.ndarray]:
    """The matrices of the blocks of TINY in the order of rows that the source has, by the gguf package."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.name.split(".")[-2]
        if kind in LINEARS:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            if kind in HEADS:  # pairs of rotary embeddings, side by side
                split = values.reshape(HEADS[kind], -1, 2, values.shape[1])
                values = split.swapaxes(1, 2).reshape(values.shape)
            found[tensor.name] = values
    return found


def losses(path: Path, statistics: Path) -> dict[str, float]:
    """trace(E H E^T) of every matrix, H with the method's damping."""
    file, source = open_statistics(statistics), open_source(str(TINY))
    try:
        sums = file.read()
        out = {}
        for name, values in decoded(path).items():
            _, layer, kind, _ = name.split(".")
            linear = f"model.layers.{layer}.{LINEARS[kind]}.weight"
            gram = sums.total(linear).gram
            assert gram is not None
            hessian = gram.full().double().numpy()
            hessian[np.diag_indices_from(hessian)] += DAMPING * hessian.diagonal().mean()
            ref = source.ref(linear)
            error = ref.read(0, ref.info.rows).astype(np.float64) - values
            out[name] = float(np.einsum("ri,ij,rj->", error, hessian, error, optimize=True))
        return out
    finally:
        file.close()
        source.close()


@pytest.mark.parametrize("recipe", ["q4_k_m", pytest.param("iq4_nl", marks=pytest.mark.slow)])
def test_the_file_has_the_loss_that_its_method_says(recipe: str, statistics: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "out.gguf", tmp_path / "plain.gguf"
    manifest = converted(TINY, out, "--to", recipe, "--calib", statistics)
    said = {layer["name"]: layer for layer in manifest["layers"]}
    converted(TINY, plain, "--to", recipe, "--method", "rtn", "--calib", statistics)
    ours, theirs = losses(out, statistics), losses(plain, statistics)
    assert ours.keys() <= said.keys()
    for name, loss in ours.items():
        assert said[name]["loss"] == pytest.approx(loss, rel=1e-3)
        assert said[name]["rounding_loss"] == pytest.approx(theirs[name], rel=1e-3), "the file with an imatrix"
        assert loss < 0.8 * theirs[name]
        assert said[name]["tokens"] == 32 * 64
    assert manifest["method"]["name"] == "gptq"
    unfitted = " --no-refit-norms" if recipe == "iq4_nl" else ""  # statistics are no text to fit to
    assert manifest["recipe"]["name"] == f"{recipe} --method gptq{unfitted}"
    assert gguf.GGUFReader(out).fields["quantkit.method"].contents() == "gptq"
    seen = quantkit("verify", out, "--against", TINY)
    assert seen.status == 0, seen.stderr
    assert "of the loss of rounding on the calibration data" in seen.stdout
    [numbers] = [check for check in manifest["checks"] if check["check"] == "numbers"]
    assert numbers["feedback"]["loss_to_rounding"] < 0.8


@pytest.mark.parametrize(("recipe", "kind", "method"), [("iq2_xs", "iq2", "gptq"), ("iq1_m", "iq1", "rtn")])
def test_types_that_store_points_say_whether_feedback_or_their_encoder_chose_them(
    recipe: str, kind: str, method: str, statistics: Path, tmp_path: Path
) -> None:
    manifest = converted(TINY, tmp_path / "out.gguf", "--to", recipe, "--calib", statistics)
    kinds = {tensor["name"]: tensor["type"] for tensor in manifest["tensors"]}
    assert {layer["method"] for layer in manifest["layers"] if kinds[layer["name"]].startswith(kind)} == {method}


@pytest.mark.parametrize("threads", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["text", "statistics"])
def test_any_number_of_threads_gives_the_same_bytes(
    known: bool, threads: int, by_threads: Callable[[bool, int], str]
) -> None:
    assert by_threads(known, threads) == by_threads(known, 2)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("qwen3-moe", "q4_0"),
        *(
            pytest.param(name, recipe, marks=pytest.mark.slow)
            for name in ("qwen2-moe", "phi3", "gemma2", "olmo2", "granite")
            for recipe in ("q5_1", "q8_0")
        ),
    ],
)
def test_every_family_is_rounded_with_its_inputs(name: str, recipe: str, tmp_path: Path) -> None:
    """Experts in stacks, fused projections, rows that fit no K type, biases, a norm before the head."""
    source, out = build(name, tmp_path / "source"), tmp_path / "out.gguf"
    # Random weights are not measured: which of two files predicts them better is chance.
    manifest = converted(source, out, "--to", recipe, "--calib", TEXT, *SHORT, "--no-verify")
    layers = {layer["name"]: layer for layer in manifest["layers"]}
    quantized = {t["name"] for t in manifest["tensors"] if t["type"] not in ("f32", "f16", "bf16")}
    assert quantized == layers.keys(), "the head and the embedding among them"
    for name, layer in layers.items():
        assert layer["loss"] <= layer["rounding_loss"], name
        assert layer["tokens"] <= (8 + 4) * 64
        experts = [int(count) for count in layer.get("expert_tokens", "").split()]
        assert bool(experts) == ("_exps" in name)
        assert min(experts, default=layer["tokens"]) == layer["tokens"]
    dense = [layer["tokens"] for name, layer in layers.items() if ".attn_" in name]
    assert set(dense) == {(8 + 4) * 64}, "eight windows of text, four of others"
    facts = manifest["calibration"]
    others = {key: facts[key] for key in ("tokens", "random_windows", "shipped_windows")}
    assert others == {"tokens": 8 * 64, "random_windows": 1, "shipped_windows": 3}
    assert quantkit("verify", out, "--against", source).status == 0


def test_experts_of_a_file_count_for_coverage(tmp_path: Path) -> None:
    source = build("qwen3-moe", tmp_path / "source", spread=0.2)
    command = ["convert", source, "--to", "q4_0", "--calib", TEXT, "--samples", 1, "--seqlen", 4]
    ran = quantkit(*command, "--require-coverage", 100, "-o", tmp_path / "out.gguf")
    assert ran.status == 8, ran.stderr
    assert "experts saw enough tokens" in ran.stderr
    assert not (tmp_path / "out.gguf").exists()


SETTINGS = """schema = 1
title = "MINE"
[default]
qtype = "q4_k"
[method]
"""
SWITCHES = "head = false\nembedding = false"  # say what is done where there is text


@pytest.mark.parametrize(
    ("settings", "outside", "method"),
    [
        ("damping = 0.1\norder = 'storage'", {"output", "token"}, ("gptq", "storage", 0.1)),
        ("name = 'gptq'\nhead = false\npasses = 1", {"token"}, ("gptq", "within", None)),
        (SWITCHES, set(), ("gptq", "within", None)),
        ("name = 'rtn'", set(), None),
    ],
)
def test_a_recipe_says_how(settings: str, outside: set[str], method: tuple[object, ...] | None, tmp_path: Path) -> None:
    recipe, source = tmp_path / "mine.toml", build("llama-untied-gqa", tmp_path / "source")
    recipe.write_text(SETTINGS.replace("q4_k", "q4_0") + settings)
    needs_text = method is not None and settings != SWITCHES
    for text in ([], ["--calib", TEXT, *SHORT]):
        [plan] = quantkit("plan", source, "--to", recipe, *text, "--json").json["plans"]
        if method is None or not (text or needs_text):
            assert "method" not in plan
            continue
        said = plan["method"]
        assert (said["name"], said["order"], said["damping"]) == method
        roles = {layer["name"].split(".")[-2].partition("_")[0] for layer in plan["layers"]}
        assert roles == {"attn", "ffn", *outside}
        assert plan["calibrated"] == bool(text)
    without = quantkit("convert", source, "--to", recipe, "-o", tmp_path / "out.gguf")
    assert without.status == (2 if needs_text else 0)


@pytest.mark.parametrize(
    ("key", "option", "outside", "usual"),
    [
        ("head", "feedback-head", {"output"}, True),
        ("embedding", "feedback-embedding", {"token"}, True),
        ("columns", "even-columns", set(), True),
        ("norms", "refit-norms", set(), False),
    ],
)
def test_what_feedback_does_besides_blocks_is_switched(
    key: str, option: str, outside: set[str], usual: bool, tmp_path: Path
) -> None:
    """By the recipe, and by options that have the last word: on and off, in plans and in the name of the recipe."""
    source, recipe = build("llama-untied-gqa", tmp_path / "source"), tmp_path / "mine.toml"
    recipe.write_text(SETTINGS.replace("q4_k", "q4_0") + f"{key} = {str(not usual).lower()}")
    digests = {}
    for name, options, on in (
        ("q4_0", [], usual),
        ("q4_0", [f"--{option}"], True),
        ("q4_0", [f"--no-{option}"], False),
        (recipe, [], not usual),
        (recipe, [f"--no-{option}"], False),
        (recipe, [f"--{option}"], True),
    ):
        [plan] = quantkit("plan", source, "--to", name, "--calib", TEXT, *SHORT, *options, "--json").json["plans"]
        rounded = {layer["name"].split(".")[-2].partition("_")[0] for layer in plan["layers"]} - {"attn", "ffn"}
        assert outside & rounded == (outside if on else set())
        assert len(plan.get("refits", ())) == (5 if key == "norms" and on else 0)
        digests[(name, *options)] = plan["digest"]
        changes = bool(options) and on is (usual if name == recipe else not usual)
        assert (options[0] in plan["recipe"]) == changes if options else option not in plan["recipe"]
    assert digests["q4_0",] == digests["q4_0", f"--{'' if usual else 'no-'}{option}"]
    assert digests["q4_0",] != digests["q4_0", f"--{'no-' if usual else ''}{option}"]


@pytest.mark.parametrize(
    ("options", "fitted"),
    [
        (["--calib", TEXT, *SHORT], True),
        (["--calib", TEXT, *SHORT, "--no-refit-norms"], False),
        (["--calib", TEXT, *SHORT, "--method", "rtn"], False),
        ([], False),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_norms_are_fitted_where_a_recipe_says_so_and_there_is_text(
    own: bool, options: list[object], fitted: bool, tmp_path: Path
) -> None:
    """The shipped one does, and one that says nothing else of the method; neither needs text."""
    source, recipe = build("llama-untied-gqa", tmp_path / "source"), tmp_path / "mine.toml"
    recipe.write_text(SETTINGS.partition("[method]")[0] + "[method]\nnorms = true")
    ran = quantkit("plan", source, "--to", recipe if own else "iq4_nl", *options, "--json")
    assert ran.status == 0, ran.stderr
    [plan] = ran.json["plans"]
    assert len(plan.get("refits", ())) == (5 if fitted else 0)
    assert ("refit" in plan["recipe"]) == ("--no-refit-norms" in options)


@pytest.mark.parametrize("tower", ["smolvlm", "internvl"])
def test_a_class_that_no_family_has_is_asked_for_no_norms(tower: str, tmp_path: Path) -> None:
    """It sees, and the model inside it has a family: nothing asks for one of the whole."""
    ran = quantkit("plan", tower_table.build(tower, tmp_path), "--to", "iq4_nl", "--json")
    assert ran.status == 0, ran.stderr
    assert "refits" not in ran.json["plans"][0]


@pytest.mark.parametrize("options", [[], ["--calib", TEXT, *SHORT, "--method", "rtn"]])
def test_switches_are_about_feedback(options: list[object]) -> None:
    ran = quantkit("plan", TINY, "--to", "q4_0", *options, "--refit-norms")
    assert ran.status == 2
    assert "rounded with feedback" in ran.stderr


def test_a_recipe_for_blocks_keeps_its_columns(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(SETTINGS + 'order = "permuted"')
    ran = quantkit("plan", TINY, "--to", recipe)
    assert ran.status == 2
    assert "blocks of GGUF files keep their columns" in ran.stderr


@pytest.mark.parametrize("name", ["llama-untied-gqa", pytest.param("qwen3-moe", marks=pytest.mark.slow)])
def test_statistics_leave_the_embedding_to_its_encoder(name: str, tmp_path: Path) -> None:
    source, known = build(name, tmp_path / "source"), tmp_path / "known.safetensors"
    assert quantkit("calibrate", source, "--data", TEXT, *SHORT, "-o", known).status == 0
    manifest = converted(source, tmp_path / "out.gguf", "--to", "q4_0", "--calib", known)
    layers = {layer["name"]: layer for layer in manifest["layers"]}
    assert all(("loss" in layer) == (name != "token_embd.weight") for name, layer in layers.items())
    assert layers["output.weight"]["loss"] < layers["output.weight"]["rounding_loss"]
    plain = converted(source, tmp_path / "plain.gguf", "--to", "q4_0")
    table, other = ({t["name"]: t["sha256"] for t in one["tensors"]}["token_embd.weight"] for one in (manifest, plain))
    assert table == other


def test_keys_and_values_that_no_block_reads_are_told_of_at_once(tmp_path: Path) -> None:
    """Google's checkpoints have them in blocks that take those of a block before them."""
    source = carrying("gemma4-e", tmp_path)
    path = source / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if "k_proj" in name or "v_proj" in name]:
        number = int(name.split(".")[2])
        tensors[name.replace(f".{number}.", f".{number + 2}.")] = tensors[name].clone()
    save_file(tensors, path, {"format": "pt"})
    options = ["--calib", TEXT, "--samples", 2, "--seqlen", 16, "--no-feedback-embedding", "--no-verify"]
    ran = quantkit("convert", source, "--to", "q8_0", *options, "-o", tmp_path / "made.gguf")
    assert ran.status == 0, ran.stderr
    assert ran.stderr.count("no-inputs") == 1
    assert "4 tensors are no linears of their blocks: rounded without text" in " ".join(ran.stderr.split())
