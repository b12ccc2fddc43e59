"""What models made of prompts: continuations side by side, what was expected of them, and figures over all of them.

Prompts are the clusters: every one counts once, standard errors are over prompts. Bounds of shares are Wilson's, one
sided at 95 %, as elsewhere (figures.py): 10 of 10 prompts prove no more than 79 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quantkit.evaluation.expectations import Choice, first_json
from quantkit.evaluation.figures import Estimate, estimate, wilson
from quantkit.evaluation.prompts import Asked, PromptSet, kinds_of
from quantkit.evaluation.scores import Likelihood
from quantkit.records import record

WORST = 10
JSON_KINDS = ("json", "json_schema")
RATES = {  # name -> the kinds of expectations of the prompts that count; none: all prompts with expectations
    "json_valid": JSON_KINDS,
    "copy_exact": ("copy",),
    "arithmetic": ("number",),
    "choice": ("choice",),
    "expect_pass": (),
}


@record
class Checked:
    """An expectation: its kind, and whether the original's continuation and the other's hold it."""

    kind: str
    reference: bool
    other: bool


@record
class Answer:
    """One prompt: both continuations as text without the token that ends them, how many tokens they have, how many
    are equal before the first that differs, whether all are, the mean KL divergence at the tokens of the original's
    continuation, and what was expected. `json` says whether they begin with JSON, where that is asked."""

    name: str
    kind: str
    prompt: str
    reference: str
    other: str
    reference_tokens: int
    tokens: int
    equal: int
    same: bool
    kl: float
    checks: tuple[Checked, ...]
    json: tuple[bool, bool] | None = None

    @property
    def equal_share(self) -> float:
        """The share of the original's tokens before the first difference."""
        return 1.0 if self.same else self.equal / max(self.reference_tokens, 1)

    @property
    def passed(self) -> tuple[bool, bool] | None:
        """Whether the original's and the other's continuation hold all that was expected; None without expectations."""
        if not self.checks:
            return None
        return all(c.reference for c in self.checks), all(c.other for c in self.checks)

    @property
    def lost(self) -> bool:
        """Whether the original holds what was expected and the other does not."""
        return self.passed == (True, False)

    def as_json(self) -> dict[str, Any]:
        passed = self.passed or (None, None)
        return {
            "id": self.name,
            "kind": self.kind,
            "prompt": self.prompt,
            "reference_text": self.reference,
            "text": self.other,
            "reference_tokens": self.reference_tokens,
            "tokens": self.tokens,
            "equal_tokens": self.equal,
            "identical": self.same,
            "kl": self.kl,
            "reference_passed": passed[0],
            "passed": passed[1],
            "expectations": [{"kind": c.kind, "reference": c.reference, "artifact": c.other} for c in self.checks],
        }


@record
class Rate:
    """A share of prompts, of the other model with its bounds, and of the original."""

    prompts: int
    other: Estimate
    reference: float

    @property
    def hits(self) -> int:
        return round(self.prompts * self.other.value)

    @property
    def reference_hits(self) -> int:
        return round(self.prompts * self.reference)

    def as_json(self) -> dict[str, Any]:
        return {"prompts": self.prompts, **self.other.as_json(), "reference": self.reference}


@record
class PromptReport:
    """What one model made of a set of prompts beside the original. `divergence` is the mean share of the original's
    tokens before the first that differs, `identical` the share of prompts without one, `kl` the mean over prompts.
    `rates` are those of RATES, None where no prompt expects such a thing. `length` tokens were asked for."""

    prompts: PromptSet
    length: int
    templated: int
    answers: tuple[Answer, ...]
    divergence: Estimate
    identical: Estimate
    kl: Estimate
    rates: dict[str, Rate | None]

    @property
    def lost(self) -> int:
        return sum(answer.lost for answer in self.answers)

    @property
    def gained(self) -> int:
        return sum(answer.passed == (False, True) for answer in self.answers)

    @property
    def worst(self) -> list[Answer]:
        """The prompts at which the models are furthest apart: lost ones first, then by KL divergence."""
        order = sorted(enumerate(self.answers), key=lambda each: (not each[1].lost, -each[1].kl, each[0]))
        return [answer for _, answer in order[:WORST]]

    def as_json(self) -> dict[str, Any]:
        return {
            "set": self.prompts.name,
            "sha256": self.prompts.sha256,
            "count": len(self.answers),
            "tokens": self.length,
            "templated": self.templated,
            "divergence": self.divergence.as_json(),
            "identical": self.identical.as_json(),
            "kl": self.kl.as_json(),
            "rates": {name: rate and rate.as_json() for name, rate in self.rates.items()},
            "lost": self.lost,
            "gained": self.gained,
            "kinds": [self._kind(kind) for kind in kinds_of(self.prompts)],
            "worst": [answer.name for answer in self.worst],
            "answers": [answer.as_json() for answer in self.answers],
        }

    def _kind(self, kind: str) -> dict[str, Any]:
        """The slice of the prompts of one kind."""
        chosen = [answer for answer in self.answers if answer.kind == kind]
        passed = [answer.passed for answer in chosen if answer.passed is not None]
        return {
            "kind": kind,
            "prompts": len(chosen),
            "identical": sum(answer.same for answer in chosen),
            "divergence": float(np.mean([answer.equal_share for answer in chosen])),
            "kl": float(np.mean([answer.kl for answer in chosen])),
            "expecting": len(passed),
            "reference_passed": sum(ours for ours, _ in passed),
            "passed": sum(theirs for _, theirs in passed),
        }


