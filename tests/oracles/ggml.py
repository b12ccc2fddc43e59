"""The C libraries ggml and llama.cpp, as compiled into the `xllamacpp` wheel, called through ctypes.

They are the independent truth for block bytes (`quantize`), for tokenizers (`Model.tokenize`) and for whole files
(`Model` loads them, `Model.logits` runs them). The library aborts the process on a failed assertion, so every
argument that could trip one is checked here first.

Only facts of the C headers ggml.h and llama.h are used; `tests/oracles/test_ggml.py` checks them by behaviour.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

# enum ggml_type (ggml.h) of every type that quantkit can write.
TYPE_IDS = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8,
    "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13, "q6_k": 14,
    "iq4_nl": 20, "iq4_xs": 23, "bf16": 30, "tq1_0": 34, "tq2_0": 35, "mxfp4": 39, "nvfp4": 40, "q1_0": 41,
    "q2_0": 42, "iq2_xxs": 16, "iq2_xs": 17, "iq3_xxs": 18, "iq1_s": 19, "iq3_s": 21, "iq2_s": 22, "iq1_m": 29,
}  # fmt: skip

# Types for which ggml aborts without importance weights, and where sums of huge weights overflow.
NEED_IMPORTANCE = {TYPE_IDS[name] for name in ("iq2_xxs", "iq2_xs", "iq1_s")}
ABORT_ON_OVERFLOW = {TYPE_IDS[name] for name in ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m")}
LARGEST_SAFE = 1e8  # beyond about 3e7 the scale of such a block is no float16 anyway

# enum llama_token_attr (llama.h)
ATTR_UNKNOWN, ATTR_UNUSED, ATTR_NORMAL, ATTR_CONTROL, ATTR_USER_DEFINED, ATTR_BYTE = (1 << n for n in range(6))

LOG_CALLBACK = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


class TypeTraits(c.Structure):
    """struct ggml_type_traits"""

    _fields_ = [
        ("type_name", c.c_char_p),
        ("blck_size", c.c_int64),
        ("blck_size_interleave", c.c_int64),
        ("type_size", c.c_size_t),
        ("is_quantized", c.c_bool),
        ("to_float", c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, c.c_int64)),
        ("from_float_ref", c.c_void_p),
    ]


class CPUTypeTraits(c.Structure):
    """struct ggml_type_traits_cpu"""

    _fields_ = [
        ("from_float", c.c_void_p),
        ("vec_dot", c.c_void_p),
        ("vec_dot_type", c.c_int),
        ("nrows", c.c_int64),
    ]


class ModelParams(c.Structure):
    """struct llama_model_params, followed by room for fields that other versions may append.

    A struct of this size is returned through a hidden pointer and passed on the stack (System V x86-64 and, for
    returns, AArch64), so declaring it larger than it is does no harm while it is the only one on the stack.
    """

    _fields_ = [
        ("devices", c.c_void_p),
        ("tensor_buft_overrides", c.c_void_p),
        ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int32),
        ("load_mode", c.c_int32),
        ("lazy_mode", c.c_int32),
        ("main_gpu", c.c_int32),
        ("tensor_split", c.c_void_p),
        ("progress_callback", c.c_void_p),
        ("progress_callback_user_data", c.c_void_p),
        ("kv_overrides", c.c_void_p),
        ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool),
        ("use_extra_bufts", c.c_bool),
        ("rest", c.c_uint8 * 512),
    ]


class ContextParams(c.Structure):
    """The head of struct llama_context_params, followed by room for the rest (see ModelParams)."""

    _fields_ = [
        ("n_ctx", c.c_uint32),
        ("n_batch", c.c_uint32),
        ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32),
        ("n_outputs_max", c.c_uint32),
        ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32),
        ("n_threads_batch", c.c_int32),
        ("ctx_type", c.c_int32),
        ("rope_scaling_type", c.c_int32),
        ("pooling_type", c.c_int32),
        ("attention_type", c.c_int32),
        ("flash_attn_type", c.c_int32),
        ("rest", c.c_uint8 * 1000),
    ]


class Batch(c.Structure):
    """struct llama_batch"""

    _fields_ = [
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.c_void_p),
        ("n_seq_id", c.c_void_p),
        ("seq_id", c.c_void_p),
        ("logits", c.c_void_p),
    ]


@dataclass(frozen=True)
class Library:
    """The loaded shared object. `silence` is kept alive because the library calls it for every log line."""

    so: c.CDLL
    silence: object


def _signature(so: c.CDLL, name: str, restype: object, *argtypes: object) -> None:
    function = getattr(so, name)
    function.restype = restype
    function.argtypes = argtypes


def _declare(so: c.CDLL) -> None:
    pointer, i32, i64, size, text = c.c_void_p, c.c_int32, c.c_int64, c.c_size_t, c.c_char_p
    _signature(so, "ggml_quantize_chunk", size, c.c_int, pointer, pointer, i64, i64, i64, pointer)
    _signature(so, "ggml_get_type_traits", c.POINTER(TypeTraits), c.c_int)
    _signature(so, "ggml_get_type_traits_cpu", c.POINTER(CPUTypeTraits), c.c_int)
    _signature(so, "ggml_row_size", size, c.c_int, i64)
    _signature(so, "ggml_blck_size", i64, c.c_int)
    _signature(so, "ggml_validate_row_data", c.c_bool, c.c_int, pointer, size)
    _signature(so, "llama_log_set", None, LOG_CALLBACK, pointer)
    _signature(so, "llama_backend_init", None)
    _signature(so, "llama_model_default_params", ModelParams)
    _signature(so, "llama_context_default_params", ContextParams)
    _signature(so, "llama_model_load_from_file", pointer, text, ModelParams)
    _signature(so, "llama_model_free", None, pointer)
    _signature(so, "llama_model_get_vocab", pointer, pointer)
    _signature(so, "llama_model_meta_count", i32, pointer)
    _signature(so, "llama_model_meta_key_by_index", i32, pointer, i32, text, size)
    _signature(so, "llama_model_meta_val_str_by_index", i32, pointer, i32, text, size)
    _signature(so, "llama_model_n_params", c.c_uint64, pointer)
    _signature(so, "llama_model_size", c.c_uint64, pointer)
    _signature(so, "llama_model_chat_template", text, pointer, text)
    _signature(so, "llama_init_from_model", pointer, pointer, ContextParams)
    _signature(so, "llama_free", None, pointer)
    _signature(so, "llama_n_ctx", c.c_uint32, pointer)
    _signature(so, "llama_batch_get_one", Batch, c.POINTER(i32), i32)
    _signature(so, "llama_decode", i32, pointer, Batch)
    _signature(so, "llama_get_logits_ith", c.POINTER(c.c_float), pointer, i32)
    _signature(so, "llama_encode", i32, pointer, Batch)
    _signature(so, "llama_set_embeddings", None, pointer, c.c_bool)
    _signature(so, "llama_pooling_type", c.c_int, pointer)
    _signature(so, "llama_model_n_embd", i32, pointer)
    _signature(so, "llama_get_embeddings_ith", c.POINTER(c.c_float), pointer, i32)
    _signature(so, "llama_get_embeddings_seq", c.POINTER(c.c_float), pointer, i32)
    _signature(so, "llama_vocab_n_tokens", i32, pointer)
    _signature(so, "llama_vocab_type", c.c_int, pointer)
    _signature(so, "llama_vocab_get_text", text, pointer, i32)
    _signature(so, "llama_vocab_get_score", c.c_float, pointer, i32)
    _signature(so, "llama_vocab_get_attr", c.c_int, pointer, i32)
    _signature(so, "llama_vocab_is_eog", c.c_bool, pointer, i32)
    for special in ("bos", "eos", "eot", "sep", "nl", "pad"):
        _signature(so, f"llama_vocab_{special}", i32, pointer)
    for flag in ("add_bos", "add_eos", "add_sep"):
        _signature(so, f"llama_vocab_get_{flag}", c.c_bool, pointer)
    _signature(so, "llama_tokenize", i32, pointer, text, i32, pointer, i32, c.c_bool, c.c_bool)
    _signature(so, "llama_detokenize", i32, pointer, pointer, i32, text, i32, c.c_bool, c.c_bool)
    _signature(so, "llama_token_to_piece", i32, pointer, i32, text, i32, i32, c.c_bool)


@cache
def library() -> Library:
    """Load the shared object of the installed xllamacpp wheel, without running the wheel's Python code."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("these tests need the xllamacpp wheel: pip install 'quantkit-cli[dev,llamacpp]'")
    path = Path(spec.submodule_search_locations[0]) / "xllamacpp.abi3.so"
    so = c.CDLL(str(path))
    _declare(so)
    silence = LOG_CALLBACK(lambda _level, _text, _data: None)
    if not os.environ.get("QUANTKIT_TEST_LLAMA_LOG"):
        so.llama_log_set(silence, None)
    so.llama_backend_init()
    return Library(so, silence)


