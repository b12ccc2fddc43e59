"""Test cases in the XML that servers for CI read (JUnit's, as Jenkins, GitLab and GitHub actions know it)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from quantkit.records import record

NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@record
class Case:
    """One case of a class. `failure` is why it failed, of this `kind`; `skipped` why it did not run; "" for neither.
    `said` is what it tells. `seconds` is left out where nobody knows."""

    group: str
    name: str
    seconds: float | None = None
    said: str = ""
    failure: str = ""
    kind: str = ""
    skipped: str = ""


def junit(suite: str, cases: Sequence[Case], seconds: float) -> str:
    """A document with one suite."""
    failed, skipped = (sum(bool(getattr(case, key)) for case in cases) for key in ("failure", "skipped"))
    counts = f'tests="{len(cases)}" failures="{failed}" errors="0" time="{seconds:.3f}"'
    left_out = f' skipped="{skipped}"' if skipped else ""
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<testsuites {counts}>",
        f"<testsuite name={_attribute(suite)} {counts}{left_out}>",
        *map(_case, cases),
    ]
    return "\n".join([*out, "</testsuite>", "</testsuites>", ""])


def _case(case: Case) -> str:
    took = "" if case.seconds is None else f' time="{case.seconds:.3f}"'
    inner = ""
    if case.failure:
        inner += f"<failure type={_attribute(case.kind)} message={_attribute(case.failure)}/>"
    if case.skipped:
        inner += f"<skipped message={_attribute(case.skipped)}/>"
    if case.said:
        inner += f"<system-out>{_text(case.said)}</system-out>"
    return f"<testcase classname={_attribute(case.group)} name={_attribute(case.name)}{took}>{inner}</testcase>"


def _attribute(text: str) -> str:
    return quoteattr(NO_XML.sub("?", text))


def _text(text: str) -> str:
    return escape(NO_XML.sub("?", text))
