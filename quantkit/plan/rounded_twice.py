"""Sources that are quantized already: what may be rounded once more, what is carried over, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from quantkit.errors import UnsupportedError
from quantkit.families.factors import Graph, graph_of
from quantkit.families.model import Model, ModelTensor
from quantkit.plan.base import Unit
from quantkit.plan.codes import Codes, codes_of
from quantkit.plan.codes import notes as notes_on_codes
from quantkit.qtypes.base import TABLES
from quantkit.tensors import TensorInfo
from quantkit.untrusted import listed

FLOAT_TYPES = frozenset({"f32", "f16", "bf16"})
UNROUNDED = FLOAT_TYPES | TABLES
ENOUGH_BITS = 8  # of a weight in the source: rounding it once more costs little


def source_notes(units: Sequence[Unit], sources: Mapping[str, TensorInfo], model: Model) -> Iterable[tuple[str, str]]:
    """What is to say of a source that is quantized already."""
    return (*notes_on_codes(units, sources, graph_of(model)), *eight_bit_warnings(_twice(units, sources)))


def require_unquantized(
    drafts: Sequence[Unit], unquantized: Mapping[str, str], sources: Mapping[str, TensorInfo], graph: Graph
) -> None:
    """Raise UnsupportedError where a quantized source would be rounded a second time.

    What a checkpoint for servers stores quantized may become a float: that is reading it, as its loader does. What it
    stores in 8 bits may become anything: many models are published so and only so.
    """
    twice = []
    coded: Codes | None = None
    for draft in drafts:
        decoded, bits = _stored_as(draft.tensor, sources)
        coded = coded or codes_of(draft.tensor, sources, graph)
        again = draft.word not in UNROUNDED if decoded else unquantized[draft.name] not in UNROUNDED
        if again and not draft.copy and bits < ENOUGH_BITS:
            twice.append(f"{draft.name} {decoded or unquantized[draft.name]} -> {draft.word}")
    kept = f"--keep REGEX={coded.qtype} carries tensors over as they are; " if coded else ""
    if twice:
        raise UnsupportedError(
            f"the source is quantized already: {listed(twice, 3)}",
            hint=f"start from the 16-bit checkpoint; {kept}--allow-requantize accepts the additional loss",
            tensor=twice[0].split()[0],
        )


def _stored_as(tensor: ModelTensor, sources: Mapping[str, TensorInfo]) -> tuple[str | None, int]:
    """How a checkpoint for servers stores a tensor quantized, and in how many bits; None and 0 for any other."""
    infos = [sources[rows.tensor] for part in tensor.parts for rows in part.sources]
    stored = [info for info in infos if info.stored_as is not None]
    return (stored[0].stored_as, min(info.stored_bits or 0 for info in stored)) if stored else (None, 0)


def _twice(units: Sequence[Unit], sources: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """The weights that a checkpoint for servers stores in 8 bits and that are rounded once more."""
    rounded = (u for u in units if u.word not in UNROUNDED and not u.copy)
    found = (sources[rows.tensor] for u in rounded for part in u.tensor.parts for rows in part.sources)
    return [info for info in found if (info.stored_bits or 0) >= ENOUGH_BITS]


def eight_bit_warnings(stored: Iterable[TensorInfo]) -> list[tuple[str, str]]:
    """A note on weights that were published in 8 bits and are rounded once more."""
    kinds = sorted({info.stored_as or "" for info in stored})
    if not kinds:
        return []
    what = f"the source stores its weights in 8 bits ({listed(kinds, 2)}); they are decoded and rounded once more"
    return [("eight-bit-source", f"{what}: nearly as good as from 16 bits")]
