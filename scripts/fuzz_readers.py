"""Everything that reads what a stranger wrote: a sound input, how to damage it, and how to read it.

A reader takes bytes and returns how they were read ("accepted"), or raises a QuantkitError. Anything else is a bug, and
so is what it accepts and an independent reader (the safetensors and gguf packages) refuses.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import fuzz_mutators as m
import numpy as np
from fuzz_children import forked
from fuzz_folders import METHODS, PARAMS, folders, gguf_source, llama, mistral, quantized
from fuzz_hub import hub

from quantkit.errors import QuantkitError
from quantkit.families.describe import describe, find_family, require_fitting
from quantkit.families.general import general_metadata
from quantkit.families.known import family_named
from quantkit.families.linears import outline
from quantkit.families.model import Model
from quantkit.formats.containers.declared import declared
from quantkit.formats.containers.packed import Entry as Stored
from quantkit.formats.containers.packed import PackedTensor
from quantkit.formats.containers.patterns import matches
from quantkit.formats.containers.stored import stored_modules
from quantkit.formats.gguf.file import read_tensor_bytes, require_whole_split
from quantkit.formats.gguf.imatrix import Entry, Imatrix, encode_imatrix_gguf, match_importance, read_imatrix
from quantkit.formats.gguf.imatrix_legacy import encode_imatrix_legacy
from quantkit.formats.gguf.reader import read_gguf
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.jsontext import dump_json
from quantkit.patterns import PatternError, compile_glob, compile_search
from quantkit.pipeline.verify_folder import verify
from quantkit.recipes.read import load_recipe
from quantkit.recipes.table import MAX_GLOB_LENGTH
from quantkit.report.calibration_record import read_record
from quantkit.report.manifest import parse_manifest, read_manifest
from quantkit.report.sealed import seal
from quantkit.source.mistral import config_of, context_warning, head_rows
from quantkit.source.shards import read_index
from quantkit.storage import journal
from quantkit.storage.files import read_sums
from quantkit.tensors import TensorInfo
from quantkit.tokenizer import native, native_process
from quantkit.tokenizer.chat_template import find_chat_templates
from quantkit.tokenizer.read import read_tokenizer
from quantkit.untrusted import open_input, parse_json_object

TINY = Path(__file__).parent.parent / "tests" / "data" / "docs-llama-tiny"
FILES = {path.name: path.read_bytes() for path in TINY.iterdir() if path.suffix != ".safetensors" and path.is_file()}
CONFIG = {**json.loads(FILES["config.json"]), "num_hidden_layers": 1}  # the other layers are alike, and cost time

Read = Callable[[bytes], object]
Make = Callable[[Path], tuple[m.Mutator, Read]]


@dataclass(frozen=True)
class Reader:
    """`make` prepares it in an empty folder. `share` is its part of the time, relative to others."""

    name: str
    make: Make
    share: float = 1.0


def on_disk(folder: Path, name: str, read: Callable[[Path], object]) -> Read:
    """Read bytes by way of a file."""
    path = folder / name

    def run(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return run


def header_infos() -> dict[str, TensorInfo]:
    """The tensors of the tiny model, as far as its first layer."""
    [weights] = TINY.glob("*.safetensors")
    found = read_safetensors(weights).tensors
    infos = {name: TensorInfo(name, e.dtype, e.shape, e.stop - e.start) for name, e in found.items()}
    return {name: info for name, info in infos.items() if ".layers." not in name or ".layers.0." in name}


def side_files(**changed: bytes) -> Callable[[str], bytes | None]:
    files = {**FILES, **{name.replace("__", "."): data for name, data in changed.items()}}
    return files.get


# --- containers -------------------------------------------------------------------------------------------------------


def safetensors(folder: Path) -> tuple[m.Mutator, Read]:
    import safetensors as package

    shapes = {"a.weight": ("F32", [2, 3]), "b": ("BF16", [4]), "c.0.d": ("I8", [2, 2, 2]), "é": ("U8", [0])}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        size = prod(shape) * {"F32": 4, "BF16": 2}.get(dtype, 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size

    def read(path: Path) -> object:
        ours = read_safetensors(path)
        raw = path.read_bytes()
        theirs = dict(package.deserialize(raw))
        assert theirs.keys() == ours.tensors.keys(), "other names than the safetensors package"
        for name, entry in ours.tensors.items():
            found = theirs[name]
            assert tuple(found["shape"]) == entry.shape, "another shape than the safetensors package"
            assert bytes(found["data"]) == raw[entry.start : entry.stop], "other data than the safetensors package"
        return ours

    return m.safetensors_of(header, bytes(range(offset))), on_disk(folder, "x.safetensors", read)


def shard_index(folder: Path) -> tuple[m.Mutator, Read]:
    names = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    tree = {"metadata": {"total_size": 5}, "weight_map": {f"l.{i}.weight": names[i % 3] for i in range(6)}}

    def read(path: Path) -> object:
        with closing(open_input(path)) as file:
            found = read_index(file)
        assert all("/" not in shard and shard not in {".", ".."} for shard in found.values())
        return found

    return m.json_of(tree), on_disk(folder, "model.safetensors.index.json", read)


GGUF_ENTRIES: list[tuple[bytes, int, Any]] = [
    (b"general.architecture", 8, b"llama"),
    (b"general.alignment", 4, 32),
    (b"llama.block_count", 4, 1),
    (b"llama.rope.freq_base", 6, 1e4),
    (b"tokens", 9, (8, [b"a", b"bc", b"\xe2\x96\x81d"])),
    (b"flags", 9, (7, [1, 0])),
    (b"scores", 9, (6, [0.5, 1.0, 2.0])),
    (b"big", 10, 2**40),
    (b"double", 12, 0.5),
    (b"small", 1, 5),
    (b"on", 7, 1),
]
GGUF_TENSORS = [
    (b"token_embd.weight", [32, 3], 8, 102),
    (b"blk.0.ffn_up_exps.weight", [4, 3, 2], 1, 48),
    (b"output_norm.weight", [8], 0, 32),
]


def gguf(folder: Path) -> tuple[m.Mutator, Read]:
    from gguf import GGUFReader

    counter = iter(range(10**12))

    def read(path: Path) -> object:
        ours = read_gguf(path)
        for tensor in ours.tensors:
            assert read_tensor_bytes(ours, tensor).size == tensor.nbytes
        require_whole_split([ours]) if ours.get("split.count") else None
        if next(counter) % 20 == 0 and ours.tensors:  # the package is slow
            theirs = {t.name: (tuple(map(int, t.shape))[::-1], int(t.n_bytes)) for t in GGUFReader(path).tensors}
            assert theirs == {t.name: (t.shape, t.nbytes) for t in ours.tensors}, "other tensors than the gguf package"
        return ours

    return m.gguf_of(GGUF_ENTRIES, GGUF_TENSORS), on_disk(folder, "x.gguf", read)


# --- descriptions of models -------------------------------------------------------------------------------------------


class Tokens:
    """A tokenizer that has no say."""

    metadata: tuple[Any, ...] = ()
    sha256 = None
    vocab_size = CONFIG["vocab_size"]
    warnings: tuple[tuple[str, str], ...] = ()


def described(tensors: Mapping[str, TensorInfo], found: Mapping[str, Any]) -> Model:
    """The description of a checkpoint, its tokenizer left out."""
    named = find_family(found)
    require_fitting(found, tensors)
    return describe(tensors, found, side_files(), named, Tokens(), name="m")


def config(folder: Path) -> tuple[m.Mutator, Read]:
    infos = header_infos()
    qwen = {
        **CONFIG,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0},
    }
    gemma = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {**CONFIG, "model_type": "gemma3_text"},
    }
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled = {
        **CONFIG,
        "rope_parameters": {**llama3, "original_max_position_embeddings": 64},
        "quantization_config": None,
    }

    def read(data: bytes) -> object:
        found = parse_json_object(data, Path("config.json"))
        find_family(found)
        declared(found, {})
        model = described(infos, found)
        outline(infos, found)
        return model

    return m.json_of(CONFIG, qwen, gemma, scaled), read


def tensor_names(folder: Path) -> tuple[m.Mutator, Read]:
    """Names and shapes of tensors, as a JSON object of lists."""
    infos = header_infos()
    tree = {name: list(info.shape) for name, info in infos.items()}

    def read(data: bytes) -> object:
        found = parse_json_object(data, Path("names"))
        changed = {
            name: TensorInfo(name, "BF16", tuple(shape), 2 * prod(shape))
            for name, shape in found.items()
            if name
            and name.isprintable()
            and isinstance(shape, list)
            and 0 < len(shape) < 9
            and all(type(size) is int and 0 < size < 2**40 for size in shape)
            and prod(shape) < 2**62
        }
        outline(changed, CONFIG)
        return described(changed, CONFIG)

    return m.json_of(tree), read


def params(folder: Path) -> tuple[m.Mutator, Read]:
    """Mistral's own params.json, alone and beside a config.json."""
    own = {"architectures": ["MistralForCausalLM"], "max_position_embeddings": 512}
    infos = header_infos()
    sizes = {
        "dim": CONFIG["hidden_size"], "hidden_dim": CONFIG["intermediate_size"], "head_dim": CONFIG["head_dim"],
        "n_heads": CONFIG["num_attention_heads"], "n_kv_heads": CONFIG["num_key_value_heads"],
        "vocab_size": CONFIG["vocab_size"], "tied_embeddings": True,
    }  # fmt: skip
    dense = {**{key: value for key, value in PARAMS.items() if key != "moe"}, **sizes}

    def read(data: bytes) -> object:
        found = parse_json_object(data, Path("params.json"), digits=True)
        translated = config_of(found, "BF16", own)
        context_warning(found, own)
        head_rows(found)
        return described(infos, translated)

    return m.json_of(PARAMS, dense, dense), read


