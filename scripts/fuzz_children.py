"""Child processes of quantkit, forked from one that has started already: what takes 100 ms takes 2 ms.

Templates and tokenizer.json files are tried in a process of their own, whose start costs a hundred times what it does.
`forked` puts `Nursery.run` in the place of subprocess.run in the module that starts one. All else stays as it is: the
child runs the same main() with the same arguments, standard input and limits.

As a script, the process that forks: `python -I fuzz_children.py FILE` reads from stdin, again and again, two lengths
(8 bytes each) and as many bytes: the arguments as JSON, and what the child reads. It answers with its exit status
(8 bytes, signed), two lengths, and what it wrote to stdout and stderr.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import selectors
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import IO, Any
from unittest import mock

HEAD = struct.Struct("<QQ")
ANSWER = struct.Struct("<qQQ")


class Nursery:
    """The process that forks children which run `file` with the arguments behind it in a command line."""

    def __init__(self, file: str) -> None:
        environment = {**os.environ, "RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-I", __file__, file]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        """As subprocess.run for the command lines of quantkit's children."""
        data: bytes = options["input"]
        script = next(n for n, word in enumerate(command) if word.endswith(("_process", "_process.py")))
        arguments = json.dumps(command[script + 1 :]).encode()
        to, of = self._process.stdin, self._process.stdout
        assert to is not None and of is not None
        to.write(HEAD.pack(len(arguments), len(data)) + arguments + data)
        to.flush()
        status, out, err = ANSWER.unpack(_exactly(of, ANSWER.size))
        return subprocess.CompletedProcess(list(command), status, _exactly(of, out), _exactly(of, err))

    def __del__(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()  # it ends with its input
        self._process.wait()


class _Patched:
    """The module subprocess with another `run`."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def forked(module: ModuleType, file: str, read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """`read`, during which a module of quantkit forks the children that it would start."""
    there = _Patched(Nursery(file).run)

    def run(data: bytes) -> object:
        with mock.patch.object(module, "subprocess", there):
            return read(data)

    return run


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError("the process that forks has ended")
    return data


def serve(main: Callable[[], int]) -> None:
    """Fork a child for each request on stdin."""
    given, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    while head := given.read(HEAD.size):
        arguments, data = (_exactly(given, length) for length in HEAD.unpack(head))
        status, out, err = _child(main, json.loads(arguments), data)
        answers.write(ANSWER.pack(status, len(out), len(err)) + out + err)
        answers.flush()


def _child(main: Callable[[], int], arguments: list[str], data: bytes) -> tuple[int, bytes, bytes]:
    """Run main() in a child and return its exit status (negative: the signal), stdout and stderr."""
    pipes = [os.pipe() for _ in range(3)]
    child = os.fork()
    if not child:
        try:
            for number, (reads, writes) in enumerate(pipes):
                os.dup2(reads if number == 0 else writes, number)
            os.closerange(3, 64)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            sys.argv = ["child", *arguments]
            status = main()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - as the interpreter would
            status = 1
            with contextlib.suppress(BaseException):
                traceback.print_exc()
                sys.stderr.flush()
        os._exit(status)
    (of, to), *theirs = pipes
    for each in (of, *(writes for _, writes in theirs)):
        os.close(each)
    found = _talk(to, data, [reads for reads, _ in theirs])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *found


def _talk(to: int, data: bytes, ends: Sequence[int]) -> list[bytes]:
    """Write all data to one pipe, read two others to their ends."""
    found: dict[int, list[bytes]] = {end: [] for end in ends}
    left = memoryview(data)
    with selectors.DefaultSelector() as ready:
        os.set_blocking(to, False)
        ready.register(to, selectors.EVENT_WRITE)
        for end in ends:
            ready.register(end, selectors.EVENT_READ)
        while ready.get_map():
            for key, _ in ready.select():
                if key.fd == to:
                    try:
                        left = left[os.write(to, left) :] if left else left
                    except BrokenPipeError:
                        left = left[:0]
                    more = bool(left)
                else:
                    piece = os.read(key.fd, 1 << 16)
                    found[key.fd].append(piece)
                    more = bool(piece)
                if not more:
                    ready.unregister(key.fd)
                    os.close(key.fd)
    return [b"".join(found[end]) for end in ends]


def load(file: str) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location("child", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def warm(module: ModuleType) -> None:
    """Import and make now what each child would import and make."""
    if hasattr(module, "_environment"):
        module._environment().from_string("{% for a in b %}{{ a | trim }}{% endfor %}").render(b=["c"])
    else:
        importlib.import_module("tokenizers")
        os.environ["RAYON_NUM_THREADS"] = "1"
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    child = load(sys.argv[1])
    warm(child)
    serve(child.main)
