"""A small vocabulary of RWKV's kind: all bytes, line breaks and tabs in pairs, a few words, pieces of characters."""

from __future__ import annotations

WORDS = (
    b" hello", "\u00e9".encode(), "\u65e5\u672c".encode(), b"\xe3\x81", b"it's", b'"said"', b"the", b" the", b" then",
    b"ing", b"\\n", b"  ", b"    ", b"</s>", b"'\"'",
)  # fmt: skip
TOKENS = (*(bytes([byte]) for byte in range(256)), b"\t\t", b"\t\n", b"\t ", b"\n\t", b"\n\n", *WORDS)


def lines(tokens: tuple[bytes, ...] = TOKENS) -> list[str]:
    """The lines of the file."""
    return [f"{index} {literal(token)} {len(token)}" for index, token in enumerate(tokens, 1)]


def literal(token: bytes) -> str:
    """As the published file has it: text where the bytes are one."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


WORLD = "\n".join([*lines(), ""])
