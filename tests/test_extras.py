"""Versions of installed packages, which are read as importlib.metadata reads them."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from quantkit.extras import DISTRIBUTION, EXTRAS, installed_version, is_installed
from quantkit.pipeline.pack import NAMED_VERSIONS

OPTIONAL = {package: module for extra in EXTRAS.values() for module, package in extra.modules}


@pytest.mark.parametrize("package", [*NAMED_VERSIONS, *OPTIONAL, DISTRIBUTION])
def test_versions_are_those_of_the_metadata(package: str) -> None:
    if not is_installed(OPTIONAL.get(package, "quantkit")):
        pytest.skip(f"{package} is not installed")
    assert installed_version(package) == version(package)


def test_a_package_that_no_folder_names_is_looked_for_in_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "an.egg").touch()
    places = ["an.egg", "missing", "first", "second"]
    monkeypatch.setattr(sys, "path", ["", *(str(tmp_path / place) for place in places)])
    with pytest.raises(PackageNotFoundError):
        installed_version("old-fashioned")
    # the second holds another package, by an installer that left its dashes
    said, other = tmp_path / "first" / "old_fashioned-2.5.egg-info", "old_fashioned-thing-9.dist-info"
    said.mkdir(parents=True)
    (said / "PKG-INFO").write_text("Name: old-fashioned\nVersion: 2.5\n")
    (tmp_path / "second" / other).mkdir(parents=True)
    assert installed_version("old-fashioned") == "2.5"
