"""In which order artifacts of a release are deployed: the primary, what to roll back to, what all are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from quantkit.errors import GateError, QuantkitError, UsageError, VerificationError, did_you_mean
from quantkit.pipeline.folder import Finished
from quantkit.pipeline.publishing import Publishable
from quantkit.records import record
from quantkit.untrusted import shown

FLOATS = frozenset({"f32", "f16", "bf16"})


@record
class Order:
    """`steps` rise in size: the first is the primary, each is what to roll back to from the one before. `baseline` is
    an artifact that holds the original's floats, None where there is none: then it is the source."""

    steps: tuple[Finished, ...]
    baseline: Finished | None

    @property
    def primary(self) -> Finished:
        return self.steps[0]

    @property
    def fallbacks(self) -> tuple[Finished, ...]:
        return self.steps[1:]

    def after(self, one: Finished) -> Finished | None:
        """What to roll back to from an artifact: the next larger that is in the order."""
        return next((step for step in self.steps if step.nbytes > one.nbytes), None)


def names_of(found: Sequence[Finished]) -> dict[Finished, str]:
    """What each is called in a release: its label, where two have the same one its first file."""
    labels = [one.label for one in found]
    return {one: one.label if labels.count(one.label) == 1 else one.first.name for one in found}


def order_of(found: Sequence[Publishable], names: Mapping[Finished, str], primary: str | None, *, gated: bool) -> Order:
    """The order of artifacts that may be published, by size.

    The primary is the one that was asked for, else the smallest whose gates passed, else the smallest that no gate
    judged. Raises UsageError for a name that is none, and what `Publishable.require` raises: for a primary that is not
    verified, did not pass, or, where all have to be `gated`, was not judged; and where nothing can be primary.
    """
    by_artifact = {one.artifact: one for one in found}
    models = [by_artifact[one] for one in _models(list(by_artifact))]
    good = [one for one in models if one.ok and (one.gated or not gated)]
    if primary is not None:
        first = by_artifact[require_primary(list(by_artifact), names, primary)]
        first.require(gated=gated)
    elif not good:
        raise _nothing(models, gated=gated)
    else:
        first = next((one for one in good if one.gated), good[0])
    later = [one for one in good if one.artifact.nbytes > first.artifact.nbytes]
    steps = tuple(one.artifact for one in (first, *later))
    floats = [one for one in steps if not one.adapts and _types(one) <= FLOATS]
    return Order(steps, floats[-1] if floats else None)


def _types(one: Finished) -> set[str]:
    return {str(each["type"]).lower() for each in one.manifest.facts["size"]["types"]}


def _models(found: Sequence[Finished]) -> list[Finished]:
    """What can run by itself; where nothing can, adapters, else encoders. The smallest first."""
    models = [one for one in found if not one.encodes and not one.adapts]
    chosen = models or [one for one in found if not one.encodes] or list(found)
    return sorted(chosen, key=lambda one: (one.nbytes, one.first.name))


def require_primary(found: Sequence[Finished], names: Mapping[Finished, str], primary: str) -> Finished:
    """The artifact of this name. Raises UsageError where there is none, or it is no model by itself."""
    models = _models(found)
    hint = f"one of {', '.join(shown(names[one]) for one in models)}"
    known: dict[str, Finished] = {}
    for one in found:
        known |= {name: one for name in (names[one], *(file.name for file in one.files))}
    if primary not in known:
        what = f'--primary "{shown(primary)}" is no artifact of this folder{did_you_mean(primary, known)}'
        raise UsageError(what, key="primary", hint=hint)
    if known[primary] not in models:
        raise UsageError(f"{shown(primary)} is no model by itself", key="primary", hint=hint)
    return known[primary]


def _nothing(models: Sequence[Publishable], *, gated: bool) -> QuantkitError:
    """Why there is no primary: for the sake of gates where one is verified, else that nothing is."""
    worst = next((one for one in models if one.verified), models[0])
    try:
        worst.require(gated=gated)
    except (GateError, VerificationError) as error:
        what = f"nothing here can be primary: {error.message}"
        return type(error)(what, path=error.path, hint=error.hint)
    raise AssertionError("what may be published can be primary")


def utc(text: str) -> str:
    """A date, or a date with a time, as seconds of UTC: "2026-12-06" -> "2026-12-06T00:00:00Z". What names no zone is
    UTC. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        what = f'--not-before "{shown(text, 60)}" is no date'
        hint = "as in 2026-12-06, or 2026-12-06T09:00:00+01:00"
        raise UsageError(what, key="not_before", hint=hint) from error
    return found.replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ")
