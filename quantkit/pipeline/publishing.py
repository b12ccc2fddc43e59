"""May it be published? Whether artifacts are what their manifests say, were compared with their source, and keep the
gates that they were judged by.

    require_publishable(folder_or_file)     raises what is in the way: VerificationError (7), GateError (8)
    publishable(folder_or_file)             the same as data, one Publishable for each artifact

`quantkit release` and `quantkit push` ask here, so that there is one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.errors import GateError, InputError, VerificationError
from quantkit.events import Sink, StageFinished, ignore
from quantkit.pipeline.folder import NO_MANIFEST, Finished, finished_in, require_finished
from quantkit.pipeline.judged import Judged, gates_of, judged_in
from quantkit.pipeline.output import GATES
from quantkit.pipeline.verify import verify_artifact
from quantkit.quality.checks.base import STANDARD, Check, Verification, VerifyOptions
from quantkit.records import record
from quantkit.untrusted import listed, require_path, shown

COMPARED = ("structure", "numbers")  # looks of convert without which nobody compared an artifact with its source
NOT_COMPARED = (
    "nothing compared it with its source: it was converted with --no-verify; "
    "the same quantkit convert command without --no-verify looks at it, or give the source with --against"
)


@record
class Publishable:
    """An artifact, what was seen of it just now, and how its gates were judged."""

    artifact: Finished
    seen: Verification
    gates: tuple[Judged, ...]

    @property
    def label(self) -> str:
        return self.artifact.label

    @property
    def gated(self) -> bool | None:
        """Whether all gates held; None where none was asked."""
        return all(gate.ok for gate in self.gates) if self.gates else None

    @cached_property
    def unverified(self) -> str | None:
        """Why nobody can say that it is what it should be; None where it was verified."""
        failed = [f"{check.name}: {check.detail}" for check in self.seen.checks if check.ok is False]
        if failed:
            return "; ".join(failed)
        if any(check.name == "numbers" and _compared(check.ok, check.data) for check in self.seen.checks):
            return None  # just now
        made = {str(check.get("check")): check for check in self.artifact.manifest.facts.get("checks") or ()}
        wrong = [name for name, check in made.items() if check.get("ok") is False and name != GATES]
        if wrong:
            return f"{listed(wrong)} failed when it was made"
        if not all(name in made for name in COMPARED):
            return NOT_COMPARED
        numbers = made["numbers"]
        if _compared(numbers.get("ok"), numbers):
            return None
        return f"nothing compared its numbers with its source: {numbers.get('detail')}"

    @property
    def verified(self) -> bool:
        return self.unverified is None

    @property
    def ok(self) -> bool:
        """Whether it may be published: verified, and no gate failed."""
        return self.verified and self.gated is not False

    def require(self, *, gated: bool = False) -> None:
        """Raise VerificationError where it is not verified, GateError where a gate failed, or none was asked and it
        has to be `gated`."""
        path = str(self.artifact.place)
        if self.unverified is not None:
            hint = "convert it again, or verify it against its source with --against"
            raise VerificationError(f"{shown(self.label)} is not verified: {self.unverified}", path=path, hint=hint)
        failed = [gate.words for gate in self.gates if not gate.ok]
        if failed:
            what = f"{shown(self.label)} did not keep its gates: {'; '.join(failed)}"
            raise GateError(what, path=path, hint="leave it out, or make one with more bits")
        if gated and self.gated is None:
            hint = "quantkit eval --gate, and give what it prints with --eval; or convert with --gate"
            raise GateError(f"{shown(self.label)} was judged by no gate", path=path, hint=hint)

    def as_json(self) -> dict[str, Any]:
        return {
            "artifact": self.label,
            "ok": self.ok,
            "verified": self.verified,
            "why": self.unverified,
            "gated": self.gated,
            "gates": [gate.as_json() for gate in self.gates],
        }


def _compared(ok: bool | None, figures: Mapping[str, Any]) -> bool:
    """Whether a look at numbers compared any; where scales were moved, some weights cannot be, and it says None."""
    many = figures.get("compared_tensors")
    return ok is True or (ok is None and isinstance(many, int) and many > 0)


def publishable(
    path: Path | str,
    *,
    against: str | None = None,
    adapters: Sequence[str] = (),
    records: Sequence[Path] = (),
    options: VerifyOptions = STANDARD,
    emit: Sink = ignore,
) -> tuple[Publishable, ...]:
    """Whether the artifacts of a folder, or the one that a GGUF file is of, may be published; the smallest first.

    Every byte of them is read and compared with their manifests; with `against` also with the source and the `adapters`
    that were merged into it. Gates are those
    that convert judged, those of `records` (what eval printed or appended), and those of the folder's release.json.
    Raises InputError where there is no artifact with a manifest, or one does not parse.
    """
    path = Path(path)
    require_path(path)
    found = require_finished(path) if path.is_dir() else (_of_file(path),)
    judged = judged_in(records)
    return tuple(
        Publishable(
            one,
            _looked(one, against, adapters, options, emit),
            gates_of(one, judged),
        )
        for one in found
    )


def require_publishable(
    path: Path | str,
    *,
    records: Sequence[Path] = (),
    gated: bool = False,
    emit: Sink = ignore,
) -> tuple[Publishable, ...]:
    """The artifacts of a folder or of a GGUF file, where all of them may be published.

    Raises what `publishable` does, and for the first that may not: VerificationError where it is not verified,
    GateError where a gate failed, or, with `gated`, where none was asked.
    """
    found = publishable(path, records=records, emit=emit)
    for one in found:
        one.require(gated=gated)
    return found


def _of_file(path: Path) -> Finished:
    if not path.exists():
        raise InputError(f"{shown(path)} does not exist", path=str(path), hint="check the path")
    for one in finished_in(path.parent):
        if any(file.name == path.name for file in one.manifest.artifact):
            return one
    raise InputError(f"{shown(path)} has no manifest beside it", path=str(path), hint=NO_MANIFEST)


def _looked(
    one: Finished, against: str | None, adapters: Sequence[str], options: VerifyOptions, emit: Sink
) -> Verification:
    """What verify says; what it raises of a file that does not parse is a look that failed."""
    try:
        seen = verify_artifact(one.place, against=against, adapters=adapters, options=options, emit=emit)
    except (InputError, VerificationError) as error:
        if against is not None and error.path and not _is_of(one, error.path):
            raise  # of the source
        seen = Verification((Check("files", False, error.message),))
    emit(StageFinished("verify", 0.0, f"{one.label}: {seen.summary()}"))
    return seen


def _is_of(one: Finished, path: str) -> bool:
    return Path(path).absolute().is_relative_to(one.first.parent.absolute())
