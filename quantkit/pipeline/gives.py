"""Whether a finished model writes text, or gives vectors, scores or drafts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.consumers.names import opened_as
from quantkit.families.keys import POOLING_TYPE, RANK
from quantkit.families.known import answers, drafts, gives_no_text, judges
from quantkit.report.next_steps import Output


def output_of(model: Mapping[str, Any]) -> Output:
    """What a model gives, by what its manifest says of it: its "family", and its "pooling_type" where it pools."""
    pooling = model.get(POOLING_TYPE.name)
    if pooling == RANK or judges(model.get("family")):
        return "scores"
    if pooling or gives_no_text(model.get("family")):
        return "vectors"
    if drafts(model.get("family")):
        return "drafts"
    return "answers" if answers(model.get("family")) else opened_as(model.get("architecture"))