@record
class Heard:
    """What one model said: its continuation of each prompt, the likelihood of the original's continuation of each,
    and of each option of each."""

    tokens: Sequence[Sequence[int]]
    likely: Sequence[Likelihood]
    options: Sequence[Sequence[Likelihood]]


def compare_answers(
    asked: Asked, length: int, reference: Heard, other: Heard, text: Callable[[list[int]], str]
) -> PromptReport:
    """The report of one model beside the original. `text` turns ids into text."""
    answers = tuple(_answer(asked, n, reference, other, text) for n in range(len(asked.ids)))
    each = np.arange(len(answers))
    return PromptReport(
        asked.prompts,
        length,
        asked.templated,
        answers,
        estimate(np.array([a.equal_share for a in answers]), each),
        _share([a.same for a in answers]),
        estimate(np.array([a.kl for a in answers]), each),
        {name: _rate(answers, name) for name in RATES},
    )


def _answer(asked: Asked, n: int, reference: Heard, other: Heard, text: Callable[[list[int]], str]) -> Answer:
    prompt = asked.prompts.prompts[n]
    ours, theirs = list(reference.tokens[n]), list(other.tokens[n])
    here, there = (text(ids[:-1] if ids[-1:] and ids[-1] in asked.ends else ids) for ids in (ours, theirs))
    equal = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    checks = []
    for each in prompt.expected:
        if each.choice is not None:
            chosen = (_chosen(each.choice, side.options[n]) for side in (reference, other))
            checks.append(Checked(each.kind, *chosen))
        elif each.holds is not None:
            checks.append(Checked(each.kind, each.holds(here), each.holds(there)))
    asks_json = any(each.kind in JSON_KINDS for each in prompt.expected)
    json = (first_json(here)[0], first_json(there)[0]) if asks_json else None
    counts = (len(ours), len(theirs), equal, ours == theirs, other.likely[n].kl)
    return Answer(prompt.name, prompt.kind, asked.texts[n], here, there, *counts, tuple(checks), json)


def _chosen(choice: Choice, options: Sequence[Likelihood]) -> bool:
    """Whether the answer is the most likely of the options; of equal ones the first counts."""
    logs = [option.log for option in options]
    return logs.index(max(logs)) == choice.answer


def _rate(answers: Sequence[Answer], name: str) -> Rate | None:
    found = [pair for pair in (_passed(answer, name) for answer in answers) if pair is not None]
    if not found:
        return None
    return Rate(len(found), _share([theirs for _, theirs in found]), float(np.mean([ours for ours, _ in found])))


def _share(hits: Sequence[bool]) -> Estimate:
    """The share of prompts, which are independent, with Wilson's bounds."""
    found = estimate(np.array(hits, np.float64), np.arange(len(hits)))
    return found if found.error is None else Estimate(found.value, found.error, *wilson(found.value, len(hits)))


def _passed(answer: Answer, name: str) -> tuple[bool, bool] | None:
    """Whether both hold what a rate counts; None for a prompt that it does not count."""
    if name == "json_valid":
        return answer.json
    if not RATES[name]:
        return answer.passed
    checks = [check for check in answer.checks if check.kind in RATES[name]]
    return (all(c.reference for c in checks), all(c.other for c in checks)) if checks else None
