"""What README and docs say is so: commands run, lists are the registries', tables are those of the code."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, quantkit
from examples import examples, wrong
from hub_writer import WriterState, pushed_to

from quantkit.cli.app import program
from quantkit.families import assumptions, general, keys
from quantkit.families.known import known_families
from quantkit.families.towers import known_towers
from quantkit.plan import feedback, grids
from quantkit.qtypes import base
from quantkit.recipes.read import recipe_names
from quantkit.tokenizer import special_tokens

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = program().commands
GROUPS = [name for name, command in PROGRAM.items() if hasattr(command, "commands")]
COMMANDS = [name for name in PROGRAM if name not in GROUPS]
MEMBERS = [f"{name} {member}" for name in GROUPS for member in PROGRAM[name].commands]


def section(path: str, title: str) -> str:
    """The text under a heading, up to the next one of the same or a higher level."""
    text = (ROOT / path).read_text()
    [start] = re.finditer(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    end = re.search(rf"^#{{1,{len(start[1])}}} ", text[start.end() :], re.MULTILINE)
    return text[start.end() : start.end() + end.start()] if end else text[start.end() :]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    heads = {i - 1 for i, row in enumerate(cells) if set("".join(row)) <= set("-: ")}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def spans(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def help_of(command: str) -> str:
    outcome = quantkit(*command.split(), "--help")
    assert outcome.status == 0, command
    return outcome.stdout


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def my_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(TINY, tmp_path / "My-Model")
    shutil.copy(TINY.parent / "calibration.jsonl", tmp_path / "text.jsonl")
    shutil.copy(TINY.parent / "held-out.jsonl", tmp_path / "held-out.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_readme_run(my_model: Path) -> None:
    listed = examples(ROOT / "README.md")
    targets = [example.command.split()[1] for example in listed if example.program == "make"]
    assert [t for t in targets if not re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.MULTILINE)] == []
    found = list(wrong(ROOT / "README.md"))
    assert not found, "\n\n".join(found)
    run = [example.command.split()[1] for example in listed if example.runs]
    home = ["recommend", "tune", "plan", "convert", "verify", "eval"]
    assert run == [*home, "plan", "convert", "convert", "verify", "convert"]
    [made] = re.findall(r"# -> (\S+\.gguf)", (ROOT / "README.md").read_text())
    assert (my_model / made).is_file()
    manifest = json.loads((my_model / "out-gptq" / "model.manifest.json").read_text())
    assert manifest["calibration"]["name"] == "default"  # the shipped text
    assert str(ROOT) not in json.dumps(manifest)


def test_the_options_of_the_readme_work(my_model: Path) -> None:
    """The right column of the table "you want ... say ..."."""
    tried = []
    for row in rows(section("README.md", "Convert a model of your own")):
        for option in spans(row[-1]):
            name = option.split()[0]
            if name == "--imatrix" or not option.startswith("--"):
                assert name in {"--imatrix", "quantkit"} or name in recipe_names(), option
                continue
            recipe = [] if name == "--to" else ["--to", "q4_k_m"]
            if option == "--to my.toml":
                (my_model / "my.toml").write_text(quantkit("recipes", "show", "q4_k_m").stdout)
            outcome = quantkit("plan", "My-Model", *recipe, *shlex.split(option))
            assert outcome.status == 0, (option, outcome.stderr)
            tried.append(name)
    assert {"--to", "--keep", "--output-type", "--embedding-type", "--pure", "--on-fallback"} <= set(tried)


def test_every_option_in_the_docs_exists() -> None:
    texts = [help_of(command) for command in (*COMMANDS, *MEMBERS)]
    known = set(re.findall(r"--[a-z][a-z-]+", "".join(texts) + quantkit("--help").stdout))
    foreign = {"--tensor-type", "--copy", "--reranking"}  # of llama-quantize, LM Studio, llama-server
    for path in (ROOT / "README.md", ROOT / "docs" / "cli.md", ROOT / "docs" / "recipes.md"):
        said = {option for span in spans(path.read_text()) for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", span)}
        assert said - foreign <= known, path.name
    past_or_made_up = {"CHANGELOG.md", "extending.md"}  # the latter's are run by test_extending.py
    for path in (path for path in DOCS if path.name not in past_or_made_up):
        for example in examples(path):
            if example.program == "quantkit":
                command, *arguments = example.command.split()[1:]
                command = " ".join([command, *arguments[:1]]) if command in GROUPS else command
                asked = {a.partition("=")[0] for a in arguments if a.startswith("--")}
                assert asked <= set(re.findall(r"--[a-z-]+", help_of(command))), example.command


def test_the_commands_of_the_contract_exist() -> None:
    tree = section("docs/cli.md", "Commands").split("```")[1]
    named = [name for line in tree.splitlines() for name in re.findall(r"[├└]── (\w+)(?: · (\w+))?", line)]
    assert {name for pair in named for name in pair if name} == {*COMMANDS, *GROUPS}
    everywhere = spans(
        next(line for line in section("docs/cli.md", "Commands").splitlines() if "Every command" in line)
    )
    for command in COMMANDS:
        text = help_of(command)
        for option in [span.split()[0] for span in everywhere if span.startswith("--")][:-2]:
            assert option in text, (command, option)
    for command in ("convert", "quantize", "pack"):
        assert "--dry-run" in help_of(command)
    for command in ("convert", "pack"):
        assert "--force" in help_of(command)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_the_families_of_the_readme_are_those_of_the_registry() -> None:
    """One name a line, so that a family is one line of a change."""
    said = section("README.md", "What it knows").partition("Types:")[0]
    _, _, listed = said.partition("for each):\n")
    expected = "".join(f"{family.name},\n" for family in known_families())
    assert listed.strip() == expected.strip().removesuffix(",") + ".", expected


def test_the_types_of_the_readme_are_those_of_the_registry() -> None:
    [text] = re.findall(r"Types: ([^.]*)\.", section("README.md", "What it knows"))
    said = set(text.lower().replace("q2_k to q6_k", "q2_k, q3_k, q4_k, q5_k, q6_k").split(", "))
    assert said == set(base.names())


# --- JSON ------------------------------------------------------------------------------------------------------------


def documented_fields() -> dict[str, tuple[set[str], str, set[str]]]:
    """Schema -> fields of the object, the one whose inner fields are listed ("": none), and those."""
    found = {}
    for schema, _, fields in rows(section("docs/cli.md", "JSON objects")):
        outer, colon, inner = fields.partition("; of checkpoints")[0].partition(":")
        found[schema.strip("`")] = set(spans(outer)), spans(outer)[-1] if colon else "", set(spans(inner))
    return found


def answers(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One answer of every command."""
    out = folder / "out"
    convert = quantkit("convert", TINY, "--to", "q8_0", "-o", out, "--no-verify", "--json").json
    yield "quantkit.convert/1", convert
    yield "quantkit.plan/1", quantkit("plan", TINY, "--to", "q8_0", "--json").json
    work = quantkit("quantize", TINY, "--to", "q8_0", "-o", folder / "work", "--json").json
    yield "quantkit.quantize/1", work
    (folder / "a.txt").write_text("All work and no play. " * 40)
    small = ["--data", folder / "a.txt", "--samples", 2, "--seqlen", 16, "-o", folder / "x.gguf"]
    calibrate = quantkit("calibrate", TINY, *small, "--json").json
    yield "quantkit.calibrate/1", calibrate
    yield "quantkit.calibration/1", json.loads(Path(calibrate["manifest"]).read_text())
    yield "quantkit.pack/1", quantkit("pack", work["work"][0], "-o", folder / "packed", "--json").json
    yield "quantkit.verify/1", quantkit("verify", convert["artifacts"][0]["files"][0]["path"], "--json").json
    file = convert["artifacts"][0]["files"][0]["path"]
    few = ["--data", folder / "a.txt", "--window", 16, "--tokens", 64]
    yield "quantkit.eval/1", quantkit("eval", file, "--against", TINY, *few, "--json").json
    yield "quantkit.compare/1", quantkit("compare", file, TINY, "--json").json
    yield "quantkit.card/1", quantkit("card", out, "--json").json
    with pushed_to(WriterState()):
        yield (
            "quantkit.push/1",
            quantkit("push", folder / "packed", "hf://me/x", "--against", TINY, "--dry-run", "--json").json,
        )
    yield "quantkit.released/1", quantkit("release", out, "--against", TINY, "--json").json
    yield "quantkit.release/1", json.loads((out / "release.json").read_text())
    yield "quantkit.modelfile/1", quantkit("modelfile", out, "--json").json
    short = ["--prompt", 4, "--steps", 2, "--batch", 1, "--runs", 1, "--threads", 1]
    yield "quantkit.bench/1", quantkit("bench", file, *short, "--json").json
    yield "quantkit.report/1", quantkit("report", file, "--out", folder / "r.html", "--json").json
    measured = ["--calib", folder / "a.txt", "--samples", 2, "--seqlen", 16]
    yield "quantkit.sensitivity/2", quantkit("sensitivity", TINY, *measured, "--json").json
    yield "quantkit.sensitivity_plan/1", quantkit("sensitivity", TINY, *measured, "--dry-run", "--json").json
    yield "quantkit.recommend/1", quantkit("recommend", TINY, "--json").json
    yield "quantkit.tune/1", quantkit("tune", TINY, "--to", "q8_0", "--dry-run", "--json").json
    yield "quantkit.inspect/1", quantkit("inspect", TINY, "--json").json
    yield "quantkit.schemes/1", quantkit("schemes", "--json").json
    yield "quantkit.recipes/1", quantkit("recipes", "--json").json
    yield "quantkit.recipe/1", quantkit("recipes", "show", "q4_0", "--json").json
    yield "quantkit.doctor/1", quantkit("doctor", "--json").json
    matrix = folder / "matrix.toml"
    matrix.write_text(f'models = ["{TINY.resolve()}"]\nrecipes = ["q8_0"]\n[batch]\nout = "batch"\nverify = false\n')
    yield "quantkit.batch_plan/1", quantkit("batch", "plan", matrix, "--json").json
    emit = ["batch", "emit", matrix, "--for", "make", "-o", folder / "Makefile"]
    yield "quantkit.batch_emit/1", quantkit(*emit, "--json").json
    yield "quantkit.batch/1", quantkit("batch", "run", matrix, "--json").json
    yield "quantkit.batch_index/1", json.loads((folder / "batch/index.json").read_text())
    [record] = (folder / "batch/.quantkit-batch/tasks").iterdir()
    yield "quantkit.batch_task/1", json.loads(record.read_text())
    yield "quantkit.error/1", quantkit("inspect", folder / "nothing", "--json").json
    yield "quantkit.manifest/1", json.loads(Path(convert["artifacts"][0]["manifest"]).read_text())


