"""The process in which llama.cpp runs: `python llamacpp_process.py LIBRARY MODEL CONTEXT SEQUENCES THREADS`.

It calls the C interface of llama.cpp (llama.h) in the shared library that the xllamacpp wheel brings, and knows
nothing of quantkit. llama.cpp ends the process on a failed assertion, takes memory that comes back only with the end
of a process, and reads files of strangers: so it gets one of its own, whose peak of memory is that of the model.

Requests come on stdin, answers go to stdout, each a length (4 bytes, little endian) and so much JSON; an answer with
`bytes` is followed by so many of them. The first answer says what was loaded, or why it was not: {"error": ...}.

    {"op": "tokenize", "text", "special"}           {"tokens"}
    {"op": "logits", "tokens", "places"}            {"rows", "bytes"} and float32 (rows, vocabulary); {"done"}
    {"op": "vectors", "tokens"}                     {"rows", "bytes"} and float32 (rows, width)
    {"op": "scores", "tokens"}                      {"rows", "bytes"} and float32 (rows, labels), of one row
    {"op": "continue", "tokens", "count"}           {"text"}
    {"op": "speed", "tokens", "steps", "sequences"} {"prompt_seconds", "step_seconds", "peak_bytes"}
"""

from __future__ import annotations

import ctypes as c
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OUTPUT_BYTES = 1 << 26  # of the logits of one piece
LONGEST, LEAST = 512, 16  # tokens of a piece
LOG_LINES = 20
EACH, RANK = 0, 4  # enum llama_pooling_type: a vector for each token, or what a head of classes makes of all
WARNING = 3  # enum ggml_log_level: warnings and errors are 3 and 4
LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


class ModelParams(c.Structure):
    """struct llama_model_params: its head, and room for the rest.

    Structs of this size are returned and passed in memory, so that one that is declared longer than it is does no
    harm while it is the last argument.
    """

    _fields_ = (
        ("devices", c.c_void_p),
        ("tensor_buft_overrides", c.c_void_p),
        ("n_gpu_layers", c.c_int32),
        ("rest", c.c_uint8 * 1004),
    )


class ContextParams(c.Structure):
    """struct llama_context_params, likewise."""

    _fields_ = (
        ("n_ctx", c.c_uint32),
        ("n_batch", c.c_uint32),
        ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32),
        ("rest", c.c_uint8 * 1008),
    )


class Batch(c.Structure):
    """struct llama_batch"""

    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )


PTR, INT, NUM, TEXT, FLAG = c.c_void_p, c.c_int32, c.c_uint32, c.c_char_p, c.c_bool
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "llama_log_set": (None, LOG, PTR),
    "llama_backend_init": (None,),
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (PTR, TEXT, ModelParams),
    "llama_init_from_model": (PTR, PTR, ContextParams),
    "llama_model_get_vocab": (PTR, PTR),
    "llama_model_n_params": (c.c_uint64, PTR),
    "llama_model_n_embd": (INT, PTR),
    "llama_model_n_cls_out": (NUM, PTR),
    "llama_vocab_n_tokens": (INT, PTR),
    "llama_vocab_is_eog": (FLAG, PTR, INT),
    "llama_set_n_threads": (None, PTR, INT, INT),
    "llama_n_ctx": (NUM, PTR),
    "llama_n_batch": (NUM, PTR),
    "llama_n_seq_max": (NUM, PTR),
    "llama_get_memory": (PTR, PTR),
    "llama_memory_clear": (None, PTR, FLAG),
    "llama_decode": (INT, PTR, Batch),
    "llama_encode": (INT, PTR, Batch),
    "llama_model_has_encoder": (FLAG, PTR),
    "llama_synchronize": (None, PTR),
    "llama_get_logits_ith": (c.POINTER(c.c_float), PTR, INT),
    "llama_set_embeddings": (None, PTR, FLAG),
    "llama_pooling_type": (c.c_int, PTR),
    "llama_get_embeddings_ith": (c.POINTER(c.c_float), PTR, INT),
    "llama_get_embeddings_seq": (c.POINTER(c.c_float), PTR, INT),
    "llama_tokenize": (INT, PTR, TEXT, INT, PTR, INT, FLAG, FLAG),
    "llama_token_to_piece": (INT, PTR, INT, TEXT, INT, INT, FLAG),
}


