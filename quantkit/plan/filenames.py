"""Names of checkpoints as parts of file names."""

from __future__ import annotations

import re


def file_stem(name: str) -> str:
    """A checkpoint's name as part of a file name: "org/model" -> "model".

    Letters of any script stay, and other characters outside of ASCII that can be seen; what shells and terminals make
    something of becomes "_", and bytes that are not UTF-8 their digits, so that different names stay different.
    """
    kept = "".join(map(_in_file_name, name.rstrip("/").rpartition("/")[2])).lstrip(".-")
    return kept or "model"


def _in_file_name(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, by PEP 383
        return f"x{ord(character) - 0xDC00:02x}"
    if character.isascii():
        return character if re.fullmatch(r"[A-Za-z0-9._+-]", character) else "_"
    return character if character.isprintable() else "_"
