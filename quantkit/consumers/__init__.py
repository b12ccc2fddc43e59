"""What engines accept: a dated table of refusals, and the check of an artifact that is still to be made against it."""

from quantkit.consumers.check import (
    CONSUMERS,
    Verdict,
    parse_consumers,
    require_consumers,
    stale,
    verdicts,
)
from quantkit.consumers.refusals import RULES
from quantkit.consumers.subject import Module, Subject

__all__ = [
    "CONSUMERS",
    "RULES",
    "Module",
    "Subject",
    "Verdict",
    "parse_consumers",
    "require_consumers",
    "stale",
    "verdicts",
]
