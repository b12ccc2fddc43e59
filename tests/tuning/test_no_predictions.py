"""Encoders predict no text: nothing that goes by predictions is asked of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import encoder_table
import pytest
from commands import quantkit

TEXT = Path(__file__).parents[2] / "LICENSE"
FEW = ("--to", "q4_k_m", "--calib", TEXT, "--samples", 2, "--seqlen", 32)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_table.build("bert-mean", tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("sensitivity", (), "sensitivity"),
        ("sensitivity", ("--dry-run",), "sensitivity"),
        ("convert", ("--target-size", "100KB"), "--target-size"),
        ("convert", ("--target-bpw", 9), "--target-bpw"),
        ("convert", ("--max-kld", 0.1), "--max-kld"),
        ("convert", ("--refit-norms",), "--refit-norms"),
        ("plan", ("--refit-norms",), "--refit-norms"),
        ("convert", ("--feedback-embedding",), "--feedback-embedding"),
    ],
)
def test_what_goes_by_predictions_is_refused(
    command: str, options: tuple[object, ...], named: str, bert: Path, tmp_path: Path
) -> None:
    place = ("-o", tmp_path / "out") if command == "convert" else ()
    ran = quantkit(command, bert, *FEW, *options, *place)
    assert ran.status == 4, ran.stderr
    assert f'family "bert" computes embeddings and predicts no text: {named} goes by' in ran.stderr
    assert not list(tmp_path.iterdir())


def test_neither_guard_nor_embedding_goes_by_what_it_predicts(bert: Path, tmp_path: Path) -> None:
    """There is text enough that nothing was calibrated with; the embedding is as its type's encoder makes it."""
    made = [converted(bert, tmp_path / "text", *FEW), converted(bert, tmp_path / "plain", *FEW[:2], "--no-verify")]
    assert "guard" not in made[0]
    assert "token_embd.weight" not in [layer["name"] for layer in made[0]["layers"]]
    assert len(made[0]["layers"]) == 12
    with_text, plain = ({t["name"]: t["sha256"] for t in manifest["tensors"]} for manifest in made)
    assert with_text["token_embd.weight"] == plain["token_embd.weight"]
    assert with_text["blk.0.ffn_up.weight"] != plain["blk.0.ffn_up.weight"]


def test_a_recipe_that_fits_norms_leaves_them_alone(bert: Path) -> None:
    ran = quantkit("plan", bert, "--to", "iq4_nl", *FEW[2:], "--json")
    assert ran.status == 0, ran.stderr
    [plan] = ran.json["plans"]
    assert plan["calibrated"]
    assert "refits" not in plan


def converted(source: Path, out: Path, *options: object) -> Any:
    """The manifest of what convert makes."""
    ran = quantkit("convert", source, *options, "-o", out)
    assert ran.status == 0, ran.stderr
    [manifest] = out.glob("*.manifest.json")
    return json.loads(manifest.read_text())


def test_llama_cpp_is_asked_for_vectors(bert: Path, tmp_path: Path) -> None:
    """What it gives for a token of an encoder is no prediction of the next one."""
    manifest = converted(bert, tmp_path / "out", "--to", "q8_0", "--engine", "llama.cpp")
    [check] = [each for each in manifest["checks"] if each["check"] == "llama.cpp"]
    assert check["ok"] is True
    assert "to the vectors that its weights give" in check["detail"]
    assert "kl_mean" not in check