def _bpe() -> dict[str, Any]:
    from quantkit.tokenizer.bpe import byte_alphabet
    from quantkit.tokenizer.slow_files import QWEN2_PATTERN

    letters = list(byte_alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)} | {"he": 256, "hel": 257, "Ġt": 258}
    regex = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [
        {
            "id": 259 + n,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": n < 1,
        }
        for n, text in enumerate(("<|end|>", "<x>"))
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [regex, {**level, "use_regex": False}]},
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [["h", "e"], ["he", "l"], ["Ġ", "t"]],
        },
    }


def _pieces() -> dict[str, Any]:
    """A tokenizer.json made of a sentencepiece model, as those of Llama 2 and Gemma are."""
    letters = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "\u2581", "a", "b", "\u2581a", "ab"]
    prefix = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    added = [{**one, "id": number, "content": letters[number], "special": True} for number, one in enumerate(
        [_bpe()["added_tokens"][0]] * 3)]  # fmt: skip
    model = {**_bpe()["model"], "vocab": {piece: number for number, piece in enumerate(letters)}, "byte_fallback": True}
    return {
        **_bpe(),
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": prefix},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {**model, "unk_token": "<unk>", "fuse_unk": True, "merges": [["\u2581", "a"], ["a", "b"]]},
    }


SETTINGS = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<|end|>",
    "eos_token": {"content": "<|end|>", "lstrip": False},
    "chat_template": "{{ messages[0].content }}",
    "model_max_length": 10**30,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "added_tokens_decoder": {"259": {"content": "<|end|>", "special": True, "normalized": False}},
    "add_prefix_space": None,
    "additional_special_tokens": ["<x>"],
    "extra_special_tokens": {"image_token": "<x>"},
}


