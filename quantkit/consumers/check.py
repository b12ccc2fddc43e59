"""Judge an artifact that is still to be made by the table of rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from quantkit.consumers.finders import Found
from quantkit.consumers.names import known_as
from quantkit.consumers.refusals import RULES, Rule
from quantkit.consumers.subject import Subject
from quantkit.errors import UnsupportedError, UsageError, require_choice
from quantkit.records import record
from quantkit.untrusted import shown

CONSUMERS = ("transformers", "vllm", "sglang", "llama.cpp", "ollama", "lmstudio", "tensorrt-llm", "mlx")
ALIASES = {
    "hf": "transformers", "huggingface": "transformers", "llamacpp": "llama.cpp", "llama-cpp": "llama.cpp",
    "lm-studio": "lmstudio", "tensorrt": "tensorrt-llm", "trt-llm": "tensorrt-llm", "trtllm": "tensorrt-llm",
    "mlx-lm": "mlx",
}  # fmt: skip
LARGEST_GROUPS = (128, 1024)  # of kernels for AWQ, and for GPTQ
FRESH = timedelta(days=180)


@record
class Verdict:
    """Whether a consumer loads an artifact; if not, by which rule, for which module, why and what to choose instead.

    `module` is None where the objection is to the artifact as a whole. `caveats` are sentences on what loads with a
    catch.
    """

    consumer: str
    ok: bool
    rule: str = ""
    module: str | None = None
    reason: str = ""
    nearest: str = ""
    caveats: tuple[str, ...] = ()


def parse_consumers(names: Sequence[str]) -> tuple[str, ...]:
    """The consumers meant by these names or comma-separated lists of them, each once, in their order.

    Raises UsageError with the nearest name for one that nobody knows.
    """
    words = [word.strip().lower() for name in names for word in name.split(",")]
    return tuple(dict.fromkeys(_consumer(word) for word in words if word))


def _consumer(word: str) -> str:
    name = ALIASES.get(word, word)
    if name not in CONSUMERS:
        require_choice("--for", word, (*CONSUMERS, *ALIASES))
    return name


def verdicts(subject: Subject, names: Sequence[str], tp: int = 1) -> tuple[Verdict, ...]:
    """What each of these consumers makes of the artifact, run on `tp` devices.

    Raises UsageError for an unknown consumer, or fewer devices than one.
    """
    if tp < 1:
        raise UsageError(f"--tp is {tp}, expected the number of devices", hint="use 1 or more", key="tp")
    return tuple(_verdict(subject, name, tp) for name in parse_consumers(names))


def require_consumers(subject: Subject, names: Sequence[str], tp: int = 1) -> None:
    """Raise UnsupportedError, naming consumer, module, reason and alternative, unless all of these load the artifact.

    Raises UsageError as `verdicts` does.
    """
    for verdict in verdicts(subject, names, tp):
        if not verdict.ok:
            what = "this" if verdict.module is None else f'"{shown(verdict.module)}"'
            message = f"{verdict.consumer} does not load {what}: {verdict.reason}"
            raise UnsupportedError(message, hint=f"use {verdict.nearest}", tensor=verdict.module, key="for")


def stale(today: date) -> tuple[Rule, ...]:
    """Rules that were looked up more than half a year before `today`: consumers have changed since."""
    return tuple(rule for rule in RULES if today - rule.checked_on > FRESH)


def _verdict(subject: Subject, consumer: str, tp: int) -> Verdict:
    caveats = []
    for rule in RULES:
        found = rule.finds(subject, tp) if rule.consumer == consumer else None
        if found is None:
            continue
        facts = _facts(subject, tp, rule, found)
        reason, nearest = rule.reason.format_map(facts), rule.nearest.format_map(facts)
        if rule.refuses:
            module = found.module.name if found.module else None
            return Verdict(consumer, False, rule.name, module, reason, nearest)
        caveats.append(reason)
    return Verdict(consumer, True, caveats=tuple(caveats))


def _facts(subject: Subject, tp: int, rule: Rule, found: Found) -> dict[str, object]:
    """What a reason may name."""
    lower = next((n for n in range(tp - 1, 0, -1) if rule.finds(subject, n) is None), 1)
    facts: dict[str, object] = {
        "tp": tp,
        "container": subject.container,
        "files": subject.files,
        "lower": lower,
        "heads": subject.heads,
        "kv_heads": subject.kv_heads,
        "architecture": shown(subject.architecture),
        "model_type": shown(subject.model_type or "none"),
        "known": known_as(subject.architecture),
        "file_types": ", ".join(sorted(subject.file_types)),
    }
    module = found.module
    if module is None:
        return facts
    facts |= {
        "rows": module.rows,
        "cols": module.cols,
        "outputs": module.traits.outputs,
        "inputs": module.traits.inputs,
    }
    group = module.traits.group
    facts |= {"bits": module.traits.bits, "group": group}
    facts["groups"] = "a scale per row" if group == -1 else f"groups of {group}"
    for largest in LARGEST_GROUPS:
        facts[f"group_to_{largest}"] = _nearest_group(group, module.cols, largest)
    return facts


def _nearest_group(group: int, cols: int, largest: int) -> int:
    """The size of groups nearest to `group`, a power of two from 32 to `largest` that divides a row; 32 without one."""
    most = largest if group == -1 else max(min(group, largest), 32)
    sizes = [1 << power for power in range(5, 11) if 1 << power <= most and cols % (1 << power) == 0]
    return max(sizes, default=32)
