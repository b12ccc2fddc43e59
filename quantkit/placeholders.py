"""What often lies in the place of a file that was never fetched: a Git LFS pointer, or a web page."""

from __future__ import annotations

HEAD_BYTES = 512  # of a file are enough to know either
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html")

# Kinds of files of a checkpoint that never begin like a web page.
NEVER_PAGES = (".safetensors", ".gguf", ".json", ".model", ".bin", ".jinja")


def placeholder(name: str, head: bytes) -> tuple[str, str] | None:
    """What the file called `name` is instead, and what to do; None for a file that may be what it is called.

    `head` are its first HEAD_BYTES bytes.
    """
    if head.startswith(LFS):
        return (
            "is a Git LFS pointer: the file itself was not fetched",
            "run `git lfs pull` in the folder of the repository, or fetch it with `hf download`",
        )
    if name.lower().endswith(NEVER_PAGES) and head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(PAGES):
        return (
            "is a web page, not the file that it is called",
            "download the file itself, for example with `hf download` (its address on the Hub has /resolve/)",
        )
    return None
