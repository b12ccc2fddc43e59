"""Where the processor time of a conversion goes: one run in this process, its parts timed by thread.

    python scripts/phase_shares.py SOURCE RECIPE OUT

Prints JSON: CPU seconds of each phase and of the whole process. The functions below are wrapped in timers of the
processor time of their thread; what one of them spends inside another counts for the inner one. `start` is all until
the command is imported, `rest` what nothing else covers: tokenizers, JSON, the interpreter, what is imported later.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Of each phase the functions, as module, names of classes, name.
PHASES = {
    "plan": ["quantkit.pipeline.convert:prepare"],
    "read": ["quantkit.untrusted:InputFile._read", "quantkit.blocksums:BlockSums.agree"],
    "decode": ["quantkit.filling.slabs:_read_finite", "quantkit.filling.slabs:_kept"],
    "encode": ["quantkit.filling.slabs:_encode_rows"],
    "write": ["quantkit.storage.disk:Disk.write", "quantkit.storage.disk:Disk.sync"],
    "check": [
        "quantkit.storage.disk:Disk.read",
        "quantkit.quality.check:check_structure",
        "quantkit.quality.check:check_tokenizer",
        "quantkit.quality.checks.numbers:_tensor_error",
        "quantkit.quality.checks.structure:check_part",
    ],
}
spent: defaultdict[str, float] = defaultdict(float)
lock, local = threading.Lock(), threading.local()


def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        outer, local.inner = getattr(local, "inner", 0.0), 0.0
        start = time.thread_time()
        try:
            return function(*args, **options)
        finally:
            seconds = time.thread_time() - start
            with lock:
                spent[phase] += seconds - local.inner
            local.inner = outer + seconds

    return run


def wrap(phase: str, place: str) -> None:
    module, names = place.split(":")
    owner: Any = importlib.import_module(module)
    *classes, name = names.split(".")
    for part in classes:
        owner = getattr(owner, part)
    setattr(owner, name, timed(phase, getattr(owner, name)))


class Hash:
    """SHA-256 whose updates are timed."""

    plain = staticmethod(hashlib.sha256)
    digest_size, block_size = 32, 64

    def __init__(self, data: Any = b"", state: Any = None) -> None:
        self.state = state or Hash.plain()
        if len(data):
            self.update(data)

    def update(self, data: Any) -> None:
        timed("hash", self.state.update)(data)

    def digest(self) -> bytes:
        return bytes(self.state.digest())

    def hexdigest(self) -> str:
        return str(self.state.hexdigest())

    def copy(self) -> Hash:
        return Hash(state=self.state.copy())


def main() -> None:
    source, recipe, out = sys.argv[1:]
    command = importlib.import_module("quantkit.cli.app").program("convert")
    convert = importlib.import_module("quantkit.pipeline.convert")
    request = importlib.import_module("quantkit.pipeline.request").Request(source, (recipe,))
    assert command
    spent["start"] = time.process_time()
    for phase, places in PHASES.items():
        for place in places:
            wrap(phase, place)
    hashlib.sha256 = Hash  # type: ignore[assignment]
    convert.convert(request, convert.Output(Path(out)))
    whole = time.process_time()
    spent["rest"] = whole - sum(spent.values())
    print(json.dumps({"cpu_seconds": round(whole, 3), **{phase: round(s, 3) for phase, s in spent.items()}}))


if __name__ == "__main__":
    main()
