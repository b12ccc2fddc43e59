"""Names of checkpoints as parts of file names, which names stay in their folder, and those that tell what is in it."""

from __future__ import annotations

import re

PLAIN_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\0]{1,255}", re.DOTALL)
MOST_CHARACTERS, MOST_BYTES = 100, 240
ADDITIONAL = "additional_chat_templates/"  # the folder in which transformers keeps chat templates by name
MAX_TEMPLATES = 64
WEIGHTS = (".gguf", ".safetensors")  # ends of files that hold weights

_JOB = re.compile(r"\.quantkit-[0-9a-f]{12}")


def job_name(digest: str) -> str:
    """The hidden folder of work that is not finished, beside what it makes; `digest` in hexadecimal."""
    return f".quantkit-{digest[:12]}"


def is_job(name: str) -> bool:
    """Whether a folder of that name holds such work."""
    return _JOB.fullmatch(name) is not None


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


def is_file_name(name: str) -> bool:
    """Whether `name`, joined to a folder, names a file in it, or in a folder in it: FILE or FOLDER/FILE.

    A plain name may be anything that a file system has. Of FOLDER/FILE both are printable, begin with no dot and have
    at most 100 characters and 240 bytes.
    """
    folder, slash, file = name.rpartition("/")
    if not slash:
        return PLAIN_NAME.fullmatch(name) is not None
    return all(map(_may_be_below, (folder, file)))


def _may_be_below(name: str) -> bool:
    plain = name.isprintable() and not name.startswith((".", " ")) and not set(name) & {"/", "\\"}
    return plain and 0 < len(name) <= MOST_CHARACTERS and len(name.encode("utf-8", "replace")) <= MOST_BYTES


DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})


def windows_refuses(name: str) -> str | None:
    """Why Windows has no file of this name, or one that is none; None for a name that it takes."""
    if name.partition(".")[0].rstrip(" ").lower() in DEVICES:
        return "it is the name of a device"
    if name.endswith((".", " ")) and name not in (".", ".."):
        return "a dot or a space at its end is left out"
    wrong = sorted({c for c in name if c in '<>:"|?*\\' or ord(c) < 32})
    return f"it has {' '.join(map(repr, wrong))}" if wrong else None