def tokenizer_files(**seeds: Any) -> Make:
    """The tokenizer of a folder that has these files, one of which (the first) is damaged."""

    def make(folder: Path) -> tuple[m.Mutator, Read]:
        first, *_ = seeds
        files = {n.replace("__", "."): d if isinstance(d, bytes) else json.dumps(d).encode() for n, d in seeds.items()}
        name = first.replace("__", ".")
        seed = seeds[first]
        mutate = m.json_of(seed) if not isinstance(seed, bytes) else m.text_of(seed)

        def read(data: bytes) -> object:
            changed = {**files, name: data}
            conf = {"model_type": "qwen2", "vocab_size": 264, "architectures": ["Qwen2ForCausalLM"]}
            return read_tokenizer(changed.get, conf, family_named("qwen2").tokens, names=list(changed))

        return mutate, forked(native, native_process.__file__, read)

    return make


def _slow() -> dict[str, Any]:
    model = _bpe()["model"]
    return {"vocab": model["vocab"], "merges": "\n".join(" ".join(pair) for pair in model["merges"])}


def _tekken() -> dict[str, Any]:
    import base64

    from quantkit.tokenizer.pre_table import RECOGNIZED

    TEKKEN_PATTERN = next(one.steps[0][1] for one in RECOGNIZED if one.name == "tekken")

    tokens = [bytes([n]) for n in range(256)] + [b"he", b"hel"]
    vocab = [{"rank": n, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for n, t in enumerate(tokens)]
    special = [
        {"rank": 0, "token_str": "<unk>", "is_control": True},
        {"rank": 1, "token_str": "<s>", "is_control": True},
    ]
    settings = {
        "pattern": TEKKEN_PATTERN,
        "num_vocab_tokens": 258,
        "default_vocab_size": 260,
        "default_num_special_tokens": 2,
        "version": "v3",
    }
    return {"config": settings, "vocab": vocab, "special_tokens": special}


def sentencepiece(folder: Path) -> tuple[m.Mutator, Read]:
    from quantkit.tokenizer.sentencepiece_model import parse_sentencepiece

    kinds = {b"<unk>": 2, b"<s>": 3, b"</s>": 3, b"<0x0A>": 6, b"\xe2\x96\x81a": 1, b"b": 4}
    fields: m.Fields = [
        (1, 2, [(1, 2, text), (2, 5, struct.pack("<f", -n)), (3, 0, kind)])
        for n, (text, kind) in enumerate(kinds.items())
    ]
    fields += [
        (2, 2, [(3, 0, 2), (24, 0, 0), (35, 0, 1)]),
        (3, 2, [(1, 2, b"identity"), (3, 0, 1), (4, 0, 0), (5, 0, 1)]),
    ]
    conf = {**CONFIG, "vocab_size": len(kinds)}

    def read(data: bytes) -> object:
        found = parse_sentencepiece(data)
        assert all(np.isfinite(piece.score) for piece in found.pieces)
        return read_tokenizer({"tokenizer.model": data}.get, conf, family_named("llama").tokens)

    return m.proto_of(fields), read


TEMPLATE = b"""{% for m in messages %}{{ '<|' + m['role'] + '|>' }}
{{ m.content | trim }}{% if loop.last %}{{ eos_token }}{% endif %}{% endfor %}{{ x.__class__ }}{% include 'a' %}"""


def template(folder: Path) -> tuple[m.Mutator, Read]:
    def read(data: bytes) -> object:
        files = {"chat_template.jinja": data}
        return find_chat_templates(files.get, {"a": 1}, list(files)).metadata()

    return m.text_of(TEMPLATE), read


def rendered(folder: Path) -> tuple[m.Mutator, Read]:
    """A template run in a child process."""
    from quantkit.calibration.text import template_process, templates
    from quantkit.calibration.text.templates import ChatTemplate, render

    talk = [[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "é"}]]
    harmless = TEMPLATE.partition(b"{{ x.")[0]

    def read(data: bytes) -> object:
        return render(ChatTemplate(data.decode("utf-8", "replace"), {"eos_token": "</s>"}), talk)

    return m.text_of(harmless, harmless, TEMPLATE), forked(templates, template_process.__file__, read)


