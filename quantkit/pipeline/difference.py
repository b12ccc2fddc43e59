"""What tells an artifact that is there from the one that a command would write, as far as its manifest says."""

from __future__ import annotations

from collections.abc import Iterator

from quantkit import qtypes
from quantkit.pipeline.prepared import Prepared
from quantkit.plan.base import Plan
from quantkit.report.manifest import Manifest
from quantkit.storage import user_key
from quantkit.units import counted
from quantkit.untrusted import shown
from quantkit.version import __version__


def difference(older: Manifest | None, plan: Plan, prepared: Prepared) -> str:
    """Recipe, source, files, options or version, in words; reads no weights."""
    if older is None:
        return "it has no manifest that can be read"
    found = list(_known(older, plan, prepared))
    if found:
        return "; ".join(found)
    if older.replaced and not older.made_with(user_key()):
        card = shown(older.replaced[0].name)
        made = f"one user made it and another released it, with a {card} of its own"
        return f"{made}; what others say of an artifact is not believed"
    if older.plan_digest == plan.digest:
        return "the plan is the same: the source's weights or the files themselves were changed (quantkit verify tells)"
    return "what the recipe or its options mean, the calibration text or the importance weights differ"


def _known(older: Manifest, plan: Plan, prepared: Prepared) -> Iterator[str]:
    recipe = shown(str(older.recipe.get("name")))
    if recipe != plan.recipe:
        yield f"recipe {recipe} there, {plan.recipe} now"
    there, here = _source(dict(older.source)), _source(prepared.origin.facts())
    if there != here:
        yield f"source {there} there, {here} now"
    sizes = {file.name: file.nbytes for file in older.source_files}
    changed = sorted({(f.name, f.nbytes) for f in prepared.checkpoint.files()} ^ set(sizes.items()))
    if changed and there == here:
        yield f"the source's {shown(changed[0][0])} has another size"
    files = len(older.artifact) + len(older.replaced)
    if files != len(plan.files) and recipe == plan.recipe:
        yield f"{counted(files, 'file')} there, {len(plan.files)} now"
    tool = older.facts.get("tool")
    numerics, version = (tool.get("numerics"), tool.get("version")) if isinstance(tool, dict) else (None, None)
    if numerics != qtypes.NUMERICS:
        yield f"written by quantkit {shown(str(version))}, which computed otherwise than {__version__}"


def _source(facts: dict[str, object]) -> str:
    """A source by its name, or its place on the Hub."""
    name = facts.get("repo") or facts.get("name")
    commit = facts.get("commit")
    return shown(f"{name}@{str(commit)[:12]}" if commit else str(name))