def test_json_objects_have_the_documented_fields(tmp_path: Path) -> None:
    documented = documented_fields()
    for schema, body in answers(tmp_path):
        outer, container, inner = documented.pop(schema)
        assert body.pop("schema") == schema
        assert set(body) == outer, schema
        if container:
            found = body[container][0] if isinstance(body[container], list) else body[container]
            if schema == "quantkit.pack/1":
                assert "as in convert" in section("docs/cli.md", "JSON objects")
                inner = documented_fields()["quantkit.convert/1"][2]
            figures = set(found) - inner if schema == "quantkit.verify/1" else set()
            assert set(found) - figures == inner, schema
    assert set(documented) == {"quantkit.work/1", "quantkit.event/1"}


def test_every_schema_is_documented() -> None:
    used = {s for p in (ROOT / "quantkit").rglob("*.py") for s in re.findall(r'"(quantkit\.\w+/\d+)"', p.read_text())}
    assert used == set(documented_fields())


# --- metadata --------------------------------------------------------------------------------------------------------


def documented_keys(title: str) -> set[tuple[str, str]]:
    """(key, type) of a table of docs/metadata.md."""
    return {(key, row[1]) for row in rows(section("docs/metadata.md", title)) for key in spans(row[0])}


def keys_of(entry: keys.KeyRow) -> set[tuple[str, str]]:
    """The keys that an entry of a family's table can write."""
    if isinstance(entry, (keys.Key, keys.FirstOf)):
        return {(entry.name, entry.kind)}
    made = inspect.getclosurevars(entry).nonlocals
    if {"name", "kind"} <= set(made):  # by per_layer or computed
        return {(made["name"], made["kind"])}
    found = set(re.findall(r'Key(?:Value)?\("([\w.]+)", "(\w+)"', inspect.getsource(entry)))
    return found | {(k.name, k.kind) for _, more in keys.SCALING.values() for k in more if entry is keys.rope_scaling}


