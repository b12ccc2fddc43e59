"""Feed damaged files to every reader of quantkit and report what is no QuantkitError, too slow or too large.

    python scripts/fuzz.py --seconds 60 --seed 1 [--reader NAME ...] [--inputs N] [--save DIR] [--report FILE]

Each reader gets its share of the time, or N inputs. Inputs are a function of seed, reader and number: a finding is
repeated by the same seed, or from the file that --save keeps. Exits with 1 when anything was found.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_readers import READERS, Read, Reader

from quantkit.errors import QuantkitError

SECONDS_EACH = 2.0  # of one input, in CPU time
MEMORY_EACH = 512 << 20
HANGS_AFTER = 20  # seconds, in CPU time
ADDRESSES = 4 << 30  # of this process: what takes more is found as a MemoryError
KEPT = 20  # findings of a reader that are kept


class HangError(BaseException):
    """No Exception, so that no handler takes it for one of its own."""


@dataclass
class Result:
    """What came of the inputs of a reader. `findings` are (what, input), one for each place in the code."""

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    findings: dict[str, bytes] = field(default_factory=dict)

    def line(self) -> str:
        rate = self.inputs / max(self.seconds, 1e-9)
        found = f"  {len(self.findings)} FOUND" if self.findings else ""
        return (
            f"{self.name:22}{self.inputs:>10,} inputs {self.accepted:>9,} accepted {self.refused:>9,} refused"
            f"{rate:>9,.0f}/s  slowest {self.slowest:.2f} s{found}"
        )


def inputs_of(reader: Reader, seed: int, mutate: object) -> Iterator[bytes]:
    number = 0
    while True:
        yield mutate(random.Random(f"{seed} {reader.name} {number}"))  # type: ignore[operator]
        number += 1


def fuzz(reader: Reader, seed: int, *, seconds: float = 0, inputs: int = 0) -> Result:
    """Run a reader for some seconds, or on so many inputs."""
    result = Result(reader.name)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=place) as folder:
        mutate, read = reader.make(Path(folder))
        gc.collect()
        gc.freeze()  # libraries are not looked through again and again
        start = time.perf_counter()
        for data in inputs_of(reader, seed, mutate):
            one(result, read, data)
            if (inputs and result.inputs >= inputs) or (not inputs and time.perf_counter() - start > seconds):
                break
            if len(result.findings) >= KEPT:
                break
        result.seconds = time.perf_counter() - start
        gc.unfreeze()
    return result


def one(result: Result, read: Read, data: bytes) -> None:
    """One input; what it does wrong becomes a finding."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS_AFTER)
    what = ""
    try:
        read(data)
        result.accepted += 1
    except QuantkitError as error:
        result.refused += 1
        if not error.message.isprintable() or len(error.message) > 3000:
            what = f"a message that is not fit for a terminal: {error.message[:100]!r} {place_of(error)}"
    except (Exception, HangError) as error:  # noqa: BLE001 - what comes out here is what this script looks for
        what = f"{type(error).__name__} {place_of(error)}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    took = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    result.inputs += 1
    result.slowest = max(result.slowest, took)
    if not what and took > SECONDS_EACH:
        what = f"takes {took:.0f} s"
    if not what and grown > MEMORY_EACH:
        what = f"takes {grown >> 20} MB"
    if what:
        result.findings.setdefault(what, data)


def place_of(error: BaseException) -> str:
    """The last line of quantkit that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "quantkit" in Path(frame.filename).parts] or list(frames)
    return f"at {Path(ours[-1].filename).name}:{ours[-1].lineno}: {error!s:.100}" if ours else ""


def hang(number: int, frame: FrameType | None) -> None:
    raise HangError


def save(folder: Path, result: Result) -> None:
    for what, data in result.findings.items():
        name = f"{result.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / f"{name}.txt").write_text(what + "\n", errors="backslashreplace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=0, help="of each reader, in place of --seconds")
    parser.add_argument("--reader", action="append", choices=[r.name for r in READERS])
    parser.add_argument("--save", type=Path, help="a folder for inputs that were found")
    parser.add_argument("--report", type=Path, help="a file that counts are added to, as JSON lines")
    options = parser.parse_args()
    signal.signal(signal.SIGVTALRM, hang)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    chosen = [reader for reader in READERS if not options.reader or reader.name in options.reader]
    shares = sum(reader.share for reader in chosen)
    found = total = 0
    for reader in chosen:
        result = fuzz(reader, options.seed, seconds=options.seconds * reader.share / shares, inputs=options.inputs)
        print(result.line(), flush=True)
        for what in result.findings:
            print(f"    {what}", flush=True)
        found, total = found + len(result.findings), total + result.inputs
        if options.save:
            save(options.save, result)
        if options.report:
            facts = {key: value for key, value in vars(result).items() if key != "findings"}
            with options.report.open("a") as log:
                log.write(json.dumps({**facts, "seed": options.seed, "findings": list(result.findings)}) + "\n")
    print(f"{total:,} inputs, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