ELSEWHERE = "its parameters lie elsewhere than llama.h says"


class Refused(Exception):
    """What llama.cpp does not do, in its words."""


def pooled(params: ContextParams, kind: int) -> None:
    """Have a context pool vectors in this way, whatever the file says: the kind of pooling is the second of the fields
    that llama.h sets to -1 (what the file says), behind the scaling of rotary positions."""
    fields = (c.c_int32 * (len(params.rest) // 4)).from_buffer(params, ContextParams.rest.offset)
    unset = [at for at, value in enumerate(fields) if value == -1]
    if len(unset) < 2:
        raise Refused(ELSEWHERE)
    fields[unset[1]] = kind


class Model:
    """A loaded file and a context of it. Raises Refused where llama.cpp does."""

    def __init__(self, library: str, path: str, context: int, sequences: int, threads: int) -> None:
        self.said: list[str] = []
        self._log = LOG(self._hear)  # kept: the library calls it
        self._so = c.CDLL(library)
        missing = [name for name in SIGNATURES if not hasattr(self._so, name)]
        if missing:
            raise Refused(f"this version of the library has no {missing[0]}")
        for name, (result, *arguments) in SIGNATURES.items():
            function = getattr(self._so, name)
            function.restype, function.argtypes = result, arguments
        self._so.llama_log_set(self._log, None)
        self._so.llama_backend_init()
        params = self._so.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._so.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise Refused(self._why("it gives no reason"))
        self._vocab = self._so.llama_model_get_vocab(self._model)
        self.vocabulary = int(self._so.llama_vocab_n_tokens(self._vocab))
        self.piece = min(context, LONGEST, max(LEAST, OUTPUT_BYTES // (4 * self.vocabulary)))
        self._threads, self._longest = threads, context
        self._giving: dict[int, Any] = {}  # contexts that give vectors, by how these are pooled
        self._context = self._open(context * sequences, sequences, max(self.piece, sequences))

    def _open(self, tokens: int, sequences: int, batch: int, *, pooling: int | None = None) -> Any:
        """A context, of tokens that are predicted or of vectors that are pooled."""
        params = self._so.llama_context_default_params()
        if params.n_seq_max != 1 or params.n_batch < params.n_ubatch:
            raise Refused(ELSEWHERE)
        params.n_ctx, params.n_seq_max = tokens, sequences
        params.n_batch = params.n_ubatch = batch
        if pooling is not None:
            pooled(params, pooling)
        found = self._so.llama_init_from_model(self._model, params)
        if not found:
            raise Refused(self._why("it makes no context for the model"))
        other = pooling is not None and self._so.llama_pooling_type(found) != pooling
        if other or self._so.llama_n_batch(found) != batch or self._so.llama_n_ctx(found) < tokens:
            raise Refused(ELSEWHERE)
        self._so.llama_set_n_threads(found, self._threads, self._threads)
        return found

    def _hear(self, level: int, text: bytes, _data: object) -> None:
        if level >= WARNING:
            self.said = [*self.said, text.decode("utf-8", "replace").strip()][-LOG_LINES:]

    def _why(self, otherwise: str) -> str:
        return next((line for line in self.said if "error" in line.lower()), (self.said or [otherwise])[-1])

    def loaded(self) -> dict[str, Any]:
        """What there is to know of it."""
        weights = int(self._so.llama_model_n_params(self._model))
        return {"vocabulary": self.vocabulary, "weights": weights}

    def decode(self, tokens: Sequence[int], first: int, owners: Sequence[int], wanted: Sequence[bool]) -> None:
        """Run tokens: each of `owners` gets them from position `first` on, or one each where there are several."""
        self._run("llama_decode", self._context, tokens, first, owners, wanted)

    def _run(
        self, function: str, context: Any, tokens: Sequence[int], first: int, owners: Sequence[int],
        wanted: Sequence[bool],
    ) -> None:  # fmt: skip
        count = len(tokens)
        places = range(first, first + count) if len(owners) == 1 else [first] * count
        ids = [(c.c_int32 * 1)(owner) for owner in (owners if len(owners) > 1 else list(owners) * count)]
        pointers = (c.POINTER(c.c_int32) * count)(*(c.cast(one, c.POINTER(c.c_int32)) for one in ids))
        batch = Batch(
            count, (c.c_int32 * count)(*tokens), None, (c.c_int32 * count)(*places), (c.c_int32 * count)(*[1] * count),
            pointers, (c.c_int8 * count)(*wanted),
        )  # fmt: skip
        status = getattr(self._so, function)(context, batch)
        self._so.llama_synchronize(context)
        if status:
            raise Refused(self._why(f"{function} gives {status} for {count} tokens at position {first}"))

    def forget(self) -> None:
        """Clear the cache of keys and values."""
        self._clear(self._context)

    def _clear(self, context: Any) -> None:
        self._so.llama_memory_clear(self._so.llama_get_memory(context), False)

    def row(self, index: int) -> memoryview:
        """The logits of a token of the last batch, float32 (vocabulary,), as bytes that the next batch overwrites."""
        return self._floats(
            self._so.llama_get_logits_ith(self._context, index), self.vocabulary, f"logits of token {index}"
        )

    def vectors(self, tokens: Sequence[int]) -> list[memoryview]:
        """What a text becomes, which is run as a whole: float32 (width,) for each token, as `row` gives them."""
        context = self._given(tokens, EACH)
        width, one = int(self._so.llama_model_n_embd(self._model)), self._so.llama_get_embeddings_ith
        return [self._floats(one(context, at), width, f"vector of token {at}") for at in range(len(tokens))]

    def scores(self, tokens: Sequence[int]) -> list[memoryview]:
        """What the head of classes makes of a text: float32 (labels,), likewise."""
        context = self._given(tokens, RANK)
        labels = int(self._so.llama_model_n_cls_out(self._model))
        return [self._floats(self._so.llama_get_embeddings_seq(context, 0), labels, "scores")]

    def _given(self, tokens: Sequence[int], pooling: int) -> Any:
        """The context that has run a text as a whole, and pools its vectors so."""
        if pooling not in self._giving:
            self._giving[pooling] = self._open(self._longest, 1, self._longest, pooling=pooling)
            self._so.llama_set_embeddings(self._giving[pooling], True)
        context = self._giving[pooling]
        self._clear(context)
        alone = self._so.llama_model_has_encoder(self._model)  # T5's, which looks back only where it decodes
        function = "llama_encode" if alone else "llama_decode"
        self._run(function, context, tokens, 0, [0], [True] * len(tokens))
        return context

    def _floats(self, found: Any, count: int, what: str) -> memoryview:
        if not found:
            raise Refused(self._why(f"it has no {what}"))
        values = (c.c_float * count).from_address(c.addressof(found.contents))
        return memoryview(values).cast("B")

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Token ids, with the file's own rules for begin and end where `special`."""
        data = text.encode("utf-8", "replace")
        count = len(data) + 16
        for _ in range(2):  # the second time with the room that it asks for
            ids = (c.c_int32 * count)()
            found = self._so.llama_tokenize(self._vocab, data, len(data), ids, count, special, special)
            if found >= 0:
                return list(ids[:found])
            count = -found
        raise Refused(f"llama_tokenize gives {found}")

    def ends(self, token: int) -> bool:
        """Whether a text ends with this token."""
        return bool(self._so.llama_vocab_is_eog(self._vocab, token))

    def text_of(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        buffer = c.create_string_buffer(4096)
        count = self._so.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(count, 0)]


def logits(model: Model, request: dict[str, Any], send: Callable[..., None]) -> None:
    """The logits at `places` (ascending) of a text, in pieces."""
    tokens, places = request["tokens"], set(request["places"])
    model.forget()
    for first in range(0, len(tokens), model.piece):
        part = tokens[first : first + model.piece]
        wanted = [first + at in places for at in range(len(part))]
        model.decode(part, first, [0], wanted)
        rows = [model.row(at) for at, chosen in enumerate(wanted) if chosen]
        if rows:
            send({"rows": len(rows), "bytes": 4 * model.vocabulary * len(rows)}, rows)
    send({"done": True})


def given(model: Model, request: dict[str, Any], send: Callable[..., None]) -> None:
    """What a text becomes: its vectors, or its scores."""
    rows = (model.vectors if request["op"] == "vectors" else model.scores)(request["tokens"])
    send({"rows": len(rows), "bytes": sum(row.nbytes for row in rows)}, rows)


def go_on(model: Model, request: dict[str, Any], send: Callable[..., None]) -> None:
    """What the model writes, taking the likeliest token each time."""
    tokens, out = list(request["tokens"]), bytearray()
    model.forget()
    first = 0
    for _ in range(request["count"]):
        for start in range(first, len(tokens), model.piece):
            part = tokens[start : start + model.piece]
            model.decode(part, start, [0], [False] * (len(part) - 1) + [True])
        first = len(tokens)
        scores = model.row(len(part) - 1).cast("f")
        token = max(range(model.vocabulary), key=scores.__getitem__)
        if model.ends(token):
            break
        out += model.text_of(token)
        tokens.append(token)
    send({"text": out.decode("utf-8", "replace")})


def speed(model: Model, request: dict[str, Any], send: Callable[..., None]) -> None:
    """Seconds that a prompt takes, of each of `sequences` one after the other, and each step of all of them."""
    tokens, sequences = request["tokens"], request["sequences"]
    model.forget()
    prompts, steps = [], []
    for owner in range(sequences):
        start = time.perf_counter()
        for first in range(0, len(tokens), model.piece):
            part = tokens[first : first + model.piece]
            model.decode(part, first, [owner], [False] * (len(part) - 1) + [first + len(part) == len(tokens)])
        model.row(len(part) - 1)
        prompts.append(time.perf_counter() - start)
    for step in range(request["steps"]):
        following = [tokens[(step + owner) % len(tokens)] for owner in range(sequences)]
        start = time.perf_counter()
        model.decode(following, len(tokens) + step, range(sequences), [True] * sequences)
        model.row(sequences - 1)
        steps.append(time.perf_counter() - start)
    send({"prompt_seconds": prompts, "step_seconds": steps, "peak_bytes": peak_bytes()})


def peak_bytes() -> int:
    """Peak resident memory of this program. What getrusage(2) counts begins with that of the process it was started by,
    so that it is asked only where /proc does not say."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        if resource is None:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def send(answer: dict[str, Any], rows: Sequence[memoryview] = ()) -> None:
    """Write an answer, and what follows it."""
    data, out = json.dumps(answer).encode(), sys.stdout.buffer
    out.write(struct.pack("<I", len(data)) + data)
    for row in rows:
        out.write(row)
    out.flush()


def requests() -> Any:
    """The requests on stdin, until it ends."""
    while len(head := sys.stdin.buffer.read(4)) == 4:
        yield json.loads(sys.stdin.buffer.read(struct.unpack("<I", head)[0]))


def serve(model: Model) -> None:
    """Answer requests until there are no more."""
    work = {"logits": logits, "vectors": given, "scores": given, "continue": go_on, "speed": speed}
    for request in requests():
        try:
            if request["op"] == "tokenize":
                send({"tokens": model.tokenize(request["text"], request["special"])})
            else:
                work[request["op"]](model, request, send)
        except Refused as error:
            send({"error": str(error)})


def main() -> int:
    """Load a model and answer questions about it; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of a whole group: whoever started this process ends it
        signal.signal(number, signal.SIG_IGN)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    library, path, *numbers = sys.argv[1:]
    try:
        model = Model(library, path, *map(int, numbers))
    except (Refused, OSError) as error:
        send({"error": str(error)})
        return 1
    send(model.loaded())
    serve(model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
