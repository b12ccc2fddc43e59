"""Words for a shell: quoted, so that pasting them gives the same bytes."""

from __future__ import annotations

import os
import shlex


def shell_word(text: str) -> str:
    """`text` as one word for bash, zsh or ksh, in characters that every terminal shows and every file holds.

    As `shlex.quote` where that is so, which any POSIX shell reads; else in $'...' with the bytes of control characters
    and of what is no UTF-8 (surrogate escapes in `text`, PEP 383) as three octal digits.
    """
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in _bytes(character))


def _bytes(character: str) -> bytes:
    try:
        return os.fsencode(character)
    except UnicodeEncodeError:  # a surrogate that stands for no byte is in no file's name
        return character.encode("utf-8", "surrogatepass")
