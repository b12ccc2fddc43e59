"""Tests that share a fixture of their module run in one process: where groups are lost, each process makes it anew."""

from __future__ import annotations

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
