"""What a file may take or lose: bytes, bits per weight, or nats of KL divergence."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from math import isfinite
from typing import Literal

from quantkit.errors import UsageError
from quantkit.records import record
from quantkit.units import parse_size

Kind = Literal["size", "bpw", "kld"]
LEAST_BYTES = 1000  # "4.5" is four bytes, where gigabytes were meant


@record
class Target:
    """`option` is how it was asked for, with the `text` behind it: ("--target-size", "4.5GB"). `value` is in bytes, in
    bits of the whole file for each weight, or in nats per token, as its kind says."""

    kind: Kind
    option: str
    text: str
    value: float

    def nbytes(self, weights: int) -> int | None:
        """The bytes that a file of so many weights may take; None where it is bound by what it loses."""
        if self.kind == "kld":
            return None
        return int(self.value) if self.kind == "size" else int(self.value * weights / 8)

    @property
    def title(self) -> str:
        """It as a part of file names."""
        return {"size": self.text.replace(" ", ""), "bpw": f"{self.text}bpw", "kld": f"kld{self.text}"}[self.kind]

    def __str__(self) -> str:
        return f"{self.option} {self.text}"


def parse_target(size: str | None, bpw: float | None, kld: float | None) -> Target | None:
    """The one target of these options, None without any. Raises UsageError for two, and for values that are none."""
    given: list[Target] = []
    if size is not None:
        nbytes = parse_size(size, "--target-size", least=LEAST_BYTES)
        given.append(Target("size", "--target-size", size.strip(), nbytes))
    if bpw is not None:
        given.append(Target("bpw", "--target-bpw", _text(bpw), _positive("--target-bpw", bpw, "4.5")))
    if kld is not None:
        given.append(Target("kld", "--max-kld", _text(kld), _positive("--max-kld", kld, "0.01")))
    if len(given) > 1:
        both = " and ".join(target.option for target in given)
        raise UsageError(f"{both} each say what the file may take", hint="use one of them", key=given[1].option)
    return given[0] if given else None


def below(kld: float) -> str:
    """Two digits that are no more: a bound for a hint which leaves the room that was computed for it."""
    return _two_digits(kld, ROUND_FLOOR)


def above(kld: float) -> str:
    """Two digits that are no less: the bound which a hint names can be kept."""
    return _two_digits(kld, ROUND_CEILING)


def _two_digits(value: float, rounding: str) -> str:
    return f"{float(Context(prec=2, rounding=rounding).create_decimal_from_float(value)):.2g}"


def _text(value: float) -> str:
    """A number with all its digits: what is promised is what was asked for."""
    return f"{value:.15g}"


def _positive(option: str, value: float, example: str) -> float:
    if not isfinite(value) or not 0 < value <= 1e6:
        raise UsageError(f"{option} {value:g} is no amount", hint=f"for example {option} {example}", key=option)
    return value
