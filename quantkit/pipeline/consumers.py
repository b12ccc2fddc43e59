"""A plan as its consumers will see it, and what they say to it before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantkit.consumers import CONSUMERS, Module, Subject, Verdict, require_consumers, verdicts
from quantkit.errors import UnsupportedError
from quantkit.families.known import drafts
from quantkit.plan.base import Plan

ENCODER_READERS = ("llama.cpp", "ollama", "lmstudio")


def subject_of(plan: Plan) -> Subject:
    """What a plan makes, for the table of consumers."""
    layouts = {unit.name: unit.layout for unit in plan.rounded}
    return Subject(
        container=plan.container,
        modules=tuple(Module(m.name, m.role, m.rows, m.cols, layouts.get(m.name)) for m in plan.linears),
        architecture=plan.served_as,
        model_type=plan.model_type,
        drafts=drafts(plan.family),
        kv_cache=plan.kv_cache,
        heads=plan.shape.heads,
        kv_heads=plan.shape.kv_heads,
        file_types=() if plan.is_checkpoint else tuple(sorted({unit.word for unit in plan.units})),
        files=len({tensor.file for tensor in plan.tensors}),
    )


def require_loadable(plans: Sequence[Plan], names: Sequence[str], tp: int) -> None:
    """Raise UnsupportedError for the first plan that one of the named consumers would not load, and why."""
    for plan in plans:
        try:
            require_consumers(subject_of(plan), names, tp)
        except UnsupportedError as error:
            message = f"{plan.recipe}: {error.message}"
            raise UnsupportedError(message, hint=error.hint, tensor=error.tensor, key=error.key) from error


def consumer_verdicts(plan: Plan, tp: int = 1) -> tuple[Verdict, ...]:
    """What every known consumer makes of a plan; of the file of an encoder those that read such files."""
    return verdicts(subject_of(plan), ENCODER_READERS if plan.is_encoder else CONSUMERS, tp)


def loaders(plan: Plan, tp: int = 1) -> tuple[str, ...]:
    """The consumers that load what a plan makes, on `tp` devices."""
    return tuple(verdict.consumer for verdict in consumer_verdicts(plan, tp) if verdict.ok)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data; what does not apply is left out."""
    said = {"rule": verdict.rule, "module": verdict.module, "reason": verdict.reason, "nearest": verdict.nearest}
    return {
        "consumer": verdict.consumer,
        "ok": verdict.ok,
        **{key: value for key, value in said.items() if value},
        **({"caveats": list(verdict.caveats)} if verdict.caveats else {}),
    }


def verdict_line(verdict: Verdict) -> str:
    """A verdict in a line: "vllm          loads"."""
    state = "loads" if verdict.ok else "refuses"
    where = f' "{verdict.module}"' if verdict.module else ""
    words = "; ".join(verdict.caveats) if verdict.ok else f"{verdict.reason}; use {verdict.nearest}"
    return f"{verdict.consumer:<13} {state}{where}" + (f": {words}" if words else "")
