"""A GGUF file in real llama.cpp, in a process of its own: the library that the prebuilt xllamacpp wheel brings."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from quantkit.errors import UnsupportedError, VerificationError
from quantkit.extras import installed_version, require_installed
from quantkit.quality.engines import LLAMA_CPP
from quantkit.records import record
from quantkit.tensors import F32
from quantkit.untrusted import shown

CONTEXT = 512
PACKAGE, LIBRARY = "xllamacpp", "xllamacpp.abi3.so"
LAST_WORDS = 4096  # bytes of what a process said before it died


@record
class Speed:
    """Seconds of the prompt of each sequence, and of each step of all sequences; bytes of the process at its peak."""

    prompt_seconds: tuple[float, ...]
    step_seconds: tuple[float, ...]
    peak_bytes: int


def require_llamacpp() -> Path:
    """The library. Raises UnsupportedError where the optional wheel is not installed."""
    require_installed("the llama.cpp engine", [PACKAGE])
    spec = find_spec(PACKAGE)
    found = [Path(folder, LIBRARY) for folder in (spec and spec.submodule_search_locations) or ()]
    for path in found:
        if path.is_file():
            return path
    what = f"the installed {PACKAGE} {installed_version(PACKAGE)} has no {LIBRARY}"
    raise UnsupportedError(what, hint=f"pip install --upgrade --force-reinstall {PACKAGE}", key=PACKAGE)


class LlamaCpp:
    """A loaded model; texts of up to `context` tokens, `sequences` of them at a time. Closes itself when dropped."""

    name = LLAMA_CPP

    def __init__(self, path: Path, threads: int, *, context: int = CONTEXT, sequences: int = 1) -> None:
        """Load `path`. Raises UnsupportedError without xllamacpp, VerificationError when llama.cpp rejects the file."""
        library = require_llamacpp()
        self.path = path
        self.version = installed_version(PACKAGE)
        script = Path(__file__).with_name("llamacpp_process.py")
        numbers = (context, sequences, threads)
        # -I: neither the environment nor the current folder chooses what is imported
        command = [sys.executable, "-I", str(script), str(library), os.fspath(path), *map(str, numbers)]
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # else it asks a debugger where it failed
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        self._close = weakref.finalize(self, _end, self._process)
        loaded = self._answer(f"does not load {shown(path.name)}")
        self.vocabulary, self.weights = int(loaded["vocabulary"]), int(loaded["weights"])

    def close(self) -> None:
        """End the process."""
        self._close()

    def logits(self, tokens: Sequence[int], places: Sequence[int]) -> Iterator[F32]:
        """Logits of what follows the tokens at `places` (ascending), in pieces: float32 (n, vocabulary) each.

        What a caller leaves of them is read and dropped, so that the next answer is that to the next question.
        """
        what = f"does not run {len(tokens):,} tokens"
        self._ask({"op": "logits", "tokens": [int(t) for t in tokens], "places": [int(p) for p in places]})
        pieces = self._pieces(what)
        try:
            for head, data in pieces:
                yield np.frombuffer(data, np.float32).reshape(head["rows"], self.vocabulary)
        except GeneratorExit:
            deque(pieces, maxlen=0)
            raise

    def _pieces(self, what: str) -> Iterator[tuple[dict[str, Any], bytes]]:
        while "rows" in (head := self._answer(what)):
            yield head, self._read(int(head["bytes"]), what)

    def vectors(self, tokens: Sequence[int]) -> F32:
        """What the last block gives for each token of a text, behind its norm: float32 (n, width), not pooled."""
        return self._given("vectors", tokens)

    def scores(self, tokens: Sequence[int]) -> F32:
        """What the head of a classifier or reranker makes of a text: float32 (labels,)."""
        found: F32 = self._given("scores", tokens)[0]
        return found

    def _given(self, op: str, tokens: Sequence[int]) -> F32:
        what = f"gives no {op} of {len(tokens):,} tokens"
        self._ask({"op": op, "tokens": [int(t) for t in tokens]})
        head = self._answer(what)
        found: F32 = np.frombuffer(self._read(int(head["bytes"]), what), np.float32).reshape(head["rows"], -1)
        return found

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`, with the file's own BOS/EOS rules and special tokens recognized unless not `special`."""
        self._ask({"op": "tokenize", "text": text, "special": special})
        return [int(token) for token in self._answer("does not tokenize a text")["tokens"]]

    def continue_text(self, prompt: str, tokens: int) -> str:
        """Greedy continuation of `prompt`."""
        self._ask({"op": "continue", "tokens": self.tokenize(prompt), "count": tokens})
        return str(self._answer("does not go on with a text")["text"])

    def speed(self, tokens: Sequence[int], steps: int, sequences: int) -> Speed:
        """Run a prompt in each of `sequences`, then `steps` more tokens of all of them at a time."""
        self._ask({"op": "speed", "tokens": [int(t) for t in tokens], "steps": steps, "sequences": sequences})
        found = self._answer(f"does not run {sequences} sequences")
        return Speed(tuple(found["prompt_seconds"]), tuple(found["step_seconds"]), int(found["peak_bytes"]))

    def _ask(self, request: dict[str, Any]) -> None:
        data = json.dumps(request).encode()
        try:
            _stream(self._process.stdin).write(struct.pack("<I", len(data)) + data)
            _stream(self._process.stdin).flush()
        except BrokenPipeError as error:
            raise self._died("is gone") from error

    def _answer(self, what: str) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._read(4, what))
        found: dict[str, Any] = json.loads(self._read(length, what))
        if "error" in found:
            raise self._refused(what, str(found["error"]))
        return found

    def _read(self, count: int, what: str) -> bytes:
        found = _stream(self._process.stdout).read(count)
        if len(found) < count:
            raise self._died(what)
        return found

    def _died(self, what: str) -> VerificationError:
        """What the process said before it died, on a failed assertion for example."""
        status = self._process.wait()
        said = _stream(self._process.stderr).read()[-LAST_WORDS:].decode("utf-8", "replace").split("\n")
        words = next((line.strip() for line in reversed(said) if line.strip()), "")
        return self._refused(what, f"it ended with {status}{f': {words}' if words else ''}")

    def _refused(self, what: str, why: str) -> VerificationError:
        hint = "do not use this file; report it with its architecture and the version of xllamacpp"
        return VerificationError(f"llama.cpp {what}: {shown(why)}", path=str(self.path), hint=hint)


def _stream(found: IO[bytes] | None) -> IO[bytes]:
    assert found is not None
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):  # of what it was not told any more
                stream.close()
