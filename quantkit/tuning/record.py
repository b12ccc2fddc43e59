"""What every type costs every tensor of one model, as a file: measured once, spent under any budget.

JSON with a schema name and a seal (`report.sealed`). It belongs to the model it was measured on, whose fingerprint it
has, and to the way values are chosen: a method, or the encoders. It holds no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from quantkit.errors import InputError
from quantkit.jsontext import dump_json
from quantkit.qtypes import base
from quantkit.report.records import Count, Name, Positive, Sha256
from quantkit.report.sealed import MAX_RECORD_BYTES, MAX_RECORD_VALUES, checked, seal
from quantkit.untrusted import parse_json_object, read_bounded, shown

SCHEMA = "quantkit.sensitivity/2"
HINT = "the file is damaged or of another version: measure again with quantkit sensitivity SRC --calib default"
Nats = Annotated[float, Meta(ge=0, le=1e9)]
Perplexity = Annotated[float, Meta(ge=1, le=1e300)]


class TextRecord(Struct, frozen=True):
    """Which text it was, without the numbers of its windows: its tokens, and hashes of both."""

    name: Name
    sha256: Sha256
    seqlen: Positive
    tokens: Positive
    token_sha256: Sha256


class OptionRecord(Struct, frozen=True, rename={"nbytes": "bytes"}, omit_defaults=True):
    """A type, the bytes that the tensor takes with it, and the KL divergence that it adds, in nats per token: on text
    like that of the calibration, and on the middle half of text `elsewhere`, where that was measured."""

    type: Name
    nbytes: Count
    kld: Nats
    elsewhere: Nats | None = None


class CostRecord(Struct, frozen=True, dict=True):
    """A tensor: its type by the recipe that was measured with, and what each type costs it."""

    name: Name
    role: str
    layer: Count | None
    shape: tuple[Positive, ...]
    type: Name
    options: Annotated[tuple[OptionRecord, ...], Meta(min_length=1)]

    @cached_property
    def by_type(self) -> Mapping[str, OptionRecord]:
        return {option.type: option for option in self.options}


class Sensitivity(Struct, frozen=True, dict=True, omit_defaults=True):
    """Costs by tensor. `model` is the fingerprint of the model, `source` its name, for people. `method` chose values.

    `calibration` says which text it was, `learned_tokens` of it gave inputs and `judged_tokens` were judged by;
    `elsewhere` is text of other kinds that was judged by as well. Standard errors are those of the sums over the types
    of the recipe, over windows of either text; perplexities are how well the model itself reads the windows that count.
    """

    model: Sha256
    source: dict[str, Any]
    recipe: Name
    method: Name
    calibration: dict[str, Any]
    learned_tokens: Positive
    judged_tokens: Positive
    tensors: tuple[CostRecord, ...]
    standard_error: Nats | None = None
    elsewhere: TextRecord | None = None
    elsewhere_standard_error: Nats | None = None
    perplexity: Perplexity | None = None
    elsewhere_perplexity: Perplexity | None = None

    @cached_property
    def by_name(self) -> Mapping[str, CostRecord]:
        return {cost.name: cost for cost in self.tensors}

    @property
    def kld(self) -> float:
        """What is predicted of the types of the recipe, all tensors together."""
        return float(sum(cost.by_type[cost.type].kld for cost in self.tensors))

    def predicted(self, types: Mapping[str, str], kld: float) -> dict[str, Any]:
        """What is said of these types by tensor, which cost `kld` on text like that of the calibration, as plain JSON.

        Standard errors are those of the recipe's own types as shares: what they are of is the text, and all types are
        judged by the same.
        """
        facts = {"predicted_kld": kld, "standard_error": _scaled(self.standard_error, kld, self.kld)}
        facts |= {"perplexity": self.perplexity}
        if self.elsewhere is None:
            return {**facts, "calibration": self.calibration}
        own = sum(cost.by_type[cost.type].elsewhere or 0.0 for cost in self.tensors)
        found = sum(self.by_name[name].by_type[one].elsewhere or 0.0 for name, one in types.items())
        error = _scaled(self.elsewhere_standard_error, found, own)
        figures = {"predicted_kld": float(found), "standard_error": error, "perplexity": self.elsewhere_perplexity}
        elsewhere = {**msgspec.to_builtins(self.elsewhere), **figures}
        return {**facts, "calibration": self.calibration, "elsewhere": elsewhere}

    @property
    def of_recipe(self) -> dict[str, Any]:
        """The same of the types of the recipe."""
        return self.predicted({cost.name: cost.type for cost in self.tensors}, self.kld)

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """The object of the file, sealed, but for its schema."""
        body = msgspec.to_builtins(self)
        return {**body, "seal": seal({"schema": SCHEMA, **body})}

    @property
    def digest(self) -> str:
        """The seal: SHA-256 (hex) of everything else."""
        return str(self.as_json["seal"])

    def encode(self) -> bytes:
        return (dump_json({"schema": SCHEMA, **self.as_json}, indent=1) + "\n").encode()


def read_sensitivity(path: Path) -> Sensitivity:
    """Read a file of `encode`. Raises InputError naming the key for one that is damaged, changed or something else."""
    body = parse_json_object(read_bounded(path, MAX_RECORD_BYTES), path, values=MAX_RECORD_VALUES, finite=True)
    found = checked(body, path, SCHEMA, Sensitivity, HINT)
    stated = body.pop("seal", None)
    if stated != seal(body):
        raise _damaged(path, "seal", "its seal is not that of its content: it was changed")
    names = [cost.name for cost in found.tensors]
    if len(set(names)) < len(names):
        raise _damaged(path, "tensors", "a tensor is there twice")
    for cost in found.tensors:
        unknown = sorted({*cost.by_type, cost.type} - set(base.names()))
        if unknown or len(cost.by_type) < len(cost.options) or cost.type not in cost.by_type:
            what = f'"{shown(unknown[0])}" is no type' if unknown else "its types are not one each, its own among them"
            raise _damaged(path, "tensors", f"{shown(cost.name)}: {what}")
        if any((option.elsewhere is None) is not (found.elsewhere is None) for option in cost.options):
            raise _damaged(path, "elsewhere", f"{shown(cost.name)}: its costs on other text are not those of one text")
    return found


def _scaled(error: float | None, value: float, of: float) -> float | None:
    return None if error is None or of <= 0 else error * value / of


def _damaged(path: Path, key: str, what: str) -> InputError:
    return InputError(f"{shown(path.name)}: {what}", path=str(path), key=key, hint=HINT)
