"""A plan as its consumers will see it, and what they say to it before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantkit.consumers import CONSUMERS, Module, Subject, Verdict, require_consumers, verdicts
from quantkit.errors import UnsupportedError
from quantkit.plan.checkpoint import AnyPlan, ServerPlan


def subject_of(plan: AnyPlan) -> Subject:
    """What a plan makes, for the table of consumers."""
    if not isinstance(plan, ServerPlan):
        shape = plan.model.shape
        types = tuple(sorted({t.qtype for t in plan.tensors}))
        return Subject(
            "gguf", (), plan.model.gguf_architecture, False, False, shape.heads, shape.kv_heads, types, len(plan.files)
        )
    layouts = {planned.name: planned.layout for planned in plan.modules}
    modules = (Module(m.name, m.role, m.rows, m.cols, layouts.get(m.name)) for m in plan.outline.linears)
    shape, name = plan.outline.shape, plan.outline.architecture
    return Subject(plan.container, tuple(modules), name, False, plan.kv_cache, shape.heads, shape.kv_heads)


def require_loadable(plans: Sequence[AnyPlan], names: Sequence[str], tp: int) -> None:
    """Raise UnsupportedError for the first plan that one of the named consumers would not load, and why."""
    for plan in plans:
        try:
            require_consumers(subject_of(plan), names, tp)
        except UnsupportedError as error:
            message = f"{plan.recipe}: {error.message}"
            raise UnsupportedError(message, hint=error.hint, tensor=error.tensor, key=error.key) from error


def consumer_verdicts(plan: AnyPlan, tp: int = 1) -> tuple[Verdict, ...]:
    """What every known consumer makes of a plan."""
    return verdicts(subject_of(plan), CONSUMERS, tp)


def loaders(plan: AnyPlan, tp: int = 1) -> tuple[str, ...]:
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