def test_the_keys_of_architectures_are_those_of_the_families() -> None:
    """Which family writes which key is in its row; what the key says is in the table."""
    written = {key for family in known_families() for entry in family.keys for key in keys_of(entry)}
    assert documented_keys("The architecture") == written


def test_the_keys_of_encoders_are_those_of_the_towers() -> None:
    written = {key for tower in known_towers() for entry in tower.keys for key in keys_of(entry)}
    assert documented_keys("An encoder's file") == written
    named = section("docs/metadata.md", "An encoder's file")
    assert all(f"`{tower.name}`" in named for tower in known_towers())


def test_the_general_keys_are_those_of_the_code() -> None:
    sampling = {(f"general.sampling.{name}", kind) for name, kind, _ in general.SAMPLING}
    card = {(f"general.{name}", "string") for name in general.CARD}
    related = {(f"general.{kind}.count", "u32") for kind in general.RELATED}
    related |= {(f"general.{kind}.{{i}}.*", "string") for kind in general.RELATED}
    lists = {(f"general.{name}", "array of string") for name in general.LISTS}
    first = {("general.architecture", "string"), ("general.type", "string")}
    assert documented_keys("The model as a whole") == first | sampling | card | related | lists
    text = section("docs/metadata.md", "The model as a whole")
    assert all(key in text for key in general.RELATED_KEYS)


