"""The commands that follow a conversion: quoted, complete, for programs that load the artifact."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import checkpoints
import encoder_table
import pytest
from commands import TINY, quantkit

from quantkit.families.known import gives_no_text, known_families
from quantkit.pipeline.gives import output_of
from quantkit.report.next_steps import next_steps, ollama_name

BASH = shutil.which("bash")
UNPRINTABLE = ["\udcff", "m\udce4\udcff", "it's \udc80\\n$X", "a\nb", "tab\t7", "\x7f\x1b[0m"]
AWKWARD = ["a model", "it's", 'say "hi"', "$HOME", "`id`", "-rf", "mödel", "a;b", "*"]


@pytest.mark.parametrize("name", AWKWARD)
def test_names_are_quoted(name: str) -> None:
    file = Path(name) / f"{name}-Q4_K_M.gguf"
    steps = {step.program: shlex.split(step.command) for step in next_steps([file], name)}
    said = str(file) if not name.startswith("-") else f"./{file}"
    assert steps["llama.cpp"] == ["llama-cli", "-m", said]
    assert steps["lm-studio"] == ["lms", "import", "--copy", said]
    assert steps["ollama"][:2] == ["echo", f"FROM {file.absolute()}"]
    folder = Path("/srv") / name
    python = next(s for s in next_steps([folder], name) if s.program == "transformers")
    program, option, code = shlex.split(python.command)
    assert (program, option) == ("python", "-c")
    [model] = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.keyword) and n.arg == "model"]
    assert isinstance(model, ast.Constant)
    assert model.value == str(folder)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("My-Model-Q4_K_M", "my-model:q4_k_m"), ("m", "m"), ("Ünïcode 7B-Q8_0", "n-code-7b:q8_0"), ("模型", "model"),
        ("Llama-3.1-8B-Instruct-BF16", "llama-3.1-8b-instruct:bf16"), ("Q4_0", "q4_0"),
    ],
)  # fmt: skip
def test_names_for_ollama(name: str, wanted: str) -> None:
    assert ollama_name(name) == wanted
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*(:[a-z0-9._-]+)?", wanted)


def test_what_writes_no_text_is_not_asked_for_any() -> None:
    embedding, asked, drafting = (
        [step.command for step in next_steps([Path("bert-F16.gguf")], "bert", gives=gives)]
        for gives in ("vectors", "scores", "drafts")
    )
    assert drafting == ["llama-server -m TARGET.gguf -md bert-F16.gguf"]
    assert embedding == ["llama-embedding -m bert-F16.gguf -p Hello", "lms import --copy bert-F16.gguf"]
    assert asked == ["llama-server -m bert-F16.gguf --reranking", "lms import --copy bert-F16.gguf"]
    writing_none = {family.name for family in known_families() if gives_no_text(family.name)}
    assert {"bert", "xlm_roberta_classifier", "modernbert", "modernbert_classifier", "t5_encoder"} <= writing_none
    assert not {"t5", "llama", "qwen3"} & writing_none


def test_what_judges_is_asked_for_scores() -> None:
    """Families with a head of classes, whose files do not say how they pool; and what transformers says of one."""
    told = {family.name for family in known_families() if output_of({"family": family.name}) == "scores"}
    assert {"bert_classifier", "xlm_roberta_classifier", "modernbert_classifier", "neobert_classifier"} <= told
    assert all(name.endswith("_classifier") for name in told)
    [step] = next_steps([Path("out")], "m", ("transformers",), gives="scores")
    assert "text-classification" in step.command


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("Qwen3-Reranker-0.1B", "llama-server"), ("Qwen3-Embedding-0.1B", "llama-embedding"),
        ("qwen3", "llama-cli"),
    ],
)  # fmt: skip
def test_a_language_model_that_pools_writes_no_text(name: str, program: str, tmp_path: Path) -> None:
    """Its family writes text: what it does stands in the file and in its manifest."""
    folder = checkpoints.build(name, tmp_path)
    made = quantkit("convert", folder, "--to", "f16", "-o", tmp_path / "out", "--no-verify", "--json")
    assert made.status == 0, made.stderr
    steps = {step["for"]: step["command"] for step in made.json["artifacts"][0]["next"]}
    assert steps["llama.cpp"].split()[0] == program
    assert ("ollama" in steps) is (program == "llama-cli")


def test_a_name_that_transformers_lacks_is_opened_by_the_loader_of_its_type() -> None:
    """`pipeline` finds a class by its name where the model type is none of a language model."""
    for name, opened, said in (
        ("ChameleonForCausalLM", "sights", "AutoModelForImageTextToText"), ("MptForCausalLM", "text", "pipeline"),
        ("ChameleonForConditionalGeneration", "text", "pipeline"),
    ):  # fmt: skip
        assert output_of({"family": "any", "architecture": name}) == opened
        [step] = next_steps([Path("out")], "out", ("transformers",), gives=opened)
        assert said in step.command
    assert output_of({"family": "any", "architecture": "Qwen2_5OmniModel"}) == "sounds"
    assert [s.program for s in next_steps([Path("out")], "out", gives="sounds")] == ["vllm"]
    assert len(next_steps([Path("a.gguf")], "a", gives="sights")) == len(next_steps([Path("a.gguf")], "a")) == 3


def test_only_programs_that_load_it_are_named() -> None:
    assert [s.program for s in next_steps([Path("out")], "out", ("transformers",))] == ["transformers"]
    served = next_steps([Path("out")], "out", ("vllm",), tp=2)
    assert served[0].command == "vllm serve ./out --tensor-parallel-size 2"


def test_an_encoder_is_run_by_what_has_a_use_for_it(tmp_path: Path) -> None:
    for name, program in (("t5", "AutoModelForSeq2SeqLM"), ("t5-encoder", "feature-extraction")):
        made = quantkit("convert", encoder_table.build(name, tmp_path), "--to", "fp8", "-o", tmp_path / "out", "--json")
        assert made.status == 0, made.stderr
        steps = {step["for"]: step["command"] for step in made.json["artifacts"][0]["next"]}
        assert program in steps["transformers"]
        assert not steps.keys() & {"vllm", "sglang"}
        (tmp_path / "out").rename(tmp_path / f"{name}-fp8")


def test_parts_are_imported_together(tmp_path: Path) -> None:
    made = quantkit("convert", TINY, "--to", "q8_0", "-o", tmp_path, "--split-max-size", "2MB", "--no-verify", "--json")
    [artifact] = made.json["artifacts"]
    files = [file["path"] for file in artifact["files"]]
    assert len(files) > 1
    steps = {step["for"]: step["command"] for step in artifact["next"]}
    assert shlex.split(steps["llama.cpp"])[-1] == files[0]
    froms = [word for word in shlex.split(steps["ollama"]) if word.startswith("FROM ")]
    assert [word.removeprefix("FROM ") for word in froms] == files  # ollama create joins parts that are all named
    assert steps["lm-studio"].count("--user-repo local/docs-llama-tiny-Q8_0 ") == len(files)
    assert all(file in steps["lm-studio"] for file in files)
    for command in steps.values():
        assert command in made.stderr


STUB = """#!/bin/sh
printf '%s\\0' "$(basename "$0")" "$@" >> "$SAID"
"""


@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.parametrize("name", [*AWKWARD, *UNPRINTABLE])
def test_a_shell_gives_the_bytes_of_the_name(name: str, tmp_path: Path) -> None:
    """What is pasted is plain text, and the program gets the very bytes."""
    for program in ("llama-cli", "lms", "vllm", "python", "ollama"):
        (tmp_path / program).write_text(STUB)
        (tmp_path / program).chmod(0o755)
    (tmp_path / "work").mkdir()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SAID": str(tmp_path / "said")}
    file, folder = Path("/nowhere") / f"{name}-Q8_0.gguf", Path("/nowhere") / name
    wanted = {
        "llama.cpp": [b"llama-cli", b"-m", os.fsencode(file)],
        "lm-studio": [b"lms", b"import", b"--copy", os.fsencode(file)],
        "vllm": [b"vllm", b"serve", os.fsencode(folder)],
    }
    for step in (*next_steps([file], "x-q8_0"), *next_steps([folder], "x")):
        assert step.command.isprintable()
        assert BASH
        subprocess.run([BASH, "-c", step.command], check=True, env=environment, cwd=tmp_path / "work")
        said = (tmp_path / "said").read_bytes().split(b"\0")[:-1]
        (tmp_path / "said").unlink()
        if step.program in wanted:
            assert said == wanted[step.program]
        elif step.program == "transformers":
            assert said[:2] == [b"python", b"-c"]
            [model] = [n.value for n in ast.walk(ast.parse(said[2])) if isinstance(n, ast.keyword) and n.arg == "model"]
            assert os.fsencode(eval(ast.unparse(model))) == os.fsencode(folder)
        else:
            modelfile = (tmp_path / "work" / "x-q8_0.modelfile").read_bytes()
            assert modelfile == b"FROM " + os.fsencode(file) + b"\n"


def test_the_next_command_after_an_output_that_is_no_utf8(tmp_path: Path) -> None:
    out = tmp_path / "m\udcff"
    made = quantkit("convert", TINY, "--to", "q8_0", "-o", out, "--no-verify", "--json")
    commands = [step["command"] for step in made.json["artifacts"][0]["next"]]
    assert all("m\\377" in command and "udcff" not in command for command in commands)
    assert all(command in made.stderr for command in commands)
