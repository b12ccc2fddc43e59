"""Published JSON Schemas hold what commands print, what events say, and what recipes may say."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from commands import TINY, quantkit
from hub_writer import WriterState, pushed_to
from jsonschema import Draft202012Validator
from published import require, validator

from quantkit.errors import RecipeError, UsageError
from quantkit.recipes import parse
from quantkit.recipes.read import load_recipe, recipe_names, recipe_text
from quantkit.schemas import FILES, json_schema, recipes, schema_names


@pytest.mark.parametrize("name", schema_names())
def test_schemas_are_schemas(name: str) -> None:
    schema = json_schema(name)
    assert schema["$id"] == name
    Draft202012Validator.check_schema(schema)
    assert json.loads(quantkit("schemes", "--json-schema", name).stdout) == schema


def test_schemas_by_their_short_names() -> None:
    assert json_schema("plan") == json_schema("quantkit.plan/1")
    every = json.loads(quantkit("schemes", "--json-schema", "all").stdout)
    assert set(every) == set(schema_names())
    with pytest.raises(UsageError, match="plam") as caught:
        json_schema("plam")
    assert "plan" in (caught.value.hint or "")


def outputs(folder: Path) -> Iterator[dict[str, Any]]:
    """What every command prints, in most of its forms."""
    out, events = folder / "out", folder / "events.jsonl"
    text = folder / "a.txt"
    text.write_text("All work and no play. " * 40)
    small = ["--samples", 2, "--seqlen", 16]
    for recipe, options in (("q4_k_m,q8_0", []), ("fp8", []), ("gptq-w4g128", ["--calib", text, *small])):
        made = quantkit(
            "convert", TINY, "--to", recipe, *options, "-o", out / recipe, "--json", "--events", events
        ).json
        yield made
        for artifact in made["artifacts"]:
            yield json.loads(Path(artifact["manifest"]).read_text())
    first = made["artifacts"][0]
    yield quantkit("plan", TINY, "--to", "q4_k_m,fp8,gptq-w4g128", "--fit", "24GB", "--json").json
    yield quantkit("plan", TINY, "--fit", "rtx4090", "--json").json
    yield quantkit("recommend", TINY, "--memory", "24GB", "--json").json
    yield quantkit("tune", TINY, "--to", "q8_0", "--dry-run", "--json").json
    yield quantkit("verify", out / "gptq-w4g128", "--against", TINY, "--json").json
    few = ["--data", text, "--window", 16, "--tokens", 64, "--gate", "kld<1"]
    yield quantkit("eval", out / "gptq-w4g128", "--against", TINY, *few, "--seen", "--json").json
    yield quantkit("compare", out / "gptq-w4g128", TINY, "--json").json
    yield quantkit("card", out, "--json").json
    released = quantkit("release", out, "--json").json
    yield released
    yield json.loads((Path(released["releases"][0]["folder"]) / "release.json").read_text())
    yield quantkit("modelfile", out / "q4_k_m,q8_0", "--dry-run", "--json").json
    yield quantkit("report", out / "gptq-w4g128", "--out", folder / "r.html", "--json").json
    yield quantkit("calibrate", TINY, "--data", text, *small, "-o", folder / "x.gguf", "--dry-run", "--json").json
    calibrate = quantkit("calibrate", TINY, "--data", text, *small, "-o", folder / "x.gguf", "--json").json
    yield calibrate
    yield json.loads(Path(calibrate["manifest"]).read_text())
    measured = ["--calib", text, *small]
    yield quantkit("sensitivity", TINY, *measured, "--dry-run", "--json").json
    yield quantkit("sensitivity", TINY, *measured, "-o", folder / "costs.json", "--json").json
    target = ["--sensitivity", folder / "costs.json", "--target-bpw", 6]
    yield quantkit("plan", TINY, *target, "--json").json
    work = quantkit("quantize", TINY, "--to", "q8_0", "-o", folder / "work", "--json").json
    yield work
    yield quantkit("pack", work["work"][0], "-o", folder / "packed", "--dry-run", "--json").json
    packed = quantkit("pack", work["work"][0], "-o", folder / "packed", "--json").json
    yield packed
    yield quantkit("verify", packed["artifact"]["files"][0]["path"], "--json").json
    with pushed_to(WriterState()):
        yield quantkit("push", folder / "packed", "hf://me/x", "--against", TINY, "--json").json
    short = ["--prompt", 4, "--steps", 2, "--batch", 1, "--runs", 1, "--threads", 1]
    yield quantkit("bench", packed["artifact"]["files"][0]["path"], "--against", TINY, *short, "--json").json
    matrix = folder / "matrix.toml"
    matrix.write_text(f'models = ["{TINY.resolve()}"]\nrecipes = ["bf16"]\n[batch]\nout = "batch"\n')
    yield quantkit("batch", "emit", matrix, "--for", "make", "-o", folder / "Makefile", "--json").json
    for command in ("plan", "run", "status"):
        yield quantkit("batch", command, matrix, "--json", "--events", events).json
    yield json.loads((folder / "batch" / "index.json").read_text())
    for record in (folder / "batch" / ".quantkit-batch" / "tasks").iterdir():
        yield json.loads(record.read_text())
    for what in (TINY, packed["artifact"]["files"][0]["path"], Path(first["files"][0]["path"]).parent):
        yield quantkit("inspect", what, "--json").json
    for command in (["schemes"], ["recipes"], ["recipes", "q4_0"], ["doctor"]):
        yield quantkit(*command, "--json").json
    yield quantkit("inspect", folder / "nothing", "--json", "--events", events).json
    for line in events.read_text().splitlines():
        yield json.loads(line)


@pytest.mark.slow
def test_everything_that_is_printed_fits_its_schema(tmp_path: Path) -> None:
    seen = set()
    for body in outputs(tmp_path):
        require(body)
        seen.add(body["schema"])
    assert seen == set(schema_names()) - set(FILES)


def test_outputs_that_cost_little_fit_their_schemas(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    for command in (["plan", TINY, "--to", "q4_k_m,fp8"], ["inspect", TINY], ["schemes"], ["recipes"], ["doctor"]):
        require(quantkit(*command, "--json", "--events", events).json)
    require(quantkit("plan", TINY, "--to", "q9", "--json", "--events", events).json)
    for line in events.read_text().splitlines():
        require(json.loads(line))


def damaged(body: Any) -> Iterator[Any]:
    """The object with one value of another type, or one field less, at every place of its first levels."""
    for key in list(body):
        less = copy.deepcopy(body)
        del less[key]
        yield key, less
        other = copy.deepcopy(body)
        other[key] = {"not": "this"} if not isinstance(body[key], dict) else ["nor this"]
        yield key, other


def test_schemas_refuse_what_is_not_so() -> None:
    body = quantkit("plan", TINY, "--to", "q8_0", "--json").json
    check = validator("plan")
    for key, wrong in damaged(body):
        assert not check.is_valid(wrong), key
    for key, wrong in damaged(body["plans"][0]):
        assert not check.is_valid({**body, "plans": [wrong]}), key


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_fit_their_schema(name: str) -> None:
    table = tomllib.loads(recipe_text(name))
    kind = "recipe-checkpoint" if "container" in table else "recipe-gguf"
    errors = [e.message for e in validator(kind).iter_errors(table)]
    assert errors == []


KEYS: dict[str, tuple[type, tuple[str, ...]]] = {
    "recipe-gguf": (recipes.GGUFRecipe, parse.GGUF_KEYS),
    "rule": (recipes.Rule, (*parse.GGUF_RULE_KEYS, "use")),
    "method of GGUF files": (recipes.GGUFMethod, parse.GGUF_METHOD_KEYS),
    "recipe-checkpoint": (recipes.ServerRecipe, parse.CHECKPOINT_KEYS),
    "rule of checkpoints": (recipes.ServerRule, parse.CHECKPOINT_RULE_KEYS),
    "weights": (recipes.Weights, parse.WEIGHT_KEYS),
    "method": (recipes.Method, parse.METHOD_KEYS),
}


@pytest.mark.parametrize("what", KEYS)
def test_schemas_know_all_keys_of_recipes(what: str) -> None:
    """And no other: what one of them accepts, both do."""
    declared, accepted = KEYS[what]
    assert {*get_type_hints(declared)} == {*accepted}


WRONG = [
    ("q4_k_m", {"defaults": {}}), ("q4_k_m", {"schema": 2}), ("q4_k_m", {"default": {"qtype": "q9_k"}}),
    ("q4_k_m", {"rule": [{"qtype": "q4_k", "layers": "last"}]}), ("q4_k_m", {"rule": [{"qtype": "q4_k", "role": []}]}),
    ("q4_k_m", {"title": "a/b"}), ("q4_k_m", {"strict": "yes"}), ("gptq-w4g128", {"container": "zip"}),
    ("gptq-w4g128", {"weights": {"type": "int", "bitz": 4}}), ("gptq-w4g128", {"method": {"name": "magic"}}),
    ("gptq-w4g128", {"kv_cache": "fp8"}), ("gptq-w4g128", {"on_fallback": "ignore"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), WRONG, ids=lambda value: json.dumps(value)[:40])
def test_what_the_reader_of_recipes_refuses_the_schema_refuses(
    name: str, change: dict[str, Any], tmp_path: Path
) -> None:
    table = tomllib.loads(recipe_text(name)) | change
    kind = "recipe-checkpoint" if "container" in table else "recipe-gguf"
    assert not validator(kind).is_valid(table)
    path = tmp_path / "mine.toml"
    path.write_text(as_toml(table))
    with pytest.raises(RecipeError):
        load_recipe(str(path))


def as_toml(table: dict[str, Any]) -> str:
    """A table as TOML, nested tables inline."""

    def value(one: Any) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f"{key} = {value(v)}" for key, v in one.items()) + "}"
        if isinstance(one, list):
            return "[" + ", ".join(map(value, one)) + "]"
        return json.dumps(one)

    return "".join(f"{key} = {value(one)}\n" for key, one in table.items())


def test_inspect_gives_values_as_what_they_are(tmp_path: Path) -> None:
    found = quantkit("inspect", TINY, "--json").json["metadata"]
    assert found["vocab_size"] == {"type": "int", "value": 2048}
    assert found["tie_word_embeddings"]["value"] is True
    assert found["rms_norm_eps"]["value"] == 1e-05
    assert found["pad_token_id"]["value"] is None
    assert found["rope_parameters"]["value"]["rope_theta"] == 10000.0
    made = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path / "m.gguf", "--no-verify", "--json").json
    found = quantkit("inspect", made["artifacts"][0]["files"][0]["path"], "--json").json["metadata"]
    assert found["llama.block_count"]["value"] == 4
    assert found["tokenizer.ggml.add_bos_token"]["value"] in (True, False)
    assert found["tokenizer.ggml.tokens"]["count"] == 2048
    assert all(isinstance(token, str) for token in found["tokenizer.ggml.tokens"]["value"])
    assert all(isinstance(number, int) for number in found["tokenizer.ggml.token_type"]["value"])