def test_the_tokenizer_keys_are_those_of_the_code() -> None:
    documented = documented_keys("The tokenizer")
    ids = {(f"tokenizer.ggml.{name}", "u32") for name in special_tokens.ID_KEYS.values()}
    adds = {(f"tokenizer.ggml.{name}", "bool") for name in special_tokens.ADD_KEYS.values()}
    assert {entry for entry in documented if entry[0].endswith("_token_id")} == ids
    assert {
        entry for entry in documented if entry[0].startswith("tokenizer.ggml.add_") and "token" in entry[0][15:]
    } == adds
    sources = "".join(p.read_text() for p in (ROOT / "quantkit" / "families").glob("*.py"))
    literal = set(re.findall(r'"(tokenizer\.(?:ggml\.|chat_)\w+)"', sources)) | {"tokenizer.chat_templates"}
    assert literal <= {key for key, _ in documented}


def test_the_keys_of_the_file_are_those_of_a_plan() -> None:
    documented = {key for key, _ in documented_keys("The file")}
    sources = "".join(
        (ROOT / "quantkit" / path).read_text()
        for path in (
            "plan/gguf.py",
            "plan/feedback.py",
            "plan/codes.py",
            "formats/gguf/file.py",
            "formats/gguf/imatrix.py",
        )
    )
    written = {grids.PRESERVE_KEY, feedback.METHOD_KEY, feedback.REFIT_KEY} | set(
        re.findall(r'KeyValue\(\s*"((?:general|quantize|quantkit|split)\.[\w.]+)"', sources)
    )
    assert documented == written - {"general.type"}  # of an importance matrix, which is a GGUF file of its own


def test_differences_are_held_by_tests_that_exist() -> None:
    table = rows(section("docs/metadata.md", "Differences from llama.cpp's tools, and why"))
    assert len(table) > 10
    for _, _, held in table:
        for span in spans(held):
            path, _, name = span.partition("::")
            assert (ROOT / path).is_file(), span
            assert not name or f"def {name}(" in (ROOT / path).read_text(), span


