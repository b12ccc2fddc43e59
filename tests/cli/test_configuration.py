"""Defaults from files and variables: which count, what is refused and where it stands, and that runs record them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.cli.app import program
from quantkit.cli.configuration import NEVER, NOT_IN_FILES, _kind, _Options, configure
from quantkit.errors import UsageError

ROOT = program()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own, as the working folder; no variables of whoever runs the tests."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("QUANTKIT_NO_CONFIG", "QUANTKIT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def plan(*more: object) -> tuple[list[str], str]:
    """The recipes that `plan` takes, and what it says of the configuration."""
    found = quantkit("plan", TINY, *more, "--json")
    assert found.status == 0, found.stderr
    return [each["recipe"] for each in found.json["plans"]], found.stderr


def test_the_command_line_comes_first_then_variables_then_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "quantkit.toml").write_text('to = "q2_k"\n[convert]\nto = "q3_k_s"\n')
    assert plan()[0] == ["q2_k"], "of all commands"
    (folder / "quantkit.toml").write_text('to = "q2_k"\n\n[plan]\nto = ["q4_0", "q8_0"]\n')
    recipes, said = plan()
    assert recipes == ["q4_0", "q8_0"], "of this command"
    assert f"plan.to = q4_0, q8_0  ({folder / 'quantkit.toml'}:4)" in said
    monkeypatch.setenv("QUANTKIT_TO", "q5_0")
    assert plan()[0] == ["q5_0"]
    monkeypatch.setenv("QUANTKIT_PLAN_TO", "q5_1\nq6_k")
    recipes, said = plan()
    assert recipes == ["q5_1", "q6_k"], "of this command, one a line"
    assert "(QUANTKIT_PLAN_TO)" in said
    assert plan("--to", "q4_1") == (["q4_1"], plan("--to", "q4_1")[1])
    assert "plan.to" not in plan("--to", "q4_1")[1]
    assert plan("--no-config")[0] == ["q4_k_m"]
    monkeypatch.setenv("QUANTKIT_NO_CONFIG", "1")
    assert plan()[0] == ["q4_k_m"]


def test_a_file_whose_name_begins_like_a_variable_is_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named relatively, its lines are QUANTKIT_ours.toml:2: a variable counts more all the same."""
    (folder / "QUANTKIT_ours.toml").write_text('[plan]\nto = "q2_k"\n')
    monkeypatch.setenv("QUANTKIT_CONFIG", "QUANTKIT_ours.toml")
    assert plan()[0] == ["q2_k"]
    monkeypatch.setenv("QUANTKIT_TO", "q5_0")
    assert plan()[0] == ["q5_0"]


def test_the_nearest_file_counts_up_to_the_root_of_the_repository(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = folder / "repo" / "a" / "b"
    below.mkdir(parents=True)
    (folder / "quantkit.toml").write_text('[plan]\nto = "q2_k"\n')
    monkeypatch.chdir(below)
    assert plan()[0] == ["q2_k"]
    (below.parent / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert plan()[0] == ["q2_k"], "a project that says nothing of quantkit"
    (below.parent / "pyproject.toml").write_text('[tool.quantkit]\nthreads = 1\n[tool.quantkit.plan]\nto = "q4_0"\n')
    recipes, said = plan()
    assert (recipes, f"{below.parent / 'pyproject.toml'}:4" in said) == (["q4_0"], True)
    (below.parent / "quantkit.toml").write_text("")
    assert plan()[0] == ["q4_k_m"], "beside a project's, its own file counts, also an empty one"
    (folder / "repo" / ".git").write_text("gitdir: elsewhere")
    (below.parent / "quantkit.toml").unlink()
    (below.parent / "pyproject.toml").unlink()
    assert plan()[0] == ["q4_k_m"], "what lies outside of the repository is not looked at"
    monkeypatch.setenv("QUANTKIT_CONFIG", str(folder / "quantkit.toml"))
    assert plan()[0] == ["q2_k"]


def test_outside_of_a_repository_nobody_elses_folder_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".git").rmdir()
    (folder / "quantkit.toml").write_text('[plan]\nto = "q2_k"\n')
    (folder / "a").mkdir()
    monkeypatch.setenv("HOME", "/nowhere")
    assert plan()[0] == ["q2_k"]
    monkeypatch.chdir(folder / "a")
    assert plan()[0] == ["q4_k_m"]


def test_paths_are_of_the_file_that_names_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "text.txt").write_text("Some text. " * 3000)
    (folder / "quantkit.toml").write_text(
        '[convert]\nout = "built"\ncalib = ["text.txt", "default"]\nimatrix = "x.gguf"\n'
        '[release]\neval = ["measured.json", "~/more.json"]\n[recommend]\nrecords = "more.jsonl"\n'
    )
    (folder / "a").mkdir()
    monkeypatch.chdir(folder / "a")
    found = configure(lambda: ROOT, ["convert"]).defaults
    assert found is not None
    assert found["convert"]["out"] == str(folder / "built")
    assert found["convert"]["imatrix"] == str(folder / "x.gguf")
    assert found["convert"]["calib"] == [str(folder / "text.txt"), "default"]
    assert found["release"]["measured"] == [str(folder / "measured.json"), str(Path("~/more.json").expanduser())]
    assert found["recommend"]["records"] == str(folder / "more.jsonl")


