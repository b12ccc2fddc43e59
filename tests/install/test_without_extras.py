"""`pip install quantkit-cli` and nothing else: what works without the extras, and who says which extra it needs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import TINY, Outcome, quantkit

from quantkit import extras
from quantkit.cli.failures import as_error
from quantkit.errors import UnsupportedError
from quantkit.extras import EXTRAS, install_command, not_installed, require_installed
from quantkit.pipeline.catalogue import list_recipes
from quantkit.recipes.read import load_recipe

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
NO_PART_OF_THE_PROGRAM = {"all", "dev", "docs"}
MODULES = [module for extra in EXTRAS.values() for module, _ in extra.modules]
HELD_OUT = TINY.parent / "held-out.jsonl"


def run(commands: Sequence[Sequence[object]], absent: Sequence[str] = MODULES) -> list[Outcome]:
    """Command lines, one after the other, in one process in which modules are absent."""
    found = subprocess.run(
        [sys.executable, Path(__file__).with_name("blocked.py"), ",".join(absent)],
        input=json.dumps([[str(argument) for argument in command] for command in commands]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return [Outcome(**each) for each in json.loads(found.stdout)]


# What needs no extra, in an order in which each finds what it reads.
WORKS = [
    "convert TINY --to q4_k_m -o OUT",
    "verify OUT/docs-llama-tiny-Q4_K_M.gguf --against TINY",
    "plan TINY --to q4_k_m",
    "plan TINY --to gptq-w4g128 --calib default",
    "inspect OUT/docs-llama-tiny-Q4_K_M.gguf",
    "recipes",
    "recipes show q4_k_m",
    "schemes",
    "doctor OUT",
    "card OUT/docs-llama-tiny-Q4_K_M.gguf --against TINY",
    "compare TINY OUT/docs-llama-tiny-Q4_K_M.gguf",
    "recommend TINY --memory 1GB",
    "quantize TINY --to q8_0 -o OUT/job",
    "pack OUT/job/Q8_0 -o OUT/packed",
    "report OUT/docs-llama-tiny-Q4_K_M.gguf --out OUT/report.html",
    "convert TINY --to w8a8 -o OUT/w8a8",
    "verify OUT/w8a8 --against TINY",
    "calibrate TINY --data default -o OUT/x.safetensors --dry-run",
    "tune TINY --to q4_k_m,q8_0 --dry-run",
    "sensitivity TINY --calib default --dry-run",
]

# What an extra is needed for: the words behind "error[unsupported]: ", and the extras of the hint.
NEEDS = [
    ("convert TINY --to gptq-w4g128 --calib default -o OUT/x", "--calib needs torch and", "calibrate"),
    ("convert TINY --to q4_k_m --calib default -o OUT/x", "--calib needs torch and", "calibrate"),
    ("convert MISSING --to q4_k_m --calib default -o OUT/x", "--calib needs torch and", "calibrate"),
    ("convert TINY --to w4a16 --calib stats.safetensors -o OUT/x", "--calib needs torch and", "calibrate"),
    ("plan TINY --to w4a16 --calib stats.safetensors", "--calib needs torch and", "calibrate"),
    ("plan TINY --to iq2_xs --method rtn --calib default", "--calib needs torch and", "calibrate"),
    ("quantize TINY --to w4a16 --calib default -o OUT/x", "--calib needs torch and", "calibrate"),
    ("convert TINY --target-bpw 4.5 --calib default -o OUT/x", "--calib needs torch and", "calibrate"),
    ("convert TINY --gate kld<1 --eval-data HELD -o OUT/x", "--gate needs torch and", "calibrate"),
    ("convert MISSING --engine llama.cpp -o OUT/x", "--engine llama.cpp beside the source needs xllamacpp and torch",
     "llamacpp,calibrate"),
    ("verify MISSING.gguf --engine llama.cpp", "--engine llama.cpp needs xllamacpp", "llamacpp"),
    ("verify MISSING --engine torch", "--engine torch needs torch and", "calibrate"),
    ("verify MISSING --engine transformers", "--engine transformers needs torch and", "calibrate"),
    ("calibrate MISSING --data default -o OUT/x.safetensors", "calibrate needs torch and", "calibrate"),
    ("sensitivity MISSING --calib default", "sensitivity needs torch and", "calibrate"),
    ("tune MISSING --to q4_k_m --gate kld<1 --eval-data HELD -o OUT/x", "tune needs torch and", "calibrate"),
    ("eval MISSING.gguf --against TINY --data HELD", "eval needs torch and", "calibrate"),
    ("compare MISSING TINY --text", "--text needs torch and", "calibrate"),
    ("compare MISSING TINY --prompt a", "--prompt needs torch and", "calibrate"),
    ("bench MISSING.gguf", "the llama.cpp engine needs xllamacpp", "llamacpp"),
    ("calibrate MISSING --data a.parquet -o OUT/x.gguf", "reading a.parquet needs pyarrow", "data"),
    ("calibrate MISSING --data hf://org/name -o OUT/x.gguf", "reading hf://org/name needs datasets", "data"),
    ("convert MISSING --to w4a16 --calib a.parquet -o OUT/x", "reading a.parquet needs pyarrow", "data"),
    ("convert MISSING --gate kld<1 --eval-data a.parquet -o OUT/x", "reading a.parquet needs pyarrow", "data"),
    ("eval MISSING.gguf --against TINY --data a.parquet", "reading a.parquet needs pyarrow", "data"),
]  # fmt: skip


def words(line: str, out: Path) -> list[str]:
    places = {"TINY": str(TINY), "OUT": str(out), "HELD": str(HELD_OUT), "MISSING": str(out / "missing")}
    found = []
    for word in line.split():
        head, rest = next(((key, word.removeprefix(key)) for key in places if word.startswith(key)), ("", word))
        found.append(places.get(head, "") + rest)
    return found


def test_the_core_works_and_the_rest_names_its_extra_before_any_work(tmp_path: Path) -> None:
    commands = [*WORKS, *(line for line, _, _ in NEEDS)]
    outcomes = run([words(line, tmp_path) for line in commands])
    for line, outcome in zip(WORKS, outcomes[: len(WORKS)], strict=True):
        assert outcome.status == 0, f"{line}\n{outcome.stderr}"
    for (line, what, names), outcome in zip(NEEDS, outcomes[len(WORKS) :], strict=True):
        assert outcome.status == 4, f"{line}\n{outcome.stderr}"
        assert f"error[unsupported]: {what}" in outcome.stderr, line
        assert f"hint: pip install 'quantkit-cli[{names}]'" in outcome.stderr, line
    assert not list(tmp_path.glob("x*")), "something was begun"
    assert not list(tmp_path.glob(".quantkit-*")), "something was begun"
    doctor = outcomes[WORKS.index("doctor OUT")].stdout
    for name in EXTRAS:
        assert install_command([name]) in doctor
    assert quantkit("convert", TINY, "--to", "q4_k_m", "-o", tmp_path / "with").status == 0
    files = [folder / "docs-llama-tiny-Q4_K_M.gguf" for folder in (tmp_path, tmp_path / "with")]
    assert files[0].read_bytes() == files[1].read_bytes(), "other bytes without the extras"


@pytest.mark.slow
def test_checkpoints_without_text_need_no_extra(tmp_path: Path) -> None:
    recipes = [load_recipe(recipe["name"]) for recipe in list_recipes()]
    plain = [recipe for recipe in recipes if not recipe.needs_calibration and not recipe.mixture]
    names = {(recipe.container, recipe.weights.type): recipe.name for recipe in plain}.values()
    [made] = run([["convert", TINY, "--to", ",".join(names), "--no-verify", "-o", tmp_path]])
    assert made.status == 0, made.stderr


@pytest.mark.parametrize("name", EXTRAS)
def test_the_table_is_that_of_the_project(name: str) -> None:
    """The packages that the table asks for come with the extra."""
    brought = " ".join(OPTIONAL[name])
    assert all(package in brought for _, package in EXTRAS[name].modules)
    packages = tuple(package for _, package in EXTRAS[name].modules)
    assert not [line for line in PROJECT["dependencies"] if line.startswith(packages)]


def test_every_extra_is_known_and_part_of_all() -> None:
    assert {*EXTRAS} == {*OPTIONAL} - NO_PART_OF_THE_PROGRAM
    [everything] = OPTIONAL["all"]
    assert {*everything.removeprefix("quantkit-cli[").removesuffix("]").split(",")} == {*EXTRAS}


def test_a_check_beside_the_source_names_what_is_missing_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module == "xllamacpp")
    made = quantkit("convert", TINY, "--engine", "llama.cpp", "--dry-run")
    assert made.status == 0, "a plan runs nothing"
    made = quantkit("convert", TINY, "--engine", "llama.cpp")
    assert made.status == 4
    assert "beside the source needs torch and transformers" in made.stderr
    assert "pip install 'quantkit-cli[calibrate]'" in made.stderr


def test_a_module_that_nobody_asked_for_before_is_no_bug() -> None:
    """The last line of defence: whatever imports a module of an extra without having asked."""
    known = as_error(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert isinstance(known, UnsupportedError)
    assert known.hint == "pip install 'quantkit-cli[calibrate]'"
    assert as_error(ModuleNotFoundError("No module named 'numpy'", name="numpy")) is None


def test_half_loaded_modules_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsupportedError, match="this needs torch, which is not installed") as caught:
        require_installed("this", ["numpy", "torch"])
    assert caught.value.key == "torch"
    instead = not_installed("a", ["pyarrow"], instead="do b").hint
    assert instead == "pip install 'quantkit-cli[data]'; or do b"