def row_size(type_id: int, cols: int) -> int:
    """Bytes of a row of `cols` weights. ValueError if the type's block does not divide it."""
    so = library().so
    block = so.ggml_blck_size(type_id)
    if block <= 0 or cols % block:
        raise ValueError(f"type {type_id}: rows of {cols} are not a multiple of its block of {block}")
    return int(so.ggml_row_size(type_id, cols))


def quantize(type_id: int, w: F32, importance: F32 | None = None) -> U8:
    """ggml_quantize_chunk over float32 (rows, cols) -> uint8 (rows, row_size). `importance` is float32 (cols,).

    Ones stand in for importance that ggml asks for, and bytes that `validate` refuses for those at which it aborts.
    """
    rows, cols = w.shape
    source = np.array(w, dtype=np.float32, order="C")
    out = np.zeros((rows, row_size(type_id, cols)), np.uint8)
    weights = None
    if importance is None and type_id in NEED_IMPORTANCE:
        importance = np.ones(cols, np.float32)
    if importance is not None:
        weights = np.array(importance, dtype=np.float32, order="C")
        if weights.shape != (cols,):
            raise ValueError(f"importance has shape {weights.shape}, expected ({cols},)")
    if not np.isfinite(source).all():
        raise ValueError("ggml aborts on non-finite input")
    if rows == 0:
        return out
    if type_id in ABORT_ON_OVERFLOW and np.abs(source).max() > LARGEST_SAFE:
        return np.full_like(out, 255)
    pointer = None if weights is None else weights.ctypes.data
    written = library().so.ggml_quantize_chunk(type_id, source.ctypes.data, out.ctypes.data, 0, rows, cols, pointer)
    if written != out.nbytes:
        raise RuntimeError(f"type {type_id}: ggml wrote {written} bytes, expected {out.nbytes}")
    return out


