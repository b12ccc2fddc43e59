"""A release as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantkit.pipeline.release import Release
from quantkit.report.html.markup import digits
from quantkit.report.text import size, terminal_width, wrapped
from quantkit.untrusted import shown

GATES = {"passed": "gates kept", "failed": "a gate FAILED", "not judged": "not judged"}
STATES = {"new": "would write", "replaced": "would replace", "same": "would keep", "removed": "would remove"}


def release_lines(release: Release, *, dry_run: bool = False) -> list[str]:
    """In which order to deploy what, and the files that were written, or with `dry_run` would be."""
    width = terminal_width()
    lines = [part for line in _said(release.body) for part in _indented(line, width)]
    for file in release.files:  # in one piece, however long: paths are for programs, too
        path = shown(release.folder / file.name)
        bytes_ = "" if file.nbytes is None else f" ({file.nbytes:,} bytes)"
        lines.append(f"{STATES[file.state]:<13} {path}{bytes_}" if dry_run else f"{file.state:<8} {path}")
    return lines


def _indented(line: str, width: int) -> list[str]:
    """A line in as many as it takes, with its indent kept."""
    indent = len(line) - len(line.lstrip())
    first, *others = wrapped(line.lstrip(), width - indent, 4)
    return [" " * indent + part for part in (first, *others)]


def _said(body: Mapping[str, Any]) -> Iterator[str]:
    yield shown(body["name"])
    by_name = {each["name"]: each for each in body["artifacts"]}
    longest = max(len(shown(name)) for name in by_name)
    for name in [*body["order"], *(name for name in by_name if name not in body["order"])]:
        each = by_name[name]
        yield f"  {each['role']:<8}  {shown(name):<{longest}}  {size(each['bytes']):>9}  {_quality(each)}"
    yield f"  baseline  {shown(body['baseline']['name'])}"
    if body["not_before"]:
        yield f"  not before {body['not_before']}"


def _quality(each: Mapping[str, Any]) -> str:
    if not each["verified"]:
        return "not verified"
    if each["quality"] is None:
        measured = "not measured"
    else:
        kl = each["quality"]["kl"]
        error = "" if kl["standard_error"] is None else f" ± {kl['standard_error']:.2g}"
        measured = f"KL {digits(kl['value'])}{error}"
    return f"{measured}, {GATES[each['gates']['verdict']]}"
