"""The doctor stage: what this machine has for the job. Reads only; imports nothing heavy; prints no secret."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from quantkit.consumers import RULES, stale
from quantkit.extras import EXTRAS, install_command, installed_version, is_installed
from quantkit.machine import core_count, memory_limit_bytes
from quantkit.records import record
from quantkit.report.text import size
from quantkit.units import counted
from quantkit.version import __version__

PACKAGES = ("numpy", "numba", "safetensors", "gguf", "tokenizers", "sentencepiece")
COMFORTABLE_DISK_BYTES = 10**9
COMFORTABLE_MEMORY_BYTES = 10**9


@record
class Finding:
    """One line of the doctor. `ok` is None for plain facts."""

    area: str
    what: str
    ok: bool | None = None


def doctor(folder: Path) -> tuple[Finding, ...]:
    """Findings about the machine, the installed versions, and `folder`, where output would go."""
    return (
        Finding("quantkit", f"{__version__} on Python {platform.python_version()}", sys.version_info >= (3, 11)),
        Finding("machine", f"{platform.machine()} {platform.system()}, {counted(core_count(), 'core')}"),
        _memory(),
        _disk(folder),
        *_packages(),
        _consumers(),
        _compiled(),
        Finding("hub cache", _hub_cache()),
        Finding("hub token", "set" if _has_token() else "not set (public repositories only)"),
        *_unfinished(folder),
    )


def _compiled() -> Finding:
    """Where compiled loops are kept: in the first of their folders that can be written to."""
    from quantkit.qtypes.machine_code import folders

    for folder in folders():
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            return Finding("compiled", f"loops are kept in {folder}", True)
    what = "no folder can be written: every run compiles its loops again, for some seconds; set NUMBA_CACHE_DIR"
    return Finding("compiled", what, False)


def _consumers() -> Finding:
    """How old the table of what engines load is."""
    old = stale(date.today())
    checked = min(rule.checked_on for rule in RULES)
    what = f"{len(RULES)} rules of what engines load, checked {checked}"
    return Finding("consumers", what + (f", {len(old)} of them are old: update quantkit" if old else ""), not old)


def _memory() -> Finding:
    limit = memory_limit_bytes()
    return Finding("memory", size(limit), limit >= COMFORTABLE_MEMORY_BYTES)


def _disk(folder: Path) -> Finding:
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(existing).free
    return Finding("disk", f"{size(free)} free at {existing}", free >= COMFORTABLE_DISK_BYTES)


def _packages() -> list[Finding]:
    found = []
    for name in PACKAGES:
        version = _version(name)
        found.append(Finding(name, version or "missing: reinstall quantkit-cli", version is not None))
    for extra in EXTRAS.values():
        for module, name in extra.modules:
            version = _version(name) if is_installed(module) else None
            why = f"not installed: {install_command([extra.name])}"
            found.append(Finding(name, version or why, True if version else None))
    return found


def _version(package: str) -> str | None:
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return None


def _hub_cache() -> str:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    repos = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    return f"{cache} ({counted(repos, 'model')})"


def _has_token() -> bool:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return bool(os.environ.get("HF_TOKEN")) or (home / "token").is_file()


def _unfinished(folder: Path) -> list[Finding]:
    jobs = sorted(folder.glob(".quantkit-*")) if folder.is_dir() else []
    return [Finding("unfinished", f"{job}: run the same command to resume, or delete the folder") for job in jobs]