def test_runs_record_it_and_doctor_shows_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "quantkit.toml").write_text('threads = 1\n[convert]\nto = "q8_0"\nverify = false\nkeep = ["a=q8_0"]\n')
    monkeypatch.setenv("QUANTKIT_OFFLINE", "yes")
    done = quantkit("convert", TINY, "-o", "out", "--dry-run", "--events", "events.jsonl")
    assert done.status == 0, done.stderr
    started = json.loads((folder / "events.jsonl").read_text("utf-8").splitlines()[0])
    words = started["arguments"][started["arguments"].index("events.jsonl") + 1 :]
    assert words == ["--to", "q8_0", "--keep", "a=q8_0", "--no-verify", "--threads", "1", "--offline"]
    shown = quantkit("doctor", "--json").json["findings"]
    assert [each["what"] for each in shown if each["area"] == "config"] == [
        f"threads = 1  ({folder / 'quantkit.toml'}:1)",
        f"convert.to = q8_0  ({folder / 'quantkit.toml'}:3)",
        f"convert.verify = false  ({folder / 'quantkit.toml'}:4)",
        f"convert.keep = a=q8_0  ({folder / 'quantkit.toml'}:5)",
        "offline = true  (QUANTKIT_OFFLINE)",
    ]
    off = quantkit("doctor", "--no-config", "--json").json["findings"]
    assert [each["what"] for each in off if each["area"] == "config"] == ["off: --no-config, or QUANTKIT_NO_CONFIG"]


WRONG = [
    ("thread = 2", 'quantkit.toml:1: there is no option thread; did you mean "threads"?'),
    ("\n[convrt]\nto = 'a'", 'quantkit.toml:2: there is no option convrt; did you mean "convert"?'),
    ("[convert]\n\ncalb = 'a'", 'quantkit.toml:3: convert has no option calb; did you mean "calib"?'),
    ("[inspect]\ncalib = 'a'", "quantkit.toml:2: inspect has no option calib"),
    ("[batch]\nrum = 1", 'quantkit.toml:2: batch has no option rum; did you mean "run"?'),
    ("[batch.run]\nkeep-going = 'a'", "quantkit.toml:2: keep_going = a: true or false is wanted"),
    ("threads = 'a'", "quantkit.toml:1: threads = a: an integer is wanted"),
    ("threads = true", "quantkit.toml:1: threads = true: an integer is wanted"),
    ("threads = 0", "quantkit.toml:1: threads = 0: at least 1 is wanted"),
    ("pure = 'yes'", "quantkit.toml:1: pure = yes: true or false is wanted"),
    ("target-bpw = 'x'", "quantkit.toml:1: target_bpw = x: a number is wanted"),
    ("keep = [1]", "quantkit.toml:1: keep = 1: a string or an array of strings is wanted"),
    ("[convert.to]\na = 1", "quantkit.toml:1: to = a table: a string or an array of strings is wanted"),
    ("[convert]\nto" + ".a" * 5000 + " = 1", "quantkit.toml: to = a table: a string or an array of strings is wanted"),
    ("threads = " + "9" * 5000, "quantkit.toml is not TOML: Exceeds the limit"),
    ("imatrix = 3", "quantkit.toml:1: imatrix = 3: a string is wanted"),
    ("force = true", "quantkit.toml:1: force replaces what is there"),
    ("[eval]\nrun-code = true", "quantkit.toml:2: run-code runs code"),
    ("log-file = 'x'", "quantkit.toml:1: log-file is written to wherever it says"),
    ("[batch.run]\nscheduler = 'tcp://x:1'", "quantkit.toml:2: scheduler can run code here"),
    ("[batch.retry]\ntls-ca = 'x.pem'", "quantkit.toml:2: tls-ca says who may run code here"),
    ("x = [", "quantkit.toml is not TOML"),
    ("hf_token = 'x'", "quantkit.toml:1: hf_token looks like a secret"),
    ("[convert]\napi-key = 'x'", "quantkit.toml:2: api-key looks like a secret"),
    ("pre = 'hf_abcdefghijklmnop'", "quantkit.toml:1: the value of pre holds a secret"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text.splitlines()[-1][:40] for text, _ in WRONG])