CARD = b"""---
license: apache-2.0
language: [en, "no"]
base_model:
- org/Base-7B-v0.1
datasets: &d
- a/b
tags: *d
version: 1.10
date: 2024-01-01
model-index:
- name: x
  results: [{task: {type: text}, metrics: [{value: 0.5}]}]
---
# Title
"""


def card(folder: Path) -> tuple[m.Mutator, Read]:
    return m.text_of(CARD), lambda data: general_metadata("m", CONFIG, {"README.md": data}.get, [])


def generation(folder: Path) -> tuple[m.Mutator, Read]:
    tree = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "eos_token_id": [1, 2],
        "repetition_penalty": 1.05,
        "sequence": "a",
    }
    return m.json_of(tree), lambda data: general_metadata("m", CONFIG, {"generation_config.json": data}.get, [])


QUANTIZATIONS: tuple[dict[str, Any], ...] = (
    {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "desc_act": False,
        "sym": True,
        "checkpoint_format": "gptq_v2",
        "dynamic": {"+:.*mlp.*": {"bits": 8}, "-:.*attn.*": {}},
    },
    {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    },
    {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "ignored_layers": ["a"],
    },
    {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    {"quant_method": "bitsandbytes", "load_in_8bit": True},
    {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["lm_head", "re:.*gate.*"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear", "re:.*proj$"],
                "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
                "input_activations": None,
                "output_activations": None,
            }
        },
    },
    {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"FP8": ["Linear"]}},
    {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head"],
        "group_size": 16,
    },
    {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head*"]}},
    {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    {"group_size": 64, "bits": 4, "mode": "affine"},
)


def quantization(folder: Path) -> tuple[m.Mutator, Read]:
    stem = "model.layers.0.mlp.up_proj"
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "qweight": ("I32", (4, 64)),
        "qzeros": ("I32", (1, 8)),
        "scales": ("F16", (1, 64)),
        "g_idx": ("I32", (32,)),
        "weight_packed": ("I32", (64, 4)),
        "weight_scale": ("BF16", (64, 1)),
        "weight_shape": ("I64", (2,)),
        "weight": ("U8", (1024, 1)),
        "weight.absmax": ("F32", (32,)),
        "weight.quant_map": ("F32", (16,)),
        "SCB": ("F32", (64,)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", (64,)),
        "weight_scale_inv": ("F32", (1, 1)),
        "input_scale": ("F32", (1,)),
        "weight_scale_2": ("F32", (1,)),
        "biases": ("BF16", (64, 1)),
        "weight_blocks": ("U8", (64, 1, 16)),
    }
    itemsize = {"I32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "F32": 4}
    every = {
        f"{stem}.{name}": TensorInfo(f"{stem}.{name}", dtype, shape, prod(shape) * itemsize[dtype])
        for name, (dtype, shape) in shapes.items()
    }
    wanted = (
        ("qweight", "qzeros", "scales", "g_idx"),
        ("weight_packed", "weight_scale", "weight_shape"),
        tuple(shapes),
        ("weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"),
        ("weight", "SCB"),
        ("weight", "weight_scale_inv"),
        ("weight", "weight_scale", "weight_scale_2", "input_scale"),
    )
    counter = iter(range(10**12))

    def small(tensors: Mapping[str, TensorInfo]) -> Callable[[str], PackedTensor]:
        def read(name: str) -> PackedTensor:
            info = tensors[name]
            return PackedTensor(Stored(name, info.dtype, info.shape), np.zeros(info.nbytes, np.uint8))

        return read

    def read(data: bytes) -> object:
        found = declared({"quantization_config": parse_json_object(data, Path("config.json"))}, {})
        if found is None:
            return None
        names = wanted[next(counter) % len(wanted)]
        tensors = {f"{stem}.{name}": every[f"{stem}.{name}"] for name in names}
        return stored_modules(found, tensors, small(tensors))

    return m.json_of(*QUANTIZATIONS), read


# --- recipes and patterns ---------------------------------------------------------------------------------------------

RECIPE = b"""# mine
schema = 1
title = "Mine"
summary = "a \\u00e9 b"
file_type = 7
strict = false
on_fallback = "report"
needs_imatrix = ["q2_k"]
[default]
qtype = "q4_k"
[[rule]]
use = "output"
[[rule]]
qtype = "q6_k"
roles = ["attn_v", "ffn_down"]
names = ["blk.*.attn_[vq].weight", "x?"]
layers = "first:3"
stacked = false
when = { architectures = ["llama"], blocks = 2, imatrix = false }
why = "more bits"
"""
SERVER_RECIPE = b"""schema = 1
title = "W4"
container = "compressed-tensors"
kv_cache = false
[weights]
type = "int"
bits = 4
group = 128
symmetry = "symmetric"
fallback = [64, 32]
activations = "none"
[method]
name = "gptq"
transform = "awq"
alpha = 0.5
damping = 0.03
passes = 1
[[rule]]
roles = ["ffn_down"]
names = ["model.layers.0.*"]
layers = "more_bits"
weights = { bits = 8 }
why = 'x'
"""


def recipe(seed: bytes) -> Make:
    return lambda folder: (m.text_of(seed), on_disk(folder, "r.toml", lambda path: load_recipe(str(path))))


def patterns(folder: Path) -> tuple[m.Mutator, Read]:
    """Globs, regular expressions of --keep, and those of quantization configs."""
    seeds = (
        rb"model.layers.*.mlp",
        rb"re:.*\.(q|k)_proj$",
        rb"^(?!x)[a-c_\d]{1,3}",
        rb"(a|b)+?[!a-z]?(?:c)*",
        rb"blk\.[0-9]+\.",
    )
    name = "model.layers.10.self_attn.q_proj"

    def read(data: bytes) -> object:
        text = data.decode("utf-8", "replace")
        found = compile_glob(text[:MAX_GLOB_LENGTH])(name)  # recipes have no longer ones
        with suppress(PatternError):
            compile_search(text)(name)
        return (found, matches(f"re:{text}", name))

    return m.text_of(*seeds), read


# --- what quantkit wrote, and others may have changed -----------------------------------------------------------------

FILE = {"name": "m.gguf", "bytes": 96, "sha256": "ab" * 32}
MANIFEST: dict[str, Any] = {
    "schema": "quantkit.manifest/1",
    "identity": "0" * 64,
    "plan_digest": "1" * 64,
    "recipe": {"name": "q8_0"},
    "source": {
        "kind": "hf",
        "name": "m",
        "repo": None,
        "commit": None,
        "files": [{**FILE, "name": "model.safetensors"}],
    },
    "artifact": [FILE],
    "tokenizer_sha256": "2" * 64,
    "tool": {"name": "quantkit", "version": "0.1.0", "numerics": 1},
    "model": {"family": "llama", "architecture": "LlamaForCausalLM"},
    "size": {
        "bytes": 96,
        "code_bytes": 64,
        "scale_bytes": 4,
        "header_bytes": 28,
        "padding_bytes": 0,
        "weights": 64,
        "bits_per_weight": 8.5,
        "source_bytes": 200,
        "ratio": 0.5,
        "types": [{"type": "q8_0", "tensors": 1, "weights": 64, "bytes": 68, "code_bytes": 64, "scale_bytes": 4}],
    },
    "checks": [{"check": "structure", "ok": True, "detail": "", "tensors": 1}],
    "warnings": [],
    "platform": "Linux x86_64",
    "versions": {"python": "3.11.7"},
    "timings": {"quantize_seconds": 3.123},
    "tensors": [
        {"name": "a", "type": "q8_0", "shape": [2, 32], "file": 0, "offset": 0, "bytes": 68, "sha256": "3" * 64}
    ],
}
LONG_MANIFEST = {
    **MANIFEST,
    "warnings": [{"code": "links", "message": "a file"}],
    "method": {"name": "gptq", "transform": "awq", "alpha": 0.5, "damping": 0.01, "order": "act", "passes": 1},
    "calibration": {"samples": 2, "data": [{"name": "x"}]},
    "layers": [{"name": "a", "error": 0.5}],
    "own_seal": "5" * 64,
    "seal": "4" * 64,
}


def manifest(folder: Path) -> tuple[m.Mutator, Read]:
    def read(path: Path) -> object:
        found = read_manifest(path)
        for file in found.artifact:  # in its folder, or in one of the folders in there
            parts = file.name.split("/")
            assert len(parts) < 3 and not {"", ".", ".."} & set(parts), f"the artifact is to lie at {file.name!r}"
        return (found.encode(), found.sealed, found.made_with(b"key"))

    return m.json_of(MANIFEST, LONG_MANIFEST), on_disk(folder, "m.manifest.json", read)


def draft(folder: Path) -> tuple[m.Mutator, Read]:
    """The manifest of an artifact that is not published yet, as a job keeps it."""
    unhashed = [{**tensor, "sha256": ""} for tensor in MANIFEST["tensors"]]
    trees = [{**one, "artifact": [], "tensors": unhashed} for one in (MANIFEST, LONG_MANIFEST)]

    def read(data: bytes) -> object:
        found = parse_json_object(data, Path("draft"))
        return parse_manifest(found, Path("draft"), draft=True).encode()

    return m.json_of(*trees), read


def verified(folder: Path) -> tuple[m.Mutator, Read]:
    """`quantkit verify` of a sound file beside a damaged manifest, with a seal that is right more often than not."""
    artifact = folder / "m.gguf"
    artifact.write_bytes(encode_imatrix_gguf(_imatrix()))
    tensors = [
        {"name": t.name, "type": t.qtype, "shape": list(t.shape), "file": 0, "offset": t.offset, "bytes": t.nbytes,
         "sha256": hashlib.sha256(artifact.read_bytes()[t.offset : t.offset + t.nbytes]).hexdigest()}
        for t in read_gguf(artifact).tensors
    ]  # fmt: skip
    whole = artifact.read_bytes()
    file = {"name": "m.gguf", "bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    bodies = [{**one, "artifact": [file], "tensors": tensors} for one in (MANIFEST, LONG_MANIFEST)]

    def mutate(rng: Any) -> bytes:
        body = m.changed(rng.choice(bodies), rng)
        if isinstance(body, dict) and rng.random() < 0.7:
            body.pop("seal", None)
            with suppress(QuantkitError, ValueError, OverflowError):
                body = json.loads(json.dumps(body).encode())
                body["seal"] = seal(body)
        return m.spelled(body, rng)

    def look(path: Path) -> object:
        return dump_json([vars(check) for check in verify(artifact).checks])

    return mutate, on_disk(folder, "m.manifest.json", look)


def record(folder: Path) -> tuple[m.Mutator, Read]:
    coverage = {
        "samples": 2,
        "tokens": 32,
        "unique_percent": 100.0,
        "experts": 0,
        "expert_percent": 100.0,
        "rare": ["a"],
    }
    seed = {
        "schema": "quantkit.calibration/1",
        "identity": "0" * 64,
        "plan_digest": "1" * 64,
        "file": {**FILE, "name": "s.qkc"},
        "source": {"kind": "hf", "name": "m", "repo": None, "commit": None, "files": [FILE]},
        "kind": "statistics",
        "data": {"samples": 2, "files": [{"name": "x"}]},
        "coverage": coverage,
        "warnings": [{"code": "a", "message": "b"}],
        "timings": {"total_s": 0.5},
        "own_seal": "5" * 64,
        "seal": "4" * 64,
    }

    def look(path: Path) -> object:
        found = read_record(path)
        return (found.encode(b"key"), found.made_with(b"key"))

    return m.json_of(seed), on_disk(folder, "s.manifest.json", look)


def sums(folder: Path) -> tuple[m.Mutator, Read]:
    seed = (
        b"".join(b"%s  %s\n" % (b"ab" * 32, name) for name in (b"a.gguf", b"b c", b"\xff"))
        + b"\\"
        + b"cd" * 32
        + b"  a\\nb\n"
    )
    return m.text_of(seed), on_disk(folder, "SHA256SUMS", lambda path: read_sums(path.parent))


def journals(folder: Path) -> tuple[m.Mutator, Read]:
    files = [journal.PartFile("m.gguf", 4096), journal.PartFile("b", 10)]
    lines = [
        journal.header_line("d" * 64, files),
        journal.record_line(journal.Record("a", 0, 0, 128, "ab" * 32, {"db": 1.5})),
        journal.record_line(journal.Record("b", 1, 0, 10, "cd" * 32)),
        journal.move_line(journal.Move(0, "m.gguf", "ab" * 32)),
    ]
    trees = [json.loads(line) for line in lines[1:]]

    def mutate(rng: Any) -> bytes:
        if rng.random() < 0.3:
            return m.damaged(b"".join(lines), rng)
        entry = m.changed(rng.choice(trees), rng)
        if not isinstance(entry, dict):
            return lines[0] + m.spelled(entry, rng)
        entry.pop("crc32", None)
        try:  # a checksum that is right: what lies behind it is looked at
            return lines[0] + journal._line(entry, b"")
        except (TypeError, ValueError, UnicodeEncodeError):
            return lines[0] + m.spelled(entry, rng)

    def read(data: bytes) -> object:
        found = journal.replay(data, "d" * 64, files)
        for one in found.records.values() if found else ():
            assert journal.inside(one, files)
        return found

    return mutate, read


# --- importance and calibration ---------------------------------------------------------------------------------------


def _imatrix() -> Imatrix:
    entries = {f"blk.0.{n}.weight": Entry(np.ones((1, 8), np.float32), np.array([4])) for n in ("attn_q", "ffn_up")}
    entries["blk.0.ffn_up_exps.weight"] = Entry(np.ones((2, 8), np.float32), np.array([4, 0]))
    return Imatrix("i.gguf", entries, 3, 512, ("text",), "")


def imatrix(legacy: bool) -> Make:
    def make(folder: Path) -> tuple[m.Mutator, Read]:
        whole = _imatrix()
        raw = encode_imatrix_legacy(whole) if legacy else encode_imatrix_gguf(whole)

        def read(path: Path) -> object:
            found = read_imatrix(path)
            for entry in found.entries.values():
                with np.errstate(all="ignore"):
                    entry.importance()
            shapes = {name: (len(entry.sums), 1, entry.sums.shape[1]) for name, entry in found.entries.items()}
            match_importance(found, shapes, set(shapes))
            return found.provenance()

        entries: list[tuple[bytes, int, Any]] = [
            (b"general.type", 8, b"imatrix"),
            (b"imatrix.datasets", 9, (8, [b"text"])),
            (b"imatrix.chunk_count", 4, 3),
            (b"imatrix.chunk_size", 4, 512),
        ]
        tensors = [
            (b"a.in_sum2", [8], 0, 32),
            (b"a.counts", [1], 0, 4),
            (b"b.in_sum2", [8, 2], 0, 64),
            (b"b.counts", [1, 2], 0, 8),
        ]
        built, plain = m.gguf_of(entries, tensors), m.bytes_of(raw)
        mutate: m.Mutator = plain if legacy else lambda rng: (plain if rng.random() < 0.4 else built)(rng)
        return mutate, on_disk(folder, "i.gguf", read)

    return make


def statistics(folder: Path) -> tuple[m.Mutator, Read]:
    import torch

    from quantkit.calibration.statistics.file import encode_statistics, open_statistics
    from quantkit.calibration.statistics.sums import Gram, Linear, Part, Site, Statistics, Sums
    from quantkit.calibration.text.samples import DataRecord
    from quantkit.families.model import Rows

    record = DataRecord("d", "ab" * 32, 0, 16, 9, 3, 0, 50, 32, "cd" * 32, 0, 1, False, False, (2, 5))
    ones = torch.ones(4, dtype=torch.float64)
    part = Part(record.digest, 0, 2, Sums(32, ones, ones, ones.float(), Gram((torch.ones(4, 4),))))
    names = ("q", "k")
    site = Site("q", names, 4)
    linears = {name: Linear(name, Rows(f"{name}.weight", 0, 3), 3, 4) for name in names}
    whole = Statistics("m" * 64, {"q": site}, linears, {"q": (part,)}, {record.digest: record})
    raw = b"".join(encode_statistics(whole).pieces)
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["statistics"])
    outer = m.safetensors_of(header, raw[8 + length :])

    def mutate(rng: Any) -> bytes:
        if rng.random() < 0.2:
            return outer(rng)
        text = m.spelled(m.changed(facts, rng), rng).decode("utf-8", "replace")
        inner = copy.deepcopy(header)
        inner["__metadata__"]["statistics"] = text
        head = json.dumps(inner).encode()
        return len(head).to_bytes(8, "little") + head + raw[8 + length :]

    def read(path: Path) -> object:
        with closing(open_statistics(path)) as file:
            return file.read()

    return mutate, on_disk(folder, "s.qkc", read)


def texts(suffix: str) -> Make:
    def make(folder: Path) -> tuple[m.Mutator, Read]:
        from quantkit.calibration.text.data import load_texts

        rows = [{"text": "hello é"}, {"messages": [{"role": "user", "content": "x"}]}, {"text": ""}]
        path = folder / f"d{suffix}"
        read = on_disk(folder, path.name, lambda found: load_texts(str(found)))
        if suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": ["hello", "world" * 50], "n": [1, 2]}), path)
            return m.bytes_of(path.read_bytes()), read
        if suffix == ".jsonl":
            trees = m.json_of(*rows)
            return lambda rng: b"\n".join(trees(rng) for _ in range(rng.randrange(1, 4))), read
        if suffix == ".json":
            return m.json_of(rows), read
        return m.text_of(b'text,n\nhello,1\n"a, b",2\n'), read

    return make


READERS = (
    Reader("safetensors", safetensors, 2),
    Reader("shard-index", shard_index),
    Reader("gguf", gguf, 2),
    Reader("config", config, 2),
    Reader("tensor-names", tensor_names),
    Reader("tokenizer-json", tokenizer_files(tokenizer__json=_bpe(), tokenizer_config__json=SETTINGS)),
    Reader("tokenizer-json-spm", tokenizer_files(tokenizer__json=_pieces())),
    Reader("tokenizer-config", tokenizer_files(tokenizer_config__json=SETTINGS, tokenizer__json=_bpe())),
    Reader(
        "special-tokens-map",
        tokenizer_files(
            special_tokens_map__json={k: SETTINGS[k] for k in ("bos_token", "eos_token", "additional_special_tokens")},
            tokenizer__json=_bpe(),
            tokenizer_config__json=SETTINGS,
        ),
    ),
    Reader(
        "added-tokens",
        tokenizer_files(
            added_tokens__json={"<x>": 260, "<|end|>": 259}, tokenizer__json=_bpe(), tokenizer_config__json=SETTINGS
        ),
    ),
    Reader(
        "vocab-json",
        tokenizer_files(
            vocab__json=_slow()["vocab"],
            merges__txt=_slow()["merges"].encode(),
            tokenizer_config__json={**SETTINGS, "tokenizer_class": "Qwen2Tokenizer"},
        ),
    ),
    Reader(
        "merges-txt",
        tokenizer_files(
            merges__txt=_slow()["merges"].encode(),
            vocab__json=_slow()["vocab"],
            tokenizer_config__json={**SETTINGS, "tokenizer_class": "Qwen2Tokenizer"},
        ),
    ),
    Reader("tekken", tokenizer_files(tekken__json=_tekken())),
    Reader("tokenizer-model", sentencepiece),
    Reader("template", template),
    Reader("template-process", rendered),
    Reader("model-card", card),
    Reader("generation-config", generation),
    Reader("quantization-config", quantization, 2),
    Reader("recipe", recipe(RECIPE)),
    Reader("recipe-server", recipe(SERVER_RECIPE)),
    Reader("patterns", patterns),
    Reader("manifest", manifest),
    Reader("manifest-draft", draft),
    Reader("manifest-verified", verified),
    Reader("calibration-record", record),
    Reader("sums", sums),
    Reader("journal", journals),
    Reader("imatrix", imatrix(False)),
    Reader("imatrix-legacy", imatrix(True)),
    Reader("statistics", statistics),
    Reader("texts-jsonl", texts(".jsonl")),
    Reader("texts-json", texts(".json")),
    Reader("texts-csv", texts(".csv")),
    Reader("texts-parquet", texts(".parquet"), 0.3),
    Reader("params-json", params),
    Reader("folder", folders(llama(CONFIG, _bpe(), SETTINGS))),
    Reader("folder-mistral", folders(mistral(CONFIG, _tekken()))),
    Reader("folder-quantized", folders(*(quantized(CONFIG, _bpe(), method) for method in METHODS))),
    Reader("gguf-source", gguf_source),
    Reader("hub", hub(None)),
    Reader("hub-gguf", hub("model-q4.gguf")),
    Reader("hub-headers", hub(None, headers=True)),
)
