"""Sizes as people write them, read in one way for every option; counts as people read them."""

from __future__ import annotations

import re

from quantkit.errors import UsageError

GRAMMAR = "4G, 4GB and 4.5 GB are powers of 1000, 4GiB is a power of 1024, a number alone counts bytes"
SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)[ _]?(?:([KMGT])(I?B?)|B)?", re.IGNORECASE | re.ASCII)
LARGEST = 1 << 60


def counted(number: int, noun: str, one: str = "", many: str = "") -> str:
    """A number and what it counts, one or several: "1 document", "2,000 documents"; with the verb of each behind it."""
    said, verb = (noun, one) if number == 1 else (f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s", many)
    return f"{number:,} {said} {verb}".rstrip()


def parse_size(text: str, option: str, *, least: int = 1) -> int:
    """Bytes of "500M", "4GB", "4.5 GB", "24GiB" or "1000000".

    Units are powers of 1000, those with an i of 1024; either may end in B, in any case. Raises UsageError naming
    `option` for anything else and for less than `least` bytes: "24" where gigabytes were meant.
    """
    match = SIZE.fullmatch(text.strip())
    if match is None or (match[3] or "").upper() == "I":
        raise UsageError(f'{option} "{text[:40]}" is not a size', hint=f"for example 24GB: {GRAMMAR}", key=option)
    power = " KMGT".index((match[2] or " ").upper())
    whole, _, part = match[1].partition(".")
    scale = 1 << (10 * power) if "I" in (match[3] or "").upper() else int("1" + "000" * power)
    nbytes = int(whole + part) * scale // int("1" + "0" * len(part))
    if not least <= nbytes <= LARGEST:
        wanted = f'; did you mean "{text.strip()}GB"?' if match[2] is None and 0 < nbytes < least else ""
        raise UsageError(f'{option} "{text[:40]}" is {nbytes:,} bytes{wanted}', hint=GRAMMAR, key=option)
    return nbytes
