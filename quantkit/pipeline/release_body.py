"""What release.json says, from artifacts that were looked at, their order, and the card of the same release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantkit.pipeline.consumers import verdict_json
from quantkit.pipeline.folder import Finished
from quantkit.pipeline.loaded_by import verdicts_of
from quantkit.pipeline.publishing import Publishable
from quantkit.pipeline.release_order import Order
from quantkit.pipeline.signing import SIGNATURE
from quantkit.pipeline.taken_over import record_of
from quantkit.report.card import Base, Card, Measured
from quantkit.report.card_sections import Rollout
from quantkit.report.release import RELEASE
from quantkit.storage import SUMS
from quantkit.version import __version__

VERDICTS = {True: "passed", False: "failed", None: "not judged"}
Names = Mapping[Finished, str]


def rollout_of(
    order: Order, names: Names, not_before: str | None, modelfiles: Mapping[str, str], *, signed: bool
) -> Rollout:
    """The order for people."""
    source = order.primary.manifest.source
    bases = [each.get("base") for each in source.get("adapters") or ()] if order.primary.adapts else []
    original = str(next(iter(bases), None) or source.get("repo") or source["name"])
    return Rollout(
        primary=names[order.primary],
        fallbacks=tuple(names[one] for one in order.fallbacks),
        baseline=original if order.baseline is None else names[order.baseline],
        not_before=not_before,
        release=RELEASE,
        sums=SUMS,
        signature=SIGNATURE if signed else None,
        modelfiles=modelfiles,
    )


def body_of(
    found: Sequence[Publishable], order: Order, names: Names, card: Card, not_before: str | None
) -> dict[str, Any]:
    """release.json without its list of other files; see schemas/release."""
    base, manifest = card.base, order.primary.manifest
    steps = [names[one] for one in order.steps]
    return {
        "name": card.title,
        "model": {
            "name": base.name,
            "repo": base.repo,
            "commit": base.commit,
            "kind": str(manifest.source.get("kind", "")),
            "architecture": base.architecture,
            "weights": base.weights,
            "files": [file.as_json() for file in manifest.source_files],
        },
        "task": base.pipeline,
        "license": {"ids": list(base.license), "name": base.license_name, "link": base.license_link},
        "lineage": [step.as_json() for step in base.lineage],
        "datasets": list(base.datasets),
        "primary": steps[0],
        "fallback": steps[1:],
        "order": steps,
        "baseline": _baseline(order, names, base),
        "not_before": not_before,
        "artifacts": [
            {**_artifact(one, order, names), "quality": _quality(variant.measured), "modelfile": _modelfile(one, card)}
            for one, variant in zip(found, card.variants, strict=True)
        ],
        "files": [],
        "tool": {"name": "quantkit", "version": __version__},
    }


def _baseline(order: Order, names: Names, base: Base) -> dict[str, Any]:
    if order.baseline is not None:
        return {"kind": "artifact", "name": names[order.baseline], "repo": None, "commit": None}
    name = base.repo or base.name if order.primary.adapts else base.name  # without the adapter
    return {"kind": "source", "name": name, "repo": base.repo, "commit": base.commit}


def _artifact(one: Publishable, order: Order, names: Names) -> dict[str, Any]:
    artifact, manifest = one.artifact, one.artifact.manifest
    after = order.after(artifact)
    consumers = verdicts_of(artifact)
    return {
        "name": names[artifact],
        "kind": artifact.kind,
        "container": str(manifest.facts["model"].get("container") or ("gguf" if artifact.gguf else "plain")),
        "recipe": str(manifest.recipe["name"]),
        "identity": manifest.identity,
        "plan_digest": manifest.plan_digest,
        "role": _role(artifact, order),
        "rollback_to": names[after] if after is not None and _runs(artifact) else None,
        "encoder": next((names[other] for other in names if other.encodes and _seen_with(artifact)), None),
        "bytes": artifact.nbytes,
        "bits_per_weight": float(manifest.facts["size"]["bits_per_weight"]),
        "files": [file.as_json() for file in manifest.artifact],
        "manifest": record_of(artifact).as_json(),
        "verified": one.verified,
        "checks": list(_checks(one)),
        "gates": {"verdict": VERDICTS[one.gated], "judged": [gate.as_json() for gate in one.gates]},
        "consumers": None if consumers is None else [verdict_json(verdict) for verdict in consumers],
        "warnings": [
            {"code": str(each["code"]), "message": str(each["message"])} for each in manifest.facts["warnings"]
        ],
    }


def _quality(measured: Measured | None) -> dict[str, Any] | None:
    return None if measured is None else measured.as_json()


def _modelfile(one: Publishable, card: Card) -> str | None:
    return None if card.rollout is None else card.rollout.modelfiles.get(one.artifact.first.name)


def _runs(artifact: Finished) -> bool:
    return not artifact.encodes and not artifact.adapts


def _seen_with(artifact: Finished) -> bool:
    """Whether the encoder beside an artifact goes with it: llama.cpp takes it beside a GGUF file."""
    return artifact.gguf and _runs(artifact)


def _role(artifact: Finished, order: Order) -> str:
    if artifact in order.steps:
        return "primary" if artifact == order.primary else "fallback"
    return "encoder" if artifact.encodes else "adapter" if artifact.adapts else "other"


def _checks(one: Publishable) -> Iterator[dict[str, Any]]:
    """Looks that were taken when it was made, as its manifest says, and now."""
    for check in one.artifact.manifest.facts.get("checks") or ():
        yield {"check": check["check"], "ok": check["ok"], "detail": check["detail"], "when": "made"}
    for seen in one.seen.checks:
        if seen.ok is not None:
            yield {"check": seen.name, "ok": seen.ok, "detail": seen.detail, "when": "released"}