def dequantize(type_id: int, raw: U8, cols: int) -> F32:
    """Bytes (rows, row_size) of a quantized type to float32 (rows, cols), by ggml's to_float."""
    if raw.shape[1] != row_size(type_id, cols):
        raise ValueError(f"rows have {raw.shape[1]} bytes, expected {row_size(type_id, cols)}")
    data = np.array(raw, dtype=np.uint8, order="C")
    out = np.empty((len(raw), cols), np.float32)
    library().so.ggml_get_type_traits(type_id)[0].to_float(data.ctypes.data, out.ctypes.data, out.size)
    return out


def inputs_type(type_id: int) -> str:
    """The name of the type to which ggml's CPU code rounds what weights of a type are multiplied with."""
    so = library().so
    return str(so.ggml_get_type_traits(so.ggml_get_type_traits_cpu(type_id)[0].vec_dot_type)[0].type_name.decode())


def validate(type_id: int, raw: U8) -> bool:
    """Whether ggml accepts these bytes as data of the type (finite scales)."""
    data = np.array(raw, dtype=np.uint8, order="C")
    return bool(library().so.ggml_validate_row_data(type_id, data.ctypes.data, data.nbytes))


@dataclass(frozen=True)
class Token:
    """One vocabulary entry. `text` is the stored text, `piece` the bytes it stands for, `attr` an ATTR_ bit set."""

    text: bytes
    piece: bytes
    score: float
    attr: int


