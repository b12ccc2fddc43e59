"""A checkpoint whose channels came with scales far apart: the file is nearly that without, and all commands know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from commands import TINY, quantkit
from safetensors.numpy import load_file
from scaled import scaled

TEXT, HELD_OUT = TINY.parent / "calibration.jsonl", TINY.parent / "held-out.jsonl"
OPTIONS = ["--to", "q4_0", "--calib", TEXT, "--samples", 8, "--seqlen", 64, "--no-feedback-embedding"]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaled(TINY, tmp_path_factory.mktemp("scaled") / "far")


@pytest.fixture(scope="module")
def made(far: Path) -> Path:
    """The file with even columns, and its manifest."""
    path = far.with_name("even.gguf")
    ran = quantkit("convert", far, *OPTIONS, "-o", path)
    assert ran.status == 0, ran.stderr
    assert "columns were far apart in length at 16 places: they were evened first" in " ".join(ran.stderr.split())
    return path


@pytest.fixture(scope="module")
def plain(far: Path) -> Path:
    path = far.with_name("plain.gguf")
    assert quantkit("convert", far, *OPTIONS, "--no-even-columns", "-o", path).status == 0
    return path


def manifest_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_name(f"{path.stem}.manifest.json").read_text())
    return found


def norms(path: Path) -> dict[str, np.ndarray]:
    return {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors if "norm" in t.name}


def test_the_manifest_says_what_was_moved(made: Path, plain: Path) -> None:
    assert manifest_of(made)["evened"] == {"sites": 16, "tensors": 36}
    assert "evened" not in manifest_of(plain)
    assert manifest_of(made)["plan_digest"] != manifest_of(plain)["plan_digest"]
    assert manifest_of(plain)["recipe"]["name"].endswith("--no-even-columns")


def test_norms_take_eighths_of_octaves(far: Path, made: Path, plain: Path) -> None:
    stored = load_file(far / "model.safetensors")
    names = {"attn": "input_layernorm", "ffn": "post_attention_layernorm"}
    for name, values in norms(made).items():
        place = name.removesuffix("_norm.weight").split(".")
        source = f"model.layers.{place[1]}.{names[place[2]]}.weight" if len(place) > 1 else "model.norm.weight"
        assert np.array_equal(norms(plain)[name], stored[source])
        if source in ("model.norm.weight",):  # the head is tied to the embedding: nothing can take the scales
            assert np.array_equal(values, stored[source])
            continue
        eighths = 8 * np.log2(values / stored[source])
        assert np.abs(eighths - np.rint(eighths)).max() < 1e-5 and eighths.std() > 8


def test_every_command_knows_which_source_a_file_has(far: Path, made: Path, plain: Path, tmp_path: Path) -> None:
    for path in (made, plain):
        seen = quantkit("verify", path, "--against", far, "--json")
        assert seen.status == 0, seen.stdout
        found = quantkit("compare", path, far, "--json").json["tensors"]["differing"]
        fed = {layer["name"].split(".")[2] for layer in manifest_of(path)["layers"] if layer.get("rows_fed")}
        assert fed == {"attn_q", "attn_k"}  # rows make up for each other, with errors where nothing reads them
        for each in found:
            limit = 0.08 if each["name"].endswith(("q_proj.weight", "k_proj.weight")) else 0.05
            assert each["relative_error"] < limit, each
    seen = quantkit("verify", made, "--against", TINY, "--json")  # the same function, and not its source
    checks = json.loads(seen.stdout.splitlines()[0])["checks"]
    assert {check["check"] for check in checks if check["ok"] is False} >= {"numbers"}


def test_a_norm_that_is_neither_is_found(far: Path, made: Path, tmp_path: Path) -> None:
    data = bytearray(made.read_bytes())
    [norm] = [t for t in gguf.GGUFReader(made).tensors if t.name == "blk.2.ffn_norm.weight"]
    np.frombuffer(data, np.float32, norm.n_elements, int(norm.data_offset))[7] *= np.float32(1.001)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    seen = quantkit("verify", path, "--against", far, "--json")
    assert seen.status == 7
    checks = json.loads(seen.stdout.splitlines()[0])["checks"]
    [numbers] = [check for check in checks if check["check"] == "numbers"]
    assert numbers["ok"] is False and "blk.2.ffn_norm.weight" in numbers["detail"]


def test_it_does_a_fraction_of_the_damage(far: Path, made: Path, plain: Path) -> None:
    ran = quantkit("eval", made, plain, "--against", far, "--data", HELD_OUT, "--tokens", 400, "--json")
    assert ran.status == 0, ran.stderr
    even, apart = ran.json["artifacts"]
    assert even["kl"]["value"] < 0.2 * apart["kl"]["value"]
    assert even["weights"] is None and apart["weights"] is not None
