"""action.yml as a runner runs it: its steps, one by one, in bash, with what GitHub puts into the environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import TINY

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@dataclass
class Runner:
    """The part of GitHub's runner that a composite action sees."""

    folder: Path
    inputs: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    said: str = ""

    def value(self, text: object) -> str:
        """A text with its expressions filled in: inputs, outputs of steps, and the action's own folder."""
        return EXPRESSION.sub(lambda match: self.look_up(match[1]), str(text))

    def look_up(self, name: str) -> str:
        parts = name.split(".")
        match parts:
            case ["inputs", key]:
                return self.inputs.get(key, str(ACTION["inputs"][key].get("default", "")))
            case ["github", "action_path"]:
                return str(ROOT)
            case ["runner", "os"]:
                return "Linux"
            case ["steps", step, "outputs", key]:
                return self.outputs.get(step, {}).get(key, "")
        raise AssertionError(f"an expression that this runner does not know: {name}")

    def holds(self, condition: str) -> bool:
        """Conditions of the form A == 'x' && B != ''."""
        terms = [re.fullmatch(r"(\S+) (==|!=) '(.*)'", term.strip()) for term in condition.split("&&")]
        assert all(terms), condition
        return all((self.look_up(t[1]) == t[3]) == (t[2] == "==") for t in terms if t)

    def run(self) -> int:
        """All steps, until one fails; returns its status."""
        for number, step in enumerate(STEPS):
            if "if" in step and not self.holds(step["if"]):
                continue
            if "uses" in step:
                self.used.append((step["uses"], {key: self.value(value) for key, value in step["with"].items()}))
                continue
            assert step["shell"] == "bash"
            output, page = self.folder / f"output-{number}", self.folder / "page.md"
            output.touch()
            environment = {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(self.folder), "RUNNER_TEMP": str(self.folder), "PYTHONPATH": str(ROOT),
                "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(page), "PIP_NO_INDEX": "1",
                "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", ""), "HF_HUB_OFFLINE": "1",
                **{key: self.value(value) for key, value in step["env"].items()},
            }  # fmt: skip
            environment = {key: value for key, value in environment.items() if value or key.startswith("QK_")}
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            done = subprocess.run(
                command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False
            )
            self.said += done.stdout + done.stderr
            self.statuses.append(done.returncode)
            if "id" in step:
                self.outputs[step["id"]] = read_outputs(output.read_text("utf-8"))
            if done.returncode:
                return done.returncode
        return 0

    @property
    def result(self) -> dict[str, str]:
        return {name: self.value(facts["value"]) for name, facts in ACTION["outputs"].items()}


def read_outputs(text: str) -> dict[str, str]:
    """As GitHub reads the file: NAME<<END, lines, END."""
    found, rest = {}, text.splitlines()
    while rest:
        name, _, end = rest.pop(0).partition("<<")
        value = rest[: rest.index(end)]
        found[name], rest = "\n".join(value), rest[rest.index(end) + 1 :]
    return found


def test_inputs_never_reach_a_shell() -> None:
    for step in STEPS:
        assert "${{" not in step.get("run", ""), step
        assert "run" not in step or set(step) <= {"id", "if", "shell", "env", "run"}
    assert {*ACTION["inputs"]} >= {"source", "recipes", "gates", "args", "cache"}
    named = set(re.findall(r"inputs\.([a-z-]+)", (ROOT / "action.yml").read_text("utf-8")))
    assert named == {*ACTION["inputs"]}, "an input that nobody reads, or that is not declared"
    assert all(re.fullmatch(r"[\w./-]+@v\d+", step["uses"]) for step in STEPS if "uses" in step)