def test_the_settings_that_llama_cpp_ignores_are_those_of_the_code() -> None:
    table = rows(section("docs/metadata.md", "What llama.cpp computes differently"))
    said = {span for row in table for span in spans(" ".join(row))}
    own = {check for family in known_families() for check in family.assumes if check.__module__ != assumptions.__name__}
    code = inspect.getsource(assumptions) + "".join(map(inspect.getsource, own))
    read = re.findall(r'(?:number|required|flag|get|_activation)\((?:hparams, )?"(\w+)"', code)
    read += re.findall(r'\("(\w+)", [\d.]+\)', code) + re.findall(r'"(\w+) is \{', code)
    looked_up = {"rope_type", "rope_factor", "max_position_embeddings", "num_hidden_layers", "hidden_size", "head"}
    # what is compared with, or where it stands: not what is ignored
    looked_up |= {
        "num_attention_heads",
        "rope_scaling",
        "rope_parameters",
        "model_type",
        "num_local_experts",
        "vocab_size",
    }
    renamed = {"rope_temperature": "attention_factor", "rope_theta_swa": "rope_theta"}
    renamed["rope_original_context"] = "original_max_position_embeddings"
    assert said == {renamed.get(key, key) for key in read} - looked_up
    assert set(re.findall(r"[a-z]\w+", " ".join(row[2].partition(":")[0] for row in table))) <= {
        family.name for family in known_families()
    } | {"all"}


# --- text ------------------------------------------------------------------------------------------------------------

DEPRECATED = {
    r"\bhuggingface-cli\b": "hf",
    r"\bconvert[-.](?:hf-to-gguf\.)?py\b": "convert_hf_to_gguf.py",
    r"convert-hf-to-gguf": "convert_hf_to_gguf.py",
    r"(?<![\w`])\./(?:main|quantize|server|perplexity|imatrix)\b": "llama-*",
    r"\bTRANSFORMERS_CACHE\b|\bHUGGINGFACE_HUB_CACHE\b": "HF_HUB_CACHE",
    r"\bHUGGING_FACE_HUB_TOKEN\b": "HF_TOKEN",
    r"\bHF_HUB_ENABLE_HF_TRANSFER\b|\bhf_transfer\b": "hf-xet",
    r"\buse_auth_token\b": "token",
    r"\btorch_dtype\b": "dtype",
    r"\bggml-(?:org/)?ggml-model\b|\.ggmlv3\b": "gguf",
}


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_name_that_its_project_gave_up(path: Path) -> None:
    text = path.read_text()
    for old, new in DEPRECATED.items():
        assert not re.search(old, text), f"{old}: say {new}"


def test_help_and_hints_use_present_names() -> None:
    texts = [help_of(command) for command in COMMANDS]
    texts += [line for p in (ROOT / "quantkit").rglob("*.py") for line in p.read_text().splitlines() if "hint" in line]
    for old, new in DEPRECATED.items():
        assert not [t for t in texts if re.search(old, t)], f"{old}: say {new}"


# Pages and files that the site's build makes, whose links test_site.py checks.
MADE = ("reference/", "schemas/", "notebook.md")


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        made = any(part in target for part in MADE)
        assert target.startswith("https://") or (path.parent / target).exists() or made, target
    for span in spans(text):
        if re.fullmatch(r"(?:[\w.-]+/)+[\w.-]+\.(?:py|toml|md)|\w+\.py", span) and "convert_hf" not in span:
            places = (ROOT, ROOT / "quantkit", ROOT / "tests")
            assert any((place / span).exists() for place in places) or span in ELSEWHERE, span


# Files of other projects, and names that docs make up.
ELSEWHERE = {"conversion/llama.py"}


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_folder_of_a_machine_is_named(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:home|root|work|opt|tmp|Users)/\w", path.read_text())


# --- reliability ------------------------------------------------------------------------------------------------------

RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_that_a_promise_names_exists() -> None:
    named = {span for span in spans(RELIABILITY) if span.endswith(".py")}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_promise_is_tested_or_says_that_it_is_not() -> None:
    for title, column in (("Threats", 3), ("Failures", 2), ("Invariants", 2), ("Figures", 2)):
        table = rows(section("docs/reliability.md", title))
        assert len(table) > 4
        for row in table:
            tested = [span for span in spans(row[column]) if span.startswith("tests/")]
            assert tested or row[column] == "-", row
    assert [row[0] for row in rows(section("docs/reliability.md", "Threats"))] == [str(n) for n in range(1, 22)]
