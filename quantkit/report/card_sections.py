"""Sections of a model card: gates, in which order to deploy, lineage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from quantkit.records import record
from quantkit.report.lineage import Ancestor
from quantkit.report.markdown import block, code, linked, plain

SIGNED = "quantkit verify . --require-signature PUBLIC-KEY.pem"


@record
class Rollout:
    """What a release says to deployers: what goes first, what comes back when it fails, the nearest first, and what all
    are compared with. `sums` and `signature` are names of files, `modelfiles` those for Ollama by the files they are
    for."""

    primary: str
    fallbacks: tuple[str, ...]
    baseline: str
    not_before: str | None
    release: str
    sums: str
    signature: str | None
    modelfiles: Mapping[str, str]


def gate_lines(judged: Sequence[tuple[str, Sequence[tuple[str, bool]]]]) -> Iterator[str]:
    """What variants, each with its label, were judged by, and whether they keep it."""
    for label, gates in judged:
        if gates:
            words = "; ".join(f"{'kept' if ok else '**failed**'} {plain(gate)}" for gate, ok in gates)
            yield f"- Gates of {code(label)}: {words}."
    if any(gates for _, gates in judged):
        yield ""


def rollout_lines(rollout: Rollout) -> Iterator[str]:
    """In which order to deploy, and how to check what was downloaded."""
    yield "## Deploy"
    yield ""
    yield f"- First, to some of the traffic: {code(rollout.primary)}."
    back = ", then ".join(code(name) for name in rollout.fallbacks)
    yield f"- Roll back to: {back}." if back else "- Roll back to the original: nothing here has more bits."
    yield f"- Compare with: {code(rollout.baseline)}."
    if rollout.not_before is not None:
        yield f"- Not before {code(rollout.not_before)}."
    yield ""
    yield f"For programs all of this is in {code(rollout.release)}. To check what you downloaded:"
    yield ""
    checks = [f"sha256sum -c {rollout.sums}"]
    yield from block("bash", checks if rollout.signature is None else [*checks, SIGNED])
    yield ""


def lineage_lines(lineage: Sequence[Ancestor]) -> Iterator[str]:
    """What lies before the source, and between it and the variants."""
    if not lineage:
        return
    yield "## Lineage"
    yield ""
    for each in lineage:
        yield f"- {_step(each)}"
    yield ""


def _step(each: Ancestor) -> str:
    named = linked(each.repo) if each.repo else code(each.name)
    sources = {"manifest": "", "card": ", as its card says", "header": ", as its header says", "name": ", by its name"}
    by = sources.get(each.by, "")
    if each.relation == "merged with":
        return f"The LoRA adapter {named} was merged into the weights{_short(each.sha256)}."
    if each.relation == "distilled":
        return f"The base model was distilled from a larger one{by}."
    if each.relation == "quantization-aware":
        return f"The base model was trained to be quantized (quantization-aware training){by}."
    words = {
        "finetune": "a finetune of",
        "merge": "a merge with",
        "adapter": "an adapter of",
        "quantized": "quantized from",
    }
    return f"The base model is {words.get(each.relation, 'derived from')} {named}{by}."


def _short(sha256: str | None) -> str:
    return f" (SHA-256 {code(sha256[:16])})" if sha256 else ""
