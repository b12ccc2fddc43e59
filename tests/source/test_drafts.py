"""Drafts beside their targets: whose tokenizer they have, what they are refused for, and how they are run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import family_table
import numpy as np
import pytest
from commands import quantkit
from gguf import GGUFReader

from quantkit.pipeline.folder import finished_in
from quantkit.pipeline.loaded_by import verdicts_of

TARGET = "arcee"
PRE = ("--pre", "qwen2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drafts")
    for name in (TARGET, "eagle3", "dflash", "dspark-reduced", "gemma-4-assistant"):
        family_table.build(name, folder)
    return folder


def changed(root: Path, name: str, out: Path, config: Mapping[str, Any]) -> Path:
    """The checkpoint `name` with other numbers in config.json."""
    out.mkdir()
    for file in (root / name).iterdir():
        (out / file.name).symlink_to(file)
    said = json.loads((root / name / "config.json").read_text())
    (out / "config.json").unlink()
    (out / "config.json").write_text(json.dumps({**said, **config}))
    return out


def test_a_draft_is_made_and_verified_beside_its_target(root: Path, tmp_path: Path) -> None:
    beside = ("--base", root / TARGET, *PRE)
    ran = quantkit("convert", root / "eagle3", "--to", "q8_0", *beside, "-o", tmp_path / "draft.gguf", "--json")
    assert ran.status == 0, ran.stderr
    [artifact] = ran.json["artifacts"]
    assert [step["command"] for step in artifact["next"]] == [
        f"llama-server -m TARGET.gguf -md {tmp_path / 'draft.gguf'}"
    ]
    made = GGUFReader(tmp_path / "draft.gguf")
    [table] = [tensor for tensor in made.tensors if tensor.name == "d2t"]
    assert np.array_equal(table.data, np.arange(128) * 3 + 1)
    assert len(made.fields["tokenizer.ggml.tokens"].contents()) == 400
    look = ("verify", tmp_path / "draft.gguf", "--against", root / "eagle3")
    assert quantkit(*look, *beside).status == 0
    assert quantkit(*look, *PRE).status == 2


@pytest.mark.parametrize("command", ["plan", "convert"])
@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_no_text_is_run_through_a_draft(root: Path, tmp_path: Path, command: str, method: str) -> None:
    text = Path(__file__).parents[1] / "data" / "calibration.jsonl"
    place = () if command == "plan" else ("-o", tmp_path / "draft.gguf")
    given = ("--base", root / TARGET, *PRE, "--calib", text, "--method", method)
    ran = quantkit(command, root / "eagle3", "--to", "q4_0", *given, *place)
    assert ran.status == 4, ran.stderr
    assert 'family "eagle3" is read for GGUF files without calibration only' in ran.stderr
    assert not list(tmp_path.iterdir())


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "other-tokens": ("eagle3", {"vocab_size": 399}, 3, "the draft is for a vocabulary of 399 tokens"),
    "two-layers": ("eagle3", {"num_hidden_layers": 2}, 4, "the draft has 2 layers"),
    "table-of-others": ("eagle3", {"draft_vocab_size": 127}, 3, '"d2t" has 128 numbers'),
    "no-layers": ("eagle3", {"eagle_aux_hidden_state_layer_ids": None}, 3, r"is \[2, 1, -1\], expected a list"),
    "gated-head": ("dspark-reduced", {"markov_head_type": "gated"}, 4, 'Markov head of the kind "gated"'),
    "deep": ("eagle3", {"eagle_aux_hidden_state_layer_ids": [0, 1, 3]}, 3, r"reads layers \[0, 1, 3\] of its target"),
    "wide": ("eagle3", {"target_hidden_size": 512}, 3, "hidden states of 512 numbers, those of the target have 256"),
    "deep-behind": ("dflash", {"dflash_config": {"target_layer_ids": [0, 2]}}, 3, r"reads layers \[1, 3\]"),
    "no-layers-behind": ("dflash", {"dflash_config": {"mask_token_id": 7}}, 3, "target_layer_ids is missing"),
    "no-token": (
        "dflash", {"dflash_config": {"target_layer_ids": [0, 1], "mask_token_id": 400}}, 3, "mask_token_id is 400",
    ),
    "pairs": ("dspark-reduced", {"rope_is_neox_style": False}, 4, "rope_is_neox_style is False"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_what_no_file_can_say_is_refused(which: str, root: Path, tmp_path: Path) -> None:
    name, config, status, message = REFUSED[which]
    draft = changed(root, name, tmp_path / "draft", config)
    ran = quantkit("plan", draft, "--base", root / TARGET, *PRE)
    assert ran.status == status
    assert re.search(message, ran.stderr)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_a_table_of_another_type_is_not_taken_for_none(dtype: str, root: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    draft = changed(root, "eagle3", tmp_path / "draft", {})
    tensors = load_file(draft / "model.safetensors")
    (draft / "model.safetensors").unlink()
    save_file({**tensors, "d2t": tensors["d2t"].to(getattr(torch, dtype))}, draft / "model.safetensors")
    ran = quantkit("plan", draft, "--base", root / TARGET, *PRE)
    assert ran.status == 4
    assert 'tensor "d2t" is 128 numbers of' in ran.stderr


def test_an_empty_part_of_config_is_none(root: Path, tmp_path: Path) -> None:
    draft = changed(root, "dspark-reduced", tmp_path / "draft", {"dflash_config": None})
    file = tmp_path / "draft.gguf"
    ran = quantkit("convert", draft, "--to", "bf16", "--base", root / TARGET, *PRE, "-o", file, "--no-verify")
    assert ran.status == 0, ran.stderr
    fields = GGUFReader(file).fields
    assert fields["tokenizer.ggml.mask_token_id"].contents() == 7
    assert fields["dflash.target_layers"].contents() == [1, 2]


def test_drafts_are_run_beside_their_targets_alone(root: Path, tmp_path: Path) -> None:
    source, file = root / "gemma-4-assistant", tmp_path / "draft.gguf"
    made = quantkit("convert", source, "--to", "q8_0", "--for", "ollama", "-o", file, "--no-verify", "--json")
    assert made.status == 0, made.stderr
    assert [step["command"] for step in made.json["artifacts"][0]["next"]] == [
        f"llama-server -m TARGET.gguf -md {file}"
    ]
    assert "draft.gguf is a draft and no model by itself" in made.stderr
    assert quantkit("modelfile", file).status == 2
    assert quantkit("modelfile", tmp_path).status == 3
    folder = quantkit("convert", source, "--to", "hf-bf16", "-o", tmp_path / "out", "--no-verify", "--json")
    assert folder.json["artifacts"][0]["next"] == []


@pytest.mark.parametrize("name", [name for name, entry in family_table.TABLE.items() if entry.drafts])
def test_a_draft_is_known_by_its_family_and_not_by_the_name_of_a_class(name: str, tmp_path: Path) -> None:
    """transformers makes those of model types of their own."""
    [planned] = quantkit("plan", family_table.build(name, tmp_path), "--to", "hf-bf16", "--json").json["plans"]
    said = {verdict["consumer"]: verdict for verdict in planned["consumers"]}
    assert said["transformers"].get("rule") == ("drafts" if family_table.TABLE[name].model is None else None)
    assert "a draft runs beside its target alone" in " ".join(said["vllm"]["caveats"])


def test_a_draft_that_is_made_is_known_as_well(tmp_path: Path) -> None:
    source, out = family_table.build("eagle3-unnamed", tmp_path), tmp_path / "made"
    assert quantkit("convert", source, "--to", "hf-bf16", "-o", out, "--no-verify").status == 0
    [made] = finished_in(out)
    assert {verdict.consumer: verdict.rule for verdict in verdicts_of(made) or ()}["transformers"] == "drafts"


@pytest.mark.parametrize("recipe", ["hf-bf16", "hf-f16"])
def test_the_tables_of_a_draft_are_carried_over(recipe: str, root: Path, tmp_path: Path) -> None:
    """Flags as well, which nothing is rounded to."""
    from safetensors.torch import load_file

    out = tmp_path / "out"
    assert quantkit("convert", root / "eagle3", "--to", recipe, "-o", out).status == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (root / "eagle3", out))
    for name in ("t2d", "d2t"):
        assert after[name].dtype == before[name].dtype
        assert after[name].equal(before[name])
    assert quantkit("verify", out, "--against", root / "eagle3").status == 0


def test_layers_that_stand_where_nothing_looks_are_told(root: Path, tmp_path: Path) -> None:
    config = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 1]}}
    ran = quantkit("plan", changed(root, "eagle3", tmp_path / "draft", config), "--base", root / TARGET, *PRE)
    assert "eagle_config reads layers [0, 1, 1] of the target, the file says [0, 1, 2]" in ran.stderr


def test_a_draft_needs_its_target_and_nothing_else_has_one(root: Path, tmp_path: Path) -> None:
    eagle, target = root / "eagle3", root / TARGET
    alone = quantkit("plan", eagle)
    assert alone.status == 2
    assert "drafts for another model" in alone.stderr
    assert "--base SRC" in alone.stderr
    assert quantkit("plan", target, "--base", eagle).status == 2
    assert quantkit("plan", eagle, "--base", target, "--adapter", eagle).status == 2
    of_draft = quantkit("plan", eagle, "--base", root / "dflash")
    assert of_draft.status == 2
    assert "dflash is a draft itself" in of_draft.stderr
    plain = quantkit("plan", eagle, "--to", "hf-bf16", "--base", target)
    assert plain.status == 2
    assert "hf-bf16: --base is for GGUF files" in plain.stderr
    assert quantkit("convert", target, "--to", "bf16", *PRE, "-o", tmp_path / "t.gguf", "--no-verify").status == 0
    of_file = quantkit("plan", eagle, "--base", tmp_path / "t.gguf")
    assert of_file.status == 4
    assert "t is a GGUF file" in of_file.stderr
    masked = changed(root, "eagle3", tmp_path / "masked", {})
    (masked / "mask_embedding.pt").write_bytes(b"\x80")
    ran = quantkit("plan", masked, "--base", target, *PRE)
    assert ran.status == 4
    assert "mask_embedding.pt is a pickle" in ran.stderr


def test_the_file_of_a_draft_is_not_turned_back(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "draft.gguf"
    made = quantkit(
        "convert", root / "eagle3", "--to", "bf16", "--base", root / TARGET, *PRE, "-o", file, "--no-verify"
    )
    assert made.status == 0, made.stderr
    ran = quantkit("convert", file, "--to", "hf-bf16", "-o", tmp_path / "out")
    assert ran.status == 4
    assert 'architecture "eagle3" are not read backwards' in ran.stderr
