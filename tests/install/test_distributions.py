"""What is handed out: the wheel and the source distribution, built by the project's own back end and looked into."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MOST_BYTES = 3_000_000
SOURCES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "quantkit").rglob("*.py")}
RECIPES = {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.toml")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel").WheelBuilder
    [built] = builder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(built)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = pytest.importorskip("hatchling.builders.sdist", reason="hatchling builds it").SdistBuilder
    [built] = builder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("sdist")), versions=["standard"])
    return Path(built)


def test_the_wheel_holds_the_package_its_types_and_recipes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= SOURCES
    assert "quantkit/py.typed" in names, "type checkers would not look at our annotations"
    assert names >= {f"quantkit/recipes/{name}" for name in RECIPES}
    strangers = {name for name in names if not name.startswith(("quantkit/", "quantkit_cli-"))}
    assert not strangers
    assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]
    assert wheel.stat().st_size < MOST_BYTES


def test_the_metadata_says_what_it_needs_and_where_it_runs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        said = email.message_from_bytes(archive.read(name))
        [entry] = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert b"quantkit = quantkit.cli.main:run" in archive.read(entry)
        assert [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    plain = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(plain) == len(PROJECT["dependencies"])
    assert not [line for line in plain if line.startswith(("torch", "transformers"))], "asked of everybody"
    assert {*said.get_all("Provides-Extra", [])} == {*PROJECT["optional-dependencies"]}
    assert (said["License-Expression"], said["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    systems = {line.rpartition(" ")[2] for line in said.get_all("Classifier", []) if line.startswith("Operating")}
    assert systems == {"Linux", "MacOS", "Windows"}
    assert "Typing :: Typed" in said.get_all("Classifier", [])


def test_the_source_distribution_holds_what_the_wheel_is_made_of(sdist: Path) -> None:
    """No tests: their data is large, and that of others."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names >= SOURCES
    assert names >= {f"recipes/{name}" for name in RECIPES}
    assert names >= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "quantkit/py.typed"}
    own = ("quantkit/", "recipes/", "docs/")
    others = {name for name in names if not name.startswith(own)}
    assert others == {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO", ".gitignore"}
    assert all(name.endswith(".md") for name in names if name.startswith("docs/"))
    assert sdist.stat().st_size < MOST_BYTES


def test_the_same_wheel_comes_out_of_it(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    build = "import sys; from hatchling.builders.wheel import WheelBuilder as W; list(W('.').build(directory='dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    [again] = folder.glob("dist/*.whl")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        assert {*one.namelist()} == {*other.namelist()}
        assert all(one.read(name) == other.read(name) for name in one.namelist() if name.endswith((".py", ".toml")))