def test_what_is_wrong_is_said_with_its_line(text: str, said: str, folder: Path) -> None:
    (folder / "quantkit.toml").write_text(text)
    found = quantkit("recipes")
    assert found.status == 2
    assert said in found.stderr
    assert "abcdefghijklmnop" not in found.stderr
    assert quantkit("recipes", "--help").status == 0, "help helps"
    assert quantkit("recipes", "--no-config").status == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("QUANTKIT_THREAD", "2", 'there is no option thread; did you mean "threads"?'),
        ("QUANTKIT_CONVERT_CALB", "x", 'convert has no option calb; did you mean "calib"?'),
        ("QUANTKIT_THREADS", "many", "threads = many: an integer is wanted"),
        ("QUANTKIT_PURE", "perhaps", "pure = perhaps: true or false is wanted"),
        ("QUANTKIT_HF_TOKEN", "x", "hf_token looks like a secret"),
        ("QUANTKIT_FORCE", "1", "force replaces what is there"),
        ("QUANTKIT_CONFIG", "/no/such/file.toml", "is no file"),
        ("QUANTKIT_CONFIG", "x" * 300, "is no file"),
    ],
)
def test_what_is_wrong_with_a_variable(
    name: str, value: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = quantkit("recipes")
    assert (found.status, name in found.stderr, said in found.stderr) == (2, True, True), found.stderr


def test_variables_of_others_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTKIT_DEPLOYMENT_REGION", "eu")
    assert quantkit("recipes").status == 0


def test_damaged_files(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.quantkit\n")
    assert quantkit("recipes").status == 0, "somebody else's affair"
    (folder / "quantkit.toml").write_bytes(b"\xff\xfe\x00")
    assert quantkit("recipes").status == 2
    (folder / "quantkit.toml").write_bytes(b"#" * (1 << 21))
    assert quantkit("recipes").status == 2
    (folder / "quantkit.toml").write_text("a = " + "[" * 5000)
    assert quantkit("recipes").status == 2


@pytest.mark.parametrize("line", [f'calib = "{"x" * 300}"', 'out = "~nobody-of-that-name/x"', "calib = 'a\\b'"])
def test_values_that_are_no_paths_are_left_to_their_command(line: str, folder: Path) -> None:
    (folder / "quantkit.toml").write_text(f"[convert]\n{line}\n")
    found = quantkit("recipes")
    assert found.status == 0, found.stderr


def test_a_working_folder_that_is_gone_has_no_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    assert configure(lambda: ROOT, ["recipes"]).settings == ()


def test_every_option_can_be_set_or_is_refused_by_name(folder: Path) -> None:
    """A registry of all options: each has a value that its file may have, and Typer takes it."""
    options = _Options(ROOT)
    assert {*NEVER} - {"help", "version", "install_completion", "show_completion"} <= options.keys
    assert options.keys >= set(NOT_IN_FILES)
    values = {
        "flag": "true",
        "texts": '["a"]',
        "paths": '["a"]',
        "whole": "7",
        "number": "7.5",
        "path": '"a"',
        "text": '"a"',
    }
    for command, known in options.of.items():
        table = ".".join(command)
        lines = [
            f"{key} = {values[_kind(parameter)]}"
            for key, parameter in known.items()
            if key not in NEVER and key not in NOT_IN_FILES
        ]
        (folder / "quantkit.toml").write_text("\n".join([f"[{table}]", *lines]))
        found = configure(lambda: ROOT, [*command, "x"])
        assert len(found.settings) == len(lines)
    (folder / "quantkit.toml").write_text("[doctor]\nforce = true\n")
    with pytest.raises(UsageError):
        configure(lambda: ROOT, ["doctor"])
