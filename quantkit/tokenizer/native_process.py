"""The process in which a tokenizer.json is tried: `python native_process.py MEMORY CPU_SECONDS`, the file on stdin.

Loads it with the tokenizers library and encodes some texts, within the limits that it sets for itself. Ends
with 0, or with what the library raises on stderr. It knows nothing of quantkit, which may then lie anywhere.
"""

from __future__ import annotations

import os
import sys

try:
    import resource
except ImportError:  # Windows: whoever started this process limits its time, and nothing else
    resource = None  # type: ignore[assignment]

TEXTS = (
    "a",
    "Hello world, it's 2025: x = [1, 2];\n\treturn f(x)\r\n  é ß 中文 🙂 ▁ <s>",
    *(letter * 3000 for letter in ("a", " ", "1", ".", "\n", "é", "中", "ab", "a ", "(a")),
)


def main() -> int:
    """Try the file; returns the exit status."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    data = sys.stdin.buffer.read()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    import tokenizers  # before the limit: libraries reserve address space that they never use

    if resource is not None:
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_FSIZE, 0)
        limit(resource.RLIMIT_CPU, seconds)
        if sys.platform == "linux":  # macOS counts address space that is only reserved
            limit(resource.RLIMIT_AS, memory)
    tokenizer = tokenizers.Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in TEXTS:
        tokenizer.encode(text)
    return 0


def limit(kind: int, value: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (lowest, lowest))


if __name__ == "__main__":
    sys.exit(main())