class Model:
    """A GGUF file loaded by llama.cpp: its vocabulary always, its weights unless `vocab_only`.

    Use as a context manager. Raises RuntimeError if llama.cpp refuses the file; set QUANTKIT_TEST_LLAMA_LOG=1 to
    see why.
    """

    def __init__(self, path: Path | str, *, vocab_only: bool = False) -> None:
        self._so = library().so
        params = self._so.llama_model_default_params()
        params.vocab_only = vocab_only
        params.check_tensors = True
        # Repacked weights multiply in another order; the plain kernels are the reference.
        params.use_extra_bufts = False
        self._model = self._so.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._vocab = self._so.llama_model_get_vocab(self._model)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._model:
            self._so.llama_model_free(self._model)
            self._model = None

    @property
    def metadata(self) -> dict[str, str]:
        """The scalar metadata as llama.cpp prints it."""
        found = {}
        for index in range(self._so.llama_model_meta_count(self._model)):
            key, value = c.create_string_buffer(256), c.create_string_buffer(1 << 16)
            self._so.llama_model_meta_key_by_index(self._model, index, key, len(key))
            self._so.llama_model_meta_val_str_by_index(self._model, index, value, len(value))
            found[key.value.decode()] = value.value.decode(errors="replace")
        return found

    @property
    def parameters(self) -> int:
        return int(self._so.llama_model_n_params(self._model))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return int(self._so.llama_model_size(self._model))

    @property
    def chat_template(self) -> str | None:
        template = self._so.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode()

    @property
    def n_vocab(self) -> int:
        return int(self._so.llama_vocab_n_tokens(self._vocab))

    @property
    def vocab_type(self) -> int:
        """enum llama_vocab_type: 1 SentencePiece BPE, 2 byte-level BPE, 3 WordPiece, 4 unigram ..."""
        return int(self._so.llama_vocab_type(self._vocab))

    def special(self, name: str) -> int:
        """Token id of bos, eos, eot, sep, nl or pad; -1 when the vocabulary has none."""
        return int(getattr(self._so, f"llama_vocab_{name}")(self._vocab))

    @property
    def add_bos(self) -> bool:
        return bool(self._so.llama_vocab_get_add_bos(self._vocab))

    @property
    def add_eos(self) -> bool:
        return bool(self._so.llama_vocab_get_add_eos(self._vocab))

    def is_end(self, token: int) -> bool:
        """Whether generation stops at this token."""
        self._check([token])
        return bool(self._so.llama_vocab_is_eog(self._vocab, token))

    def token(self, index: int) -> Token:
        self._check([index])
        return Token(
            text=self._so.llama_vocab_get_text(self._vocab, index),
            piece=self.piece(index),
            score=float(self._so.llama_vocab_get_score(self._vocab, index)),
            attr=int(self._so.llama_vocab_get_attr(self._vocab, index)),
        )

    def piece(self, index: int, *, special: bool = True) -> bytes:
        """The bytes that the token stands for."""
        self._check([index])
        buffer = c.create_string_buffer(64)
        length = self._so.llama_token_to_piece(self._vocab, index, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = c.create_string_buffer(-length)
            length = self._so.llama_token_to_piece(self._vocab, index, buffer, len(buffer), 0, special)
        return buffer.raw[:length]

    def tokenize(self, text: str | bytes, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of `text` (UTF-8). `add_special` adds BOS/EOS as the model asks; `parse_special` reads
        special tokens that occur in the text as such."""
        data = text.encode() if isinstance(text, str) else text
        ids = np.zeros(len(data) + 16, np.int32)
        flags = (add_special, parse_special)
        count = self._so.llama_tokenize(self._vocab, data, len(data), ids.ctypes.data, len(ids), *flags)
        if count < 0:
            ids = np.zeros(-count, np.int32)
            count = self._so.llama_tokenize(self._vocab, data, len(data), ids.ctypes.data, len(ids), *flags)
        if count < 0:
            raise RuntimeError(f"llama_tokenize returned {count}")
        return [int(i) for i in ids[:count]]

    def detokenize(self, tokens: list[int], *, remove_special: bool = False, unparse_special: bool = True) -> bytes:
        self._check(tokens)
        ids = np.array(tokens, np.int32)
        flags = (remove_special, unparse_special)
        buffer = c.create_string_buffer(16 * len(tokens) + 64)
        length = self._so.llama_detokenize(self._vocab, ids.ctypes.data, len(ids), buffer, len(buffer), *flags)
        if length < 0:
            buffer = c.create_string_buffer(-length)
            length = self._so.llama_detokenize(self._vocab, ids.ctypes.data, len(ids), buffer, len(buffer), *flags)
        return buffer.raw[:length]

    def logits(self, tokens: list[int], *, threads: int = 2) -> F32:
        """Next-token logits float32 (len(tokens), n_vocab) after each prefix, decoded one token at a time."""
        self._check(tokens)
        params = self._so.llama_context_default_params()
        params.n_ctx = max(len(tokens), 8)
        params.n_batch = params.n_ubatch = 8
        params.n_threads = params.n_threads_batch = threads
        context = self._so.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("llama.cpp cannot make a context for this model")
        try:
            out = np.empty((len(tokens), self.n_vocab), np.float32)
            for position, token in enumerate(tokens):
                status = self._so.llama_decode(context, self._so.llama_batch_get_one(c.byref(c.c_int32(token)), 1))
                if status:
                    raise RuntimeError(f"llama_decode returned {status} at position {position}")
                row = self._so.llama_get_logits_ith(context, -1)
                out[position] = np.ctypeslib.as_array(row, (self.n_vocab,))
            return out
        finally:
            self._so.llama_free(context)

    def last_logits(self, tokens: list[int], *, threads: int = 2) -> F32:
        """Logits float32 (n_vocab,) after all tokens, decoded at once."""
        self._check(tokens)
        params = self._so.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(len(tokens), 8)
        params.n_threads = params.n_threads_batch = threads
        context = self._so.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("llama.cpp cannot make a context for this model")
        try:
            ids = (c.c_int32 * len(tokens))(*tokens)
            status = self._so.llama_decode(context, self._so.llama_batch_get_one(ids, len(tokens)))
            if status:
                raise RuntimeError(f"llama_decode returned {status}")
            row = self._so.llama_get_logits_ith(context, -1)
            return np.ctypeslib.as_array(row, (self.n_vocab,)).copy()
        finally:
            self._so.llama_free(context)

    def embedding(self, tokens: list[int], *, pooling: int | None = None, size: int | None = None) -> F32:
        """What an encoder makes of a text: one float32 vector where it pools, by its own metadata or as `pooling` says
        (enum llama_pooling_type), else one a token. `size` is the length where it is not the model's, as for scores."""
        self._check(tokens)
        params = self._so.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = max(len(tokens), 8)
        params.flash_attn_type = 0
        if pooling is not None:
            params.pooling_type = pooling
        context = self._so.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("llama.cpp cannot make a context for this model")
        try:
            self._so.llama_set_embeddings(context, True)
            given = (c.c_int32 * len(tokens))(*tokens)  # the batch points to it
            batch = self._so.llama_batch_get_one(given, len(tokens))
            wanted = (c.c_int8 * len(tokens))(*[1] * len(tokens))
            batch.logits = c.cast(wanted, c.c_void_p)
            status = self._so.llama_encode(context, batch)
            if status:
                raise RuntimeError(f"llama_encode returned {status}")
            width = size or self._so.llama_model_n_embd(self._model)
            if self._so.llama_pooling_type(context) > 0:
                return np.ctypeslib.as_array(self._so.llama_get_embeddings_seq(context, 0), (width,)).copy()
            rows = (self._so.llama_get_embeddings_ith(context, i) for i in range(len(tokens)))
            return np.stack([np.ctypeslib.as_array(row, (width,)).copy() for row in rows])
        finally:
            self._so.llama_free(context)

    def generate(self, tokens: list[int], count: int) -> list[int]:
        """`count` tokens of greedy continuation (fewer if the model ends), recomputed from the start each time."""
        grown = list(tokens)
        while len(grown) < len(tokens) + count and not (len(grown) > len(tokens) and self.is_end(grown[-1])):
            grown.append(int(self.logits(grown)[-1].argmax()))
        return grown[len(tokens) :]

    def _check(self, tokens: list[int]) -> None:
        if not all(0 <= token < self.n_vocab for token in tokens):
            raise ValueError(f"token ids must be in 0..{self.n_vocab - 1}: {tokens}")
