"""How codes are chosen: a module here is a method (`rtn`, `gptq`), one in transforms/ comes before any of them.

A method sees weights, statistics and the grid of a target; no container, no file. base.py has the seam. What this
module says of methods it says without importing them: they need torch, and who only plans does without.
"""

from __future__ import annotations

from quantkit import discovery

TOOLS = frozenset({"base", "settings"})


def method_names() -> tuple[str, ...]:
    """Names of all methods, in alphabetical order: the file names of this folder."""
    return discovery.modules(__name__, TOOLS)


def needs_hessian(name: str) -> bool:
    """Whether a method works only with the Hessian of what its layers read."""
    return bool(discovery.declared(__name__, name, "METHOD").get("needs_hessian", False))


def encodes(name: str) -> bool:
    """Whether a method rounds as the target's own encoder does (`Method.encodes`)."""
    return bool(discovery.declared(__name__, name, "METHOD").get("encodes", False))
