"""What comes of looking at an artifact, and how to look."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any

from quantkit.errors import VerificationError
from quantkit.records import record


@record
class Check:
    """The outcome of one look. `ok` is None where it was not asked for or could not be made; `data` is for JSON, and
    `hint` is what helps where converting again does not."""

    name: str
    ok: bool | None
    detail: str
    data: dict[str, Any] = field(default_factory=dict)
    hint: str = ""


@record
class Verification:
    """All looks at one artifact."""

    checks: tuple[Check, ...]

    def __repr__(self) -> str:
        return f"Verification(ok={self.ok}, {self.summary()})"

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks)

    def summary(self) -> str:
        """One line: "files ok · structure ok · numbers ok (worst blk.0.attn_k 22.1 dB)"."""
        words = {True: "ok", False: "FAILED", None: "not checked"}
        return " · ".join(f"{c.name} {words[c.ok]}" + (f" ({c.detail})" if c.detail else "") for c in self.checks)

    def as_json(self) -> list[dict[str, Any]]:
        return [{"check": c.name, "ok": c.ok, "detail": c.detail, **c.data} for c in self.checks]

    def require(self, path: Path | str) -> None:
        """Raise VerificationError naming the failed looks."""
        failed = [c for c in self.checks if c.ok is False]
        if failed:
            what = "; ".join(f"{c.name}: {c.detail}" for c in failed)
            again = "do not use this file; convert again, and report it if it fails again"
            hint = next((c.hint for c in failed if c.hint), again)
            raise VerificationError(f"{Path(path).name} does not verify: {what}", path=str(path), hint=hint)


@record
class VerifyOptions:
    """How to look. `engine` is None or "llama.cpp"; `say` is a text for it to continue; `sample_rows` of each tensor
    are compared, None for all. `base` is the model of an adapter, None for the one that it names."""

    engine: str | None = None
    say: str | None = None
    sample_rows: int | None = None
    threads: int | None = None
    offline: bool = False
    pre: str | None = None
    base: str | None = None


STANDARD = VerifyOptions()
