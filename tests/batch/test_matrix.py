"""A matrix becomes tasks, or all that is wrong with it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import checkpoints
import pytest
from commands import TINY, quantkit
from hub_server import HubState, serve
from hypothesis import given
from hypothesis import strategies as st
from matrices import written
from published import validator

from quantkit.batch.expand import Wish, slug, wishes_of
from quantkit.batch.faults import Faults
from quantkit.batch.ledger import keys_of
from quantkit.batch.matrix import read_matrix
from quantkit.batch.options import OF_OUTPUT, OPTIONS, arguments
from quantkit.errors import QuantkitError
from quantkit.machine import core_count
from quantkit.pipeline.batch import BatchRequest, expand, idle
from quantkit.pipeline.batch_plan import request_of
from quantkit.schemas.batch import MatrixOptions
from quantkit.source.hub_access import Hub

BASIC = 'models = ["alpha", "beta"]\nrecipes = ["q4_k_m", "q8_0", "fp8"]\n'
TEXT = '{"text": "All work and no play."}\n'


def tasks(path: Path) -> dict[str, Wish]:
    faults = Faults()
    found = wishes_of(read_matrix(path), idle, faults)
    faults.require_none()
    return {wish.task.id: wish for wish in found}


def test_gguf_recipes_of_a_model_share_one_read(tmp_path: Path) -> None:
    found = tasks(written(tmp_path, BASIC))
    assert list(found) == ["alpha.gguf", "alpha.fp8", "beta.gguf", "beta.fp8"]
    first = found["alpha.gguf"].task
    assert first.recipes == ("q4_k_m", "q8_0")
    assert first.argv == (
        "convert", str(tmp_path / "alpha"), "--to=q4_k_m", "--to=q8_0", f"--out={tmp_path / 'out' / 'alpha'}",
    )  # fmt: skip
    assert found["beta.fp8"].task.out == tmp_path / "out" / "beta" / "fp8"


def test_recipes_with_text_are_tasks_of_their_own_and_others_do_without(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(TEXT)
    found = tasks(written(tmp_path, f'{BASIC}[batch]\ncalib = "t.jsonl"\nsamples = 4\n'))
    assert {"alpha.q4_k_m", "alpha.q8_0", "alpha.fp8"} <= set(found)
    assert f"--calib={tmp_path / 't.jsonl'}" in found["alpha.q4_k_m"].task.argv
    assert "--samples=4" in found["alpha.q4_k_m"].task.argv
    assert not any("calib" in word or "samples" in word for word in found["alpha.fp8"].task.argv)


def test_the_later_of_batch_recipe_model_and_override_counts(tmp_path: Path) -> None:
    text = """
    [batch]
    keep = ["a=q8_0"]
    max_shard_size = "1GB"
    [[models]]
    source = "alpha"
    keep = ["c=q8_0"]
    [[models]]
    source = "beta"
    [[recipes]]
    to = "q4_k_m"
    keep = ["b=q8_0"]
    [[recipes]]
    to = "q6_k"
    [[recipes]]
    to = "fp8"
    keep = "z=bf16"
    [[overrides]]
    model = "b*"
    recipe = "q6*"
    keep = ["d=q8_0"]
    """
    by_pair = {
        (wish.task.model, recipe): wish.options["keep"]
        for wish in tasks(written(tmp_path, text)).values()
        for recipe in wish.task.recipes
    }
    assert by_pair["alpha", "q4_k_m"] == by_pair["alpha", "q6_k"] == ("c=q8_0",)
    assert by_pair["beta", "q4_k_m"] == ("b=q8_0",)
    assert by_pair["beta", "q6_k"] == ("d=q8_0",)
    assert by_pair["beta", "fp8"] == ("z=bf16",)


def test_entries_extend_others_and_templates_are_no_tasks(tmp_path: Path) -> None:
    text = """
    [[models]]
    name = "base"
    template = true
    recipes = ["q8_0"]
    [[models]]
    source = "alpha"
    extends = "base"
    [[models]]
    source = "beta"
    [[recipes]]
    to = "q8_0"
    [[recipes]]
    name = "wide"
    extends = "narrow"
    max_shard_size = "2GB"
    [[recipes]]
    name = "narrow"
    to = "fp8"
    max_shard_size = "1GB"
    """
    found = tasks(written(tmp_path, text))
    assert set(found) == {"alpha.gguf", "beta.gguf", "beta.wide", "beta.narrow"}
    assert found["beta.wide"].to == ("fp8",)
    assert found["beta.wide"].options["max_shard_size"] == "2GB"


def test_excluded_pairs_are_not_made(tmp_path: Path) -> None:
    found = tasks(
        written(tmp_path, BASIC + 'exclude = [{model = "a*", recipe = "q*"}, {recipe = "fp8", model = "beta"}]')
    )
    assert set(found) == {"alpha.fp8", "beta.gguf"}


def test_ids_stay_when_the_matrix_grows_and_keys_follow_what_decides_the_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, 'models = ["alpha"]\nrecipes = ["q8_0", {to = "q4_0", folder = "old"}]\n')
    before = tasks(path)
    own = tmp_path / "mine.toml"
    own.write_text("schema = 1\ndefault = {qtype = 'q8_0'}\ntitle = 'MINE'\n")
    path.write_text(
        'models = ["beta", "alpha"]\nrecipes = ["q6_k", {to = "q4_0", folder = "old"}, "q8_0", "mine.toml"]\n'
    )
    after = tasks(path)
    assert set(before) <= set(after)
    keys = keys_of(after.values())
    own.write_text(own.read_text() + "summary = 'other'\n")
    changed = {name for name, key in keys_of(after.values()).items() if keys[name] != key}
    assert changed == {"alpha.gguf", "beta.gguf"}
    moved = keys_of(tasks(path).values())
    assert moved == keys_of(after.values())


WRONG = [
    ("[batch]\nout = 'out'\nouts = 'x'\n", 2, ["batch.outs", 'did you mean "out"']),
    ("recipies = ['q8_0']\n", 2, ["recipies", 'did you mean "recipes"']),
    ("[batch]\nsplit-max-size = '4G'\n", 2, ['did you mean "split_max_size"']),
    ("[batch]\nsamples = 'many'\n", 2, ["batch.samples", "an integer"]),
    ("[batch]\npure = 1\n", 2, ["batch.pure", "true or false"]),
    ("[batch]\nkeep = [1]\n", 2, ["batch.keep"]),
    ("[batch]\nmax_kld = nan\n", 2, ["batch.max_kld", "a number"]),
    ("schema = 2\n", 2, ["schema", "this version reads 1"]),
    ("batch = 3\n", 2, ["batch", "expected a table"]),
    ("exclude = [{model = 'gamma'}]\n", 2, ["exclude[0].model", "fits none"]),
    ("exclude = [{models = 'alpha'}]\n", 2, ["exclude[0].models"]),
    ("exclude = [{}]\n", 2, ["everything is excluded"]),
    ("[batch]\npre = 'x'\n", 2, ["alpha.gguf", "beta.gguf", '--pre "x" is unknown']),
    ("[batch]\nimatrix = 'none.dat'\n", 3, ["none.dat", "does not exist"]),
    ("[batch]\ncalib = ['default', 'none.jsonl']\n", 3, ["none.jsonl"]),
    ("[batch]\ncalib = 'default'\nsamples = 0\n", 2, ["an integer from 1"]),
    ("[batch]\ngate = 'kld<0.1'\n", 2, ["--eval-data"]),
    ("[batch]\nfor = 'vlm'\n", 2, ["vllm"]),
    ("[batch]\nadapter = 'lora'\n", 3, ["lora"]),
]


@pytest.mark.parametrize(("more", "status", "words"), WRONG, ids=[each[0][:40] for each in WRONG])
def test_what_is_wrong_is_said_before_anything_begins(more: str, status: int, words: list[str], tmp_path: Path) -> None:
    first = more if not more.startswith("[") else ""
    path = written(tmp_path, first + BASIC + (more if more.startswith("[") else ""))
    said = quantkit("batch", "run", path, "--dry-run")
    assert said.status == status, said.stderr
    assert all(word in said.stderr for word in words), said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "out").exists()


WHOLE = [
    ("models = ['alpha']\n", 2, ["recipes", "there are none"]),
    ("recipes = ['q8_0']\n", 2, ["models", "there are none"]),
    ("models = ['gamma/']\nrecipes = ['q8_0']\n", 3, ["gamma", "does not exist"]),
    ("models = ['./gamma']\nrecipes = ['q8_0']\n", 3, ["gamma", "does not exist"]),
    ("models = ['alpha']\nrecipes = ['q9']\n", 2, ["unknown recipe"]),
    ("models = ['alpha']\nrecipes = ['q4_km']\n", 2, ['did you mean "q4_k_m"']),
    ("models = ['alpha']\nrecipes = ['none.toml']\n", 3, ["none.toml"]),
    ("models = ['alpha', 'alpha']\nrecipes = ['q8_0']\n", 2, ["is there already"]),
    ("models = ['alpha']\nrecipes = ['q4_k', 'q4_k_m']\n", 2, ["are the same recipe, q4_k_m"]),
    ("models = ['alpha', {source = 'beta', name = 'ALPHA'}]\nrecipes = ['q8_0']\n", 2, ["is there already"]),
    ("models = [{name = 'x'}]\nrecipes = ['q8_0']\n", 2, ["models[0].source", "is missing"]),
    ("models = [{source = 'alpha', name = '../x'}]\nrecipes = ['q8_0']\n", 2, ["is no name"]),
    ("models = [{source = 'alpha', recipes = ['q8_1']}]\nrecipes = ['q8_0']\n", 2, ["models[0].recipes", '"q8_0"']),
    ("models = [1]\nrecipes = ['q8_0']\n", 2, ["models[0]", "expected a table"]),
    ("models = 'alpha'\nrecipes = ['q8_0']\n", 2, ["expected an array"]),
    ("models = [{source = 'alpha', name = 'a', extends = 'b'}, {source = 'beta', name = 'b', extends = 'a'}]\n"
     "recipes = ['q8_0']\n", 2, ["a circle: a -> b -> a"]),
    ("models = [{source = 'alpha', extends = 'alpha'}]\nrecipes = ['q8_0']\n", 2, ["a circle"]),
    ("models = [{source = 'alpha', extends = 'betta'}, 'beta']\nrecipes = ['q8_0']\n", 2, ['did you mean "beta"']),
    ("models = ['alpha']\nrecipes = [{to = 'q8_0', name = 'a'}, {to = 'q8_0', name = 'b', keep = 'output=f16'}]\n", 2,
     ["would write one file", "alpha-Q8_0.gguf"]),
    ("models = ['alpha']\nrecipes = [{to = 'q8_0', max_shard_size = '1GB'}]\n", 2, ["--max-shard-size"]),
    ("models = ['alpha']\nrecipes = [{to = 'fp8', samples = 3}]\n", 2, ["--samples"]),
    ("models = ['alpha']\nrecipes = ['q8_0']\n[batch]\nmax_shard_size = '1GB'\n", 2, ["none of its recipes has a use"]),
    ("models = ['alpha']\nrecipes = ['w4a16']\n", 2, ["calib"]),
    ("models = ['alpha'\n", 2, ["not valid TOML"]),
    (f"models = ['{'x' * 300}']\nrecipes = ['q8_0']\n", 2, ["does not exist"]),
    (f"models = ['alpha']\nrecipes = ['q8_0']\n[batch]\nout = '{'x' * 300}'\n", 6, ["File name too long"]),
    ("models = ['alpha']\nrecipes = ['q8_0']\n[batch]\nout = 'alpha/config.json'\n", 6, ["Not a directory"]),
    ("x = " + "[" * 3000, 2, ["not valid TOML"]),
    ("\x00", 2, ["not valid TOML"]),
    ("models = ['alpha']\nrecipes = ['q8_0']\n[batch]\nout = \"a\\u0000b\"\n", 2, ["NUL"]),
    ('models = ["hf://org/x\\U00000000"]\nrecipes = ["q8_0"]\n', 2, ["NUL"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "status", "words"), WHOLE, ids=[each[0][:60] for each in WHOLE])
def test_matrices_that_make_no_sense_are_refused(text: str, status: int, words: list[str], tmp_path: Path) -> None:
    said = quantkit("batch", "plan", written(tmp_path, text))
    assert said.status == status, said.stderr
    assert all(word in said.stderr for word in words), said.stderr
    assert "Traceback" not in said.stderr


def test_a_home_that_nobody_has_is_a_folder_of_that_name(tmp_path: Path) -> None:
    path = written(tmp_path, BASIC + "[batch]\nout = '~nobody-of-that-name/x'\n")
    assert read_matrix(path).out == tmp_path / "~nobody-of-that-name" / "x"


def test_a_matrix_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    assert quantkit("batch", "plan", tmp_path / "none.toml").status == 3
    assert quantkit("batch", "status", tmp_path).status == 3


def test_all_faults_are_said_at_once_and_the_worst_decides(tmp_path: Path) -> None:
    text = "models = ['alpha', './gone', './lost']\nrecipes = ['q8_0', 'q9_9', 'q8_8']\n[batch]\nouts = 'x'\n"
    path = written(tmp_path, text)
    said = quantkit("batch", "run", path, "--json")
    assert said.status == 2
    error = said.json["error"]
    everything = " ".join(each["message"] for each in (error, *error["others"]))
    assert all(word in everything for word in ("gone", "lost", "q9_9", "q8_8", "outs"))
    assert len(error["others"]) == 4
    assert "5 faults; nothing was begun" in said.stderr
    assert validator("error").is_valid({"schema": "quantkit.error/1", "error": error})
    assert sorted(each["exit"] for each in (error, *error["others"])) == [2, 2, 2, 3, 3]


def test_a_model_that_cannot_be_read_is_one_fault_and_others_go_on_if_asked(tmp_path: Path) -> None:
    path = written(tmp_path, BASIC)
    (tmp_path / "beta" / "config.json").unlink()
    (tmp_path / "beta" / "config.json").write_text("{}")
    said = quantkit("batch", "plan", path, "--json")
    assert said.status in (3, 4)
    assert "beta.gguf" in said.json["error"]["message"]
    assert "others" not in said.json["error"]
    kept = quantkit("batch", "plan", path, "--keep-going", "--json").json
    assert [bool(task["error"]) for task in kept["tasks"]] == [False, False, True, True]


def test_a_task_needs_the_memory_that_its_plan_says(tmp_path: Path) -> None:
    path = written(tmp_path, "models = ['alpha']\nrecipes = ['q4_k_m', 'fp8']\n")
    for task in quantkit("batch", "plan", path, "--threads", core_count(), "--json").json["tasks"]:
        [plan] = quantkit("plan", tmp_path / "alpha", "--to", task["recipes"][0], "--json").json["plans"]
        assert task["needs"]["memory_bytes"] == plan["memory"]["peak_bytes"]


def test_little_disk_and_little_memory_are_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, BASIC)
    small = quantkit("batch", "run", path, "--memory", "100MB", "--json")
    assert small.status == 5
    errors = [small.json["error"], *small.json["error"]["others"]]
    assert len(errors) == 4
    assert all("of memory" in each["message"] for each in errors)
    plan = quantkit("batch", "plan", path, "--json").json
    for module in ("quantkit.pipeline.batch", "quantkit.pipeline.batch_room", "quantkit.batch.local"):
        monkeypatch.setattr(f"{module}.free_bytes", lambda folder: plan["left_bytes"] // 2 + 1000)
    half = quantkit("batch", "run", path, "--json")
    assert half.status == 5
    assert "it holds 2 of them" in half.json["error"]["message"]
    assert not list((tmp_path / "out").rglob("*.gguf"))


def test_the_schema_of_matrices_knows_the_options_and_agrees_with_the_reader(tmp_path: Path) -> None:
    assert set(OPTIONS) == set(MatrixOptions.__annotations__) | {"for"}
    check = validator("batch-matrix")
    assert check.is_valid(tomllib.loads(BASIC + "[batch]\nfor = ['vllm']\nsamples = 3\nout = 'x'\n"))
    shown = Path(__file__).parents[2] / "docs" / "batch.md"
    example = shown.read_text().split("```toml")[1].split("```")[0]
    assert check.is_valid(tomllib.loads(example))
    for more in ("x = 1\n", "[batch]\nsamples = 0\n", "[batch]\npure = 'y'\n", "exclude = [{models = 'a'}]\n"):
        first = more if not more.startswith("[") else ""
        text = first + BASIC + (more if more.startswith("[") else "")
        assert not check.is_valid(tomllib.loads(text)), more


def test_every_option_is_one_of_convert_and_of_its_request() -> None:
    help_text = quantkit("convert", "--help").stdout
    for option in OPTIONS.values():
        assert (option.name if option.key != "verify" else "--no-verify") in help_text, option
    documented = (Path(__file__).parents[2] / "docs" / "batch.md").read_text()
    assert all(f"`{key}`" in documented for key in OPTIONS)
    given = {
        key: {"text": "x", "texts": ("x",), "whole": 2, "number": 1.5, "flag": True, "switch": True}[o.kind]
        for key, o in OPTIONS.items()
    }
    words = list(arguments(given))
    assert words.count("--no-verify") == 0
    assert len(words) == len(OPTIONS) - 1


def test_the_request_of_a_task_is_that_of_its_command_line(tmp_path: Path) -> None:
    """What is planned is what the child does: both go through the same options."""
    from quantkit.cli.options import Want

    text = f'{BASIC}[batch]\nmax_shard_size = "1GB"\nkeep = "x=f16"\nmmproj = "none"\n'
    for wish in tasks(written(tmp_path, text)).values():
        given: dict[str, list[str]] = {}
        for word in wish.task.argv[2:]:
            key, _, value = word.removeprefix("--").partition("=")
            given.setdefault(key.replace("-", "_"), []).append(value)
        one = {k: v[0] for k, v in given.items() if k in ("max_shard_size", "mmproj")}
        want = Want(wish.source, to=given["to"], keep=given.get("keep"), **one)
        assert want.request(False) == request_of(wish)


@given(st.text(max_size=40))
def test_slugs_are_fit_for_file_names(name: str) -> None:
    found = slug(name)
    assert found
    assert found == slug(found)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789._+-")


def test_options_of_the_output_are_none_of_the_request() -> None:
    assert {OPTIONS[key].known_as for key in OF_OUTPUT} == {"gates", "eval_data", "engine", "verify"}


@pytest.mark.parametrize("words", [["plan"], ["run"], ["run", "--dry-run"], ["retry"]], ids=" ".join)
def test_a_place_that_is_none_is_a_usage_error(words: list[str], tmp_path: Path) -> None:
    said = quantkit("batch", *words, written(tmp_path, BASIC), "--on", "locl")
    assert said.status == 2
    assert '--on "locl" is unknown; did you mean "local"?' in said.stderr


@pytest.mark.parametrize("place", ["local", "slurm"])
@pytest.mark.parametrize("option", [("--scheduler", "tcp://node:8786"), ("--tls-ca", "ca.pem")], ids=str)
def test_what_another_place_has_no_use_for_is_refused(option: tuple[str, str], place: str, tmp_path: Path) -> None:
    """Not run here instead of there, without a word."""
    for more in ([], ["--dry-run"]):
        said = quantkit("batch", "run", written(tmp_path, BASIC), "--on", place, *option, *more)
        assert said.status == 2
        assert f"{option[0]} is of --on dask" in said.stderr


def test_bare_batch_shows_its_commands_and_a_wrong_one_the_nearest() -> None:
    bare = quantkit("batch")
    assert bare.status == 0
    assert all(name in bare.stdout for name in ("plan", "run", "status", "retry"))
    wrong = quantkit("batch", "rnu")
    assert wrong.status == 2
    assert "'run'" in wrong.stderr


def test_names_that_give_one_id_are_refused(tmp_path: Path) -> None:
    text = """
    models = [{source = "alpha", name = "a.b"}, {source = "beta", name = "a"}]
    recipes = [{to = "fp8", name = "c"}, {to = "fp8", name = "b.c"}]
    """
    said = quantkit("batch", "plan", written(tmp_path, text))
    assert said.status == 2
    assert "two tasks are called a.b.c" in said.stderr


def test_headers_of_a_model_are_read_and_described_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of its tasks; and a plan is made once, whatever text it is for."""
    from quantkit.pipeline import batch_plan

    counts: dict[str, int] = {}

    def counted(name: str) -> None:
        real = getattr(batch_plan, name)

        def call(*given: object, **named: object) -> object:
            counts[name] = counts.get(name, 0) + 1
            return real(*given, **named)

        monkeypatch.setattr(batch_plan, name, call)

    for name in ("open_wanted", "describe_source", "make_plan"):
        counted(name)
    (tmp_path / "t.jsonl").write_text(TEXT)
    recipes = "\n".join(
        f'[[recipes]]\nto = "{to}"\nname = "{to}-{n}"\nfolder = "{to}-{n}"\nsamples = {n}'
        for to in ("q4_k_m", "w4a16-awq") for n in range(1, 6)
    )  # fmt: skip
    path = written(tmp_path, f'models = ["alpha", "beta"]\n{recipes}\n[batch]\ncalib = "t.jsonl"\n')
    plan = quantkit("batch", "plan", path, "--json").json
    assert len(plan["tasks"]) == 20
    assert counts == {"open_wanted": 2, "describe_source": 2, "make_plan": 4}
    memory = {task["needs"]["memory_bytes"] for task in plan["tasks"] if "q4_k_m-" in task["id"]}
    assert len(memory) > 1  # of the text, which differs


