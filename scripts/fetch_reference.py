"""Fetch the llama.cpp sources that the tests compare with: converter, gguf package, vocabularies, snapshots.

They are taken from the source distribution of llama-cpp-python. Nothing is compiled, and only what the tests read is
unpacked (about 80 MB).

    python scripts/fetch_reference.py [--to DIR]

Does nothing when DIR already holds this version. DIR appears complete or not at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fetching import Package, fetch

LLAMA_CPP = Package(
    "llama-cpp-python",
    "0.3.36",
    "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    ("--no-binary", "llama-cpp-python"),
)

# Where llama.cpp lies in the archive, and what the tests need of it.
ROOT = PurePosixPath(f"llama_cpp_python-{LLAMA_CPP.version}/vendor/llama.cpp")
WANTED = (
    "LICENSE",
    "convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
    "conversion/*.py",
    "gguf-py/gguf/**/*.py",
    "include/llama.h",
    "models/ggml-vocab-*",
    "models/templates/*",
    "src/llama-vocab.cpp",
    "tests/snapshots/*",
)
DEFAULT = Path(__file__).resolve().parent.parent / ".reference" / "llama.cpp"
MAX_BYTES = 300_000_000


def wanted_members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Regular files under ROOT that the tests need, with their path relative to it. Links are never followed."""
    for member in archive:
        path = PurePosixPath(member.name)
        if not member.isfile() or not path.is_relative_to(ROOT) or ".." in path.parts:
            continue
        relative = path.relative_to(ROOT)
        if any(matches(relative, pattern) for pattern in WANTED):
            yield member, relative


def matches(path: PurePosixPath, pattern: str) -> bool:
    """Whether `path` matches; `**` stands for any number of folders, also none."""
    head, star, tail = pattern.partition("**/")
    if not star:
        return len(path.parts) == pattern.count("/") + 1 and path.match(pattern)
    return path.is_relative_to(head) and path.match(tail)


def unpack(archive_path: Path, folder: Path, max_bytes: int = MAX_BYTES) -> int:
    """Write the wanted files into `folder`; return how many.

    SystemExit if one of the patterns found nothing, or before writing more than `max_bytes`.
    """
    found: set[PurePosixPath] = set()
    total = 0
    with tarfile.open(archive_path, "r:gz") as archive:
        for member, relative in wanted_members(archive):
            total += member.size
            if total > max_bytes:
                raise SystemExit(f"error: {archive_path.name} holds more than {max_bytes:,} bytes of wanted files")
            source = archive.extractfile(member)
            assert source is not None, "wanted members are regular files"
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            found.add(relative)
    missing = [pattern for pattern in WANTED if not any(matches(path, pattern) for path in found)]
    if missing:
        raise SystemExit(f"error: {archive_path.name} has no {', '.join(missing)}")
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the llama.cpp sources that the tests compare with.")
    parser.add_argument("--to", type=Path, default=DEFAULT, metavar="DIR", help="default: .reference/llama.cpp")
    target = Path(os.path.abspath(parser.parse_args().to))  # noqa: PTH100  resolve() would follow a link at the end
    print(fetch(target, LLAMA_CPP, unpack))


if __name__ == "__main__":
    main()
