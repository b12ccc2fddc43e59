"""The optional parts of an installation: which packages each needs, what it gives, and the command that installs it.

The core (`pip install quantkit-cli`) converts without text, plans, verifies and inspects. What else is asked for says
so before any work: `require_extra` is the one place that knows how. `docs/install.md` and pyproject.toml have the same
names, which a test compares.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec

from quantkit.errors import UnsupportedError
from quantkit.records import record

DISTRIBUTION = "quantkit-cli"


@record
class Extra:
    """An optional part: its name in pyproject.toml, what it gives, and the modules that must be there, by the names of
    their packages in the index."""

    name: str
    gives: str
    modules: tuple[tuple[str, str], ...]

    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed, as the index names them. Imports nothing."""
        return tuple(package for module, package in self.modules if not is_installed(module))


RUN_MODELS = ("torch", "transformers")  # what running text through a model takes
EXTRAS = {
    extra.name: extra
    for extra in (
        Extra(
            "calibrate",
            "text through a model: --calib, --gate, calibrate, sensitivity, tune, eval, verify --engine",
            (("torch", "torch"), ("transformers", "transformers")),
        ),
        Extra("llamacpp", "llama.cpp itself: bench, and --engine llama.cpp", (("xllamacpp", "xllamacpp"),)),
        Extra("data", "parquet files and hf:// data sets as text", (("datasets", "datasets"), ("pyarrow", "pyarrow"))),
        Extra("batch", "batch --on dask", (("distributed", "distributed"), ("cryptography", "cryptography"))),
        Extra("eval", "eval --harness lm-eval", (("lm_eval", "lm-eval"),)),
        Extra(
            "sign",
            "signatures: release --sign-key, verify --require-signature",
            (("model_signing", "model-signing"), ("OpenSSL", "pyopenssl")),
        ),
    )
}


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # blocked, or half loaded
        return False


def installed_version(package: str) -> str:
    """The version of a package, by the name it has in the index.

    It is in the name of the folder that an installer leaves. importlib.metadata, which reads the file in that folder as
    mail is read (a hundredth of a second), is asked where there is none; raises its PackageNotFoundError.
    """
    found = _named_versions(tuple(sys.path)).get(package.replace("-", "_"))
    if found is not None:
        return found
    from importlib.metadata import version as said

    return said(package)


@cache
def _named_versions(folders: tuple[str, ...]) -> Mapping[str, str]:
    """Versions of packages by the names of their folders, those that are found first."""
    versions: dict[str, str] = {}
    for folder in folders:
        with suppress(OSError), os.scandir(folder or os.curdir) as entries:
            for entry in entries:
                stem, *version = entry.name.removesuffix(".dist-info").split("-")
                if entry.name.endswith(".dist-info") and len(version) == 1:
                    versions.setdefault(stem, version[0])
    return versions


def install_command(names: Iterable[str]) -> str:
    """What installs these extras: pip install 'quantkit-cli[calibrate,llamacpp]'."""
    return f"pip install '{DISTRIBUTION}[{','.join(dict.fromkeys(names))}]'"


def require_installed(what: str, modules: Sequence[str], *, key: str | None = None, instead: str | None = None) -> None:
    """Raise UnsupportedError, before any work, where one of the modules of extras is not installed. `what` is the
    option or the command that needs them, `instead` a way that does without."""
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        raise not_installed(what, missing, key=key, instead=instead)


def not_installed(
    what: str, modules: Sequence[str], *, key: str | None = None, instead: str | None = None
) -> UnsupportedError:
    """The error for something that needs modules of extras which are not there."""
    extras = {module: extra_of(module) for module in modules}
    packages = [dict(extra.modules)[module] if extra else module for module, extra in extras.items()]
    hint = install_command(extra.name for extra in extras.values() if extra)
    message = f"{what} needs {' and '.join(packages)}, which {'is' if len(packages) == 1 else 'are'} not installed"
    return UnsupportedError(message, hint=f"{hint}; or {instead}" if instead else hint, key=key or packages[0])


def extra_of(module: str) -> Extra | None:
    """The extra that brings a module; None for one that no extra brings."""
    return next((extra for extra in EXTRAS.values() if module in dict(extra.modules)), None)