def test_windows_end_where_the_positions_of_a_model_do(tmp_path: Path) -> None:
    variant = checkpoints.VARIANTS["gpt2"]
    few = replace(variant, config={**variant.config, "n_positions": 128}, edit=None)
    checkpoints.build_variant(few, tmp_path / "alpha")
    (tmp_path / "t.jsonl").write_text(TEXT)
    asked = f'models = ["alpha"]\nrecipes = ["q4_k_m"]\n[batch]\ncalib = "t.jsonl"\npre = "{checkpoints.PRE}"\n'
    usual, given, longer = (
        quantkit("batch", "plan", written(tmp_path, asked + line), "--json")
        for line in ("", "seqlen = 128\n", "seqlen = 129\n")
    )
    assert usual.json["tasks"][0]["needs"] == given.json["tasks"][0]["needs"], usual.stderr
    assert longer.status == 2
    assert "--seqlen 129: the model has 128 positions" in longer.stderr


REPO, COMMIT = "org/small", "a" * 40


def test_models_of_the_hub_are_planned_by_their_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {file.name: file.read_bytes() for file in TINY.iterdir()}
    large = frozenset({"model.safetensors"})
    with serve(HubState(REPO, {COMMIT: files}, {"main": COMMIT}, large=large)) as state:
        hub = Hub(endpoint=state.endpoint, cache=tmp_path / "cache")
        monkeypatch.setattr(Hub, "known", lambda self, known=hub: known)
        path = written(tmp_path, f'models = ["hf://{REPO}@main", "alpha"]\nrecipes = ["q4_0", "fp8"]\n')
        plan = quantkit("batch", "plan", path, "--json")
    assert plan.status == 0, plan.stderr
    needs = {task["id"]: (task["needs"]["download_bytes"], task["bytes"]) for task in plan.json["tasks"]}
    size = len(files["model.safetensors"])
    assert needs["small.gguf"][0] == needs["small.fp8"][0] == plan.json["download_bytes"] == size
    assert needs["alpha.fp8"] == (0, needs["small.fp8"][1] + len(files["metrics.json"]))  # which is not fetched
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_model_of_the_hub_that_moves_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is begun names the commit that was planned; what was made of another one stays, and is told."""
    files = {file.name: file.read_bytes() for file in TINY.iterdir()}
    later = "b" * 40
    commits = {COMMIT: files, later: files | {"generation_config.json": b'{"temperature": 0.5}'}}
    state = HubState(REPO, commits, {"main": COMMIT}, large=frozenset({"model.safetensors"}))
    with serve(state):
        hub = Hub(endpoint=state.endpoint, cache=tmp_path / "cache")
        monkeypatch.setattr(Hub, "known", lambda self, known=hub: known)
        monkeypatch.setenv("HF_ENDPOINT", state.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        text = f'models = ["hf://{REPO}"]\nrecipes = ["q4_0"%s]\n[batch]\nverify = false\n'
        path = written(tmp_path, text % "")
        [planned] = quantkit("batch", "plan", path, "--json").json["tasks"]
        assert f"hf://{REPO}@{COMMIT} " in planned["command"]
        done = quantkit("batch", "run", path, "--json")
        assert (done.status, "warning[moved]" in done.stderr) == (0, False), done.stderr
        manifest = json.loads((tmp_path / "out/small/small-Q4_0.manifest.json").read_text())
        assert manifest["source"]["commit"] == COMMIT
        made = [{"task": "small.gguf", "commit": COMMIT}]
        assert done.json["sources"] == [{"source": f"hf://{REPO}", "commit": COMMIT, "made": made}]
        state.branches["main"] = later
        again = quantkit("batch", "run", path, "--json")
        assert (again.status, again.json["states"]["done"]) == (0, 1)
        assert f"warning[moved]: hf://{REPO} is at {later[:12]}; small.gguf of {COMMIT[:12]}" in again.stderr
        asked = state.resolved()
        status = quantkit("batch", "status", path)
        assert f"hf://{REPO}, made of {COMMIT[:12]}" in status.stdout
        assert state.resolved() == asked, "status asks nobody"
        assert "moved" not in quantkit("batch", "run", path, "--offline").stderr
        more = quantkit("batch", "plan", written(tmp_path, text % ', "fp8"'), "--json").json
        assert [task["state"] for task in more["tasks"]] == ["done", "waiting"]
        assert f"hf://{REPO}@{later} " in more["tasks"][1]["command"]
        assert more["sources"] == [{"source": f"hf://{REPO}", "commit": later, "made": made}]
    assert quantkit("batch", "run", written(tmp_path, text % "")).status == 0, "the Hub is gone: nothing is to be made"


def test_status_and_expansion_open_no_model(tmp_path: Path) -> None:
    path = written(tmp_path, BASIC)
    for file in (tmp_path / "alpha").iterdir():
        file.unlink()
    said = quantkit("batch", "status", path, "--json")
    assert said.status == 0
    assert said.json["states"]["waiting"] == 4
    faults = Faults()
    assert len(expand(BatchRequest(path), faults).wishes) == 4
    assert json.dumps([error.message for error in faults.found]) == "[]"
    with pytest.raises(QuantkitError):
        tasks(tmp_path / "nothing.toml")
