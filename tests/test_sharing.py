"""Tests that share a fixture of their module run in one process: where groups are lost, each process makes it anew."""

from __future__ import annotations

from pathlib import Path

import pytest

FILE = "tests/test_sharing.py"


@pytest.fixture(scope="module")
def shared() -> str:
    return "once for the module"


@pytest.fixture(scope="module", params=["a", "b"])
def each(request: pytest.FixtureRequest) -> str:
    return request.param


def group(request: pytest.FixtureRequest) -> str | None:
    """The group of a test, which pytest-xdist must have put behind its name if it hands out groups."""
    mark = request.node.get_closest_marker("xdist_group")
    handed_out = getattr(request.config.option, "loadgroup", False) and mark is not None
    assert request.node.nodeid.endswith(f"@{mark.args[0]}" if handed_out else request.node.name)
    return mark and mark.args[0]


def test_a_fixture_of_the_module_makes_a_group(request: pytest.FixtureRequest, shared: str) -> None:
    assert group(request) == FILE


def test_a_fixture_with_parameters_makes_a_group_for_each(request: pytest.FixtureRequest, each: str) -> None:
    assert group(request) == f"{FILE}-each{'ab'.index(each)}"


@pytest.mark.xdist_group("named")
def test_a_named_group_stays(request: pytest.FixtureRequest, shared: str) -> None:
    assert group(request) == "named"


def test_what_shares_nothing_has_no_group(request: pytest.FixtureRequest) -> None:
    assert group(request) is None


@pytest.mark.parametrize("apart", [False, True], ids=["tests", "loaders"])
def test_no_two_modules_that_run_together_have_one_name(apart: bool) -> None:
    """pytest imports modules by their file's name; those of tests/loaders run by themselves."""
    tests = Path(__file__).parent
    names = [path.name for path in tests.rglob("test_*.py") if ("loaders" in path.parts) is apart]
    assert sorted(set(names)) == sorted(names)
