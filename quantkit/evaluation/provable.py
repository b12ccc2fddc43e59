"""What a set of prompts can prove at all, asked before any model runs."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from quantkit.errors import InputError
from quantkit.evaluation.answers import RATES
from quantkit.evaluation.figures import Z
from quantkit.evaluation.made_prompts import COPY, JSON
from quantkit.evaluation.prompts import PromptSet, read_prompts
from quantkit.units import counted
from quantkit.untrusted import shown

SET_OF = {"json_valid": JSON, "copy_exact": COPY}  # rates -> the large set of prompts that ships for them
COUNTED, UNBOUNDED = "lost", ("lost", "divergence")


def provable(prompts: int) -> float:
    """The share that `prompts` prompts prove when all of them hold: Wilson's bound at 95 %, one-sided."""
    return prompts / (prompts + Z * Z)


def needed(limit: float) -> int:
    """How many prompts prove a share of `limit`, below 1, when all of them hold."""
    return ceil(limit * Z * Z / (1 - limit))


def fitting_set(names: Iterable[str]) -> str | None:
    """The sets that ship for rates of these names, as --prompts takes them; None where there is none for one."""
    sets = [SET_OF.get(name) for name in names]
    found = sorted({each for each in sets if each})
    return "+".join(found) if sets and all(sets) else None


def _larger(name: str, limit: float) -> str | None:
    """The set that ships for a rate, where it can prove the limit."""
    larger = SET_OF.get(name)
    if larger is None:
        return None
    return larger if provable(read_prompts(larger).having(*RATES[name])) >= limit else None


def require_provable(gate: str, name: str, limit: float, prompts: PromptSet) -> None:
    """Raise InputError for a gate (its text, what it limits, and the limit) on what no prompt of a set expects, and
    for a limit that its prompts cannot prove to be kept, however well a model does."""
    expecting = name in RATES or name == COUNTED
    count = prompts.having(*RATES.get(name, ())) if expecting else len(prompts.prompts)
    if not count:
        kinds = " or ".join(RATES.get(name, ())) or "any kind"
        message = f'--gate "{gate}": no prompt of {shown(prompts.name)} has an expectation of {kinds}'
        larger = _larger(name, limit)
        more = f"--prompts {larger}, a set that ships" if larger else 'give prompts with "expect"'
        raise InputError(message, key="gate", hint=f"{more}, or leave {name} out")
    if count < 2 and name != COUNTED:
        hint = "give more prompts with --prompts FILE"
        raise InputError(f'--gate "{gate}": one prompt has no confidence bound', key="gate", hint=hint)
    most = provable(count)
    if name not in UNBOUNDED and most < limit:
        enough = f"{counted(needed(limit), 'prompt', 'is', 'are')} needed" if limit < 1 else "no number of prompts does"
        message = f'--gate "{gate}": even {count} of {count} prompts prove no more than {most:.3f}, {enough}'
        larger = _larger(name, limit)
        more = f"--prompts {larger}, a set that ships," if larger else "give more prompts with --prompts FILE,"
        hint = f"{more} or gate {name}>={most - 5e-4:.3f}, or lost<=0"
        raise InputError(message, key="gate", hint=hint)