def test_the_schema_of_actions() -> None:
    pytest.importorskip("check_jsonschema", reason="carries the schema of actions")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions"]
    done = subprocess.run([*command, str(ROOT / "action.yml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_conversion(tmp_path: Path) -> None:
    """Two recipes, more arguments, a name that would be a command if a shell saw it."""
    source = tmp_path / "a $(touch pwned); `touch pwned` model"
    source.symlink_to(TINY)
    inputs = {"source": str(source), "recipes": "q8_0, bf16\nf16", "args": "--threads\n1\n--no-verify",
              "package": "quantkit-cli"}  # fmt: skip
    runner = Runner(tmp_path, inputs)
    assert runner.run() == 0, runner.said
    assert not list(tmp_path.rglob("pwned"))
    result = runner.result
    names = [Path(path).name.rpartition("-")[2] for path in result["artifacts"].splitlines()]
    assert names == ["Q8_0.gguf", "BF16.gguf", "F16.gguf"]
    assert result["artifact"] == result["artifacts"].splitlines()[0]
    assert (tmp_path / result["artifact"]).is_file()
    assert json.loads((tmp_path / result["manifest"]).read_text("utf-8"))["recipe"]["name"] == "q8_0"
    sums = (tmp_path / "quantkit-out" / "SHA256SUMS").read_text("utf-8")
    assert result["sha256"] in sums
    assert json.loads(Path(result["summary"]).read_text("utf-8"))["schema"] == "quantkit.convert/1"
    assert result["sha256"] in (tmp_path / "page.md").read_text("utf-8")
    [python, pip] = runner.used
    assert python == ("actions/setup-python@v5", {"python-version": "3.11"})
    assert pip[1]["key"].startswith("Linux-quantkit-pip-3.11-")
    assert pip[1]["path"] == runner.outputs["keys"]["pip-cache"]
    assert len(runner.outputs["keys"]["pip"]) == 64
    assert runner.outputs["commit"]["key"] == "", "a folder has no commit"


@pytest.mark.slow
def test_failures_end_the_step_with_their_status(tmp_path: Path) -> None:
    runner = Runner(tmp_path, {"source": str(tmp_path / "--force"), "package": "quantkit-cli", "cache": "false"})
    assert runner.run() == 3, runner.said
    assert runner.result["artifact"] == ""
    assert json.loads(Path(runner.result["summary"]).read_text("utf-8"))["error"]["exit"] == 3
    assert [name for name, _ in runner.used] == ["actions/setup-python@v5"]


def keys(tmp_path: Path, **inputs: str) -> tuple[int, dict[str, str]]:
    output = tmp_path / "out"
    output.write_text("")
    told = {f"QK_{key}": value for key, value in inputs.items()}
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "action.py", "keys"],
        env={"GITHUB_OUTPUT": str(output), "PIP_CACHE_DIR": str(tmp_path / "pip"), **told},
        capture_output=True,
        check=False,
    )
    return done.returncode, read_outputs(output.read_text("utf-8"))


def test_what_is_installed_and_the_key_of_its_cache(tmp_path: Path) -> None:
    plain = keys(tmp_path)[1]
    assert plain["requirement"] == str(ROOT)
    assert plain["pip-cache"] == str(tmp_path / "pip"), "where pip itself keeps it, on any system"
    assert not [step for step in STEPS if "~/.cache/pip" in str(step)], "of Linux alone"
    assert keys(tmp_path)[1] == plain
    gated = keys(tmp_path, GATES="kld<1", EXTRAS="data")[1]
    assert gated["requirement"] == f"{ROOT}[data,calibrate]"
    assert gated["pip"] != plain["pip"]
    assert (
        keys(tmp_path, ARGS="--calib\ndefault", PACKAGE="quantkit-cli")[1]["requirement"] == "quantkit-cli[calibrate]"
    )
    pinned = keys(tmp_path, ARGS="--calib\ndefault", EXTRAS="data", PACKAGE="quantkit-cli[data, sign] == 1.2")[1]
    assert pinned["requirement"] == "quantkit-cli[data,sign,calibrate] == 1.2"
    for package in ("./dist/x.whl", "quantkit-cli==1.2"):
        assert keys(tmp_path, PACKAGE=package)[1]["requirement"] == package
    gated = keys(tmp_path, GATES="kld<1", PACKAGE="./dist/x.whl")[1]
    assert gated["requirement"] == "./dist/x.whl[calibrate]"
    assert keys(tmp_path, EXTRAS="a]; evil")[0] == 2
    value = "x\nartifact<<y\nz"
    assert keys(tmp_path, PACKAGE=value)[1]["requirement"] == value, "one output, whatever is in it"
