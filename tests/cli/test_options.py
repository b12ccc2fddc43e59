"""Options that a recipe would ignore are refused, for every recipe there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.errors import UsageError
from quantkit.pipeline.request import USES, WITH_TEXT, Request, require_used
from quantkit.recipes.read import Recipe, load_recipe, recipe_names
from quantkit.recipes.recipe import Overrides, override

# A value for each option, as a field of Request.
VALUES = {
    "imatrix": "x.gguf", "output_type": "q8_0", "embedding_type": "q8_0", "pure": True, "split_max_size": "1G",
    "pre": "llama-bpe", "max_shard_size": "1G", "method": "rtn", "calib": "text.jsonl", "samples": 4, "seqlen": 64,
    "device": "cuda", "activations": "disk", "require_coverage": 50.0, "feedback_head": False,
    "feedback_embedding": False, "even_columns": False, "refit_norms": False,
}  # fmt: skip
# GGUF recipes whose types are chosen without importance weights; an imatrix they take, as llama-quantize does.
WITHOUT_IMPORTANCE = {"q8_0", "f16", "bf16", "f32", "mxfp4_moe"}
FED_BACK = {"feedback_head", "feedback_embedding", "even_columns", "refit_norms"}
GGUF_ONLY = {"imatrix", "output_type", "embedding_type", "pure", "split_max_size", "pre"}


def accepted(recipe: Recipe, **options: object) -> bool:
    try:
        require_used(Request("SRC", recipe.name, **options), [recipe])  # type: ignore[arg-type]
    except UsageError as error:
        assert error.hint
        assert error.message.startswith((recipe.name, "--"))
        return False
    return True


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("option", VALUES)
def test_every_option_with_every_recipe(name: str, option: str) -> None:
    recipe = load_recipe(name)
    gguf = recipe.mixture is not None
    reads_text = name not in WITHOUT_IMPORTANCE if recipe.mixture is not None else recipe.needs_calibration
    given = {option: VALUES[option]}
    if f"--{option.replace('_', '-')}" in WITH_TEXT:
        assert not accepted(recipe, **given), "without text to run"
        given["calib"] = "text.jsonl"
    wanted = {
        **dict.fromkeys(GGUF_ONLY, gguf),
        "max_shard_size": not gguf,
        "method": name not in {"f16", "bf16", "f32"},
        "require_coverage": not gguf and recipe.needs_calibration,
        **dict.fromkeys(FED_BACK, False),  # text alone makes recipes feed back
    }.get(option, reads_text)
    assert accepted(recipe, **given) == wanted


@pytest.mark.parametrize("option", ["feedback_embedding", "even_columns", "refit_norms"])
def test_statistics_are_no_text_for_what_takes_gradients(option: str) -> None:
    """Asked for it is refused, where it would do nothing; what a recipe asks for may be switched off."""
    recipe = override(load_recipe("q4_0"), Overrides(text=True))
    for wanted in (True, False):
        assert accepted(recipe, **{option: wanted}, calib="known.safetensors") is not wanted
        assert accepted(recipe, **{option: wanted}, calib="text.jsonl")


def test_the_table_names_options_that_exist() -> None:
    text = quantkit("convert", "--help").stdout
    for use in USES:
        assert use.option in text
        assert hasattr(Request("SRC"), use.field)


def test_text_serves_those_recipes_that_read_it() -> None:
    recipes = [load_recipe(name) for name in ("w8a16", "gptq-w4g128")]
    require_used(Request("SRC", ("w8a16", "gptq-w4g128"), calib="text.jsonl"), recipes)
    recipes = [load_recipe(name) for name in ("q4_k_m", "fp8")]
    require_used(Request("SRC", ("q4_k_m", "fp8"), imatrix="x.gguf"), recipes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="q8_0: --max-shard-size"):
        require_used(Request("SRC", max_shard_size="1G"), [load_recipe("fp8"), load_recipe("q8_0")])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "q8_0", "--device", "gpu"], "cpu, cuda"),
        (["--to", "q8_0", "--activations", "ram"], "memory"),
        (["--to", "q4_0", "--calib", "x.safetensors", "--samples", 3], "x.safetensors"),
        (["--to", "bf16,fp8", "--calib", "x.jsonl"], "bf16, fp8: --calib needs no calibration"),
        (["--to", "q8_0", "--method", "rtn", "--calib", "x.jsonl"], "q8_0: --calib needs no calibration"),
        (["--to", "bf16", "--method", "gptq"], "bf16: --method has nothing to round"),
        (["--to", "fp8", "--tp", 2], "--for"),
        (["--to", "fp8", "--engine", "llama.cpp"], "fp8: llama.cpp loads GGUF files"),
        (["--to", "q8_0", "--engine", "torch"], "torch"),
        (["--to", "q8_0", "--engine", "llama.cpp", "--no-verify"], "--no-verify"),
        (["--to", "gptq-w4g128", "--method", "rtn", "--calib", "x.jsonl"], "needs no calibration"),
        (["--to", ""], "no recipe"),
        (["--to", ","], "no recipe"),
        (["--to", "q8_0", "--quiet", "--verbose"], "--quiet"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_options_that_would_do_nothing(
    options: list[object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = quantkit("convert", TINY, *options)
    assert outcome.status == 2, outcome.stderr
    assert words in outcome.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [["--say", "Hello"], ["--sample-rows", 3], ["--pre", "llama-bpe"]], ids=lambda options: options[0]
)
def test_options_of_verify_that_would_do_nothing(options: list[object]) -> None:
    outcome = quantkit("verify", TINY / "nothing.gguf", *options)
    assert outcome.status == 2, outcome.stderr
    assert "needs --" in outcome.stderr


@pytest.mark.parametrize(
    "to", [["--to", "q8_0", "--to", "q4_0"], ["--to", "q8_0,q4_0"], ["--to", "q8_0,", "--to", "q4_0"]]
)
def test_recipes_may_be_listed_or_repeated(to: list[str]) -> None:
    plans = quantkit("plan", TINY, *to, "--json").json["plans"]
    assert [plan["recipe"] for plan in plans] == ["q8_0", "q4_0"]
