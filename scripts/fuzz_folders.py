"""Whole models through the command that plans, in this process: folders with several damaged files, GGUF files.

An input holds the damaged files alone, as texts (bytes as Latin-1); the other files of the folder are sound. What the
command prints, and what it would print with --json, is made too.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fuzz_mutators as m
from fuzz_children import forked

import quantkit
from quantkit.cli.commands.plan import Show, show_plan
from quantkit.cli.redaction import printable
from quantkit.events import Event, Warned
from quantkit.jsontext import dump_json
from quantkit.tokenizer import native, native_process

Mutators = Mapping[str, m.Mutator]
Read = Callable[[bytes], object]
RECIPES = ("q4_k_m", "w4a16", "q8_0,hf-f16", "fp8", "nf4", "hf-bf16,f16")
GGUF_RECIPES = ("q4_k_m", "q8_0,f16", "iq4_xs")

PARAMS = {
    "dim": 64, "n_layers": 1, "head_dim": 32, "hidden_dim": 96, "n_heads": 2, "n_kv_heads": 1, "norm_eps": 1e-5,
    "vocab_size": 260, "rope_theta": 1e4, "max_seq_len": 128, "sliding_window": 64, "tied_embeddings": False,
    "moe": {"num_experts": 2, "num_experts_per_tok": 1}, "model_type": "transformer", "max_batch_size": 1,
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 64, "beta": 32.0, "alpha": 1.0},
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A checkpoint folder: files as they should be, and how to damage them.

    Of files of weights `files` and what `damage` makes are the headers alone; `weights` is what follows.
    """

    files: Mapping[str, bytes]
    damage: Mutators
    weights: Mapping[str, bytes]


def llama(config: dict[str, Any], tokenizer: dict[str, Any], settings: dict[str, Any]) -> Model:
    """A tiny Llama in two shards. `tokenizer` and `settings` are its tokenizer.json and tokenizer_config.json."""
    config = {**config, **SMALL, "vocab_size": 261}
    shapes = llama_shapes(config)
    names = list(shapes)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    index = {"metadata": {"total_size": 2 * sum(map(prod, shapes.values()))},
             "weight_map": {name: file for file, part in parts.items() for name in part}}  # fmt: skip
    special = {"bos_token": "<|end|>", "eos_token": {"content": "<x>"}}
    trees = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
        "special_tokens_map.json": special,
        "generation_config.json": {"temperature": 0.6, "eos_token_id": [1, 2]},
        "model.safetensors.index.json": index,
        "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_cls_token": True},
    }
    texts = {
        "additional_chat_templates/rag.jinja": b"{% for m in messages %}{{ m.role }}{% endfor %}",
        "chat_template.jinja": b"{% for m in messages %}{{ m.content }}{% endfor %}",
        "README.md": b"---\nlicense: mit\nbase_model: a/b\n---\n# x\n",
    }
    weights = {file: {name: plain(shapes[name]) for name in part} for file, part in parts.items()}
    return _model(trees, texts, weights)


def quantized(config: dict[str, Any], tokenizer: dict[str, Any], method: str) -> Model:
    """A tiny Llama whose linear layers are stored as a library for servers stores them."""
    config = {**config, **SMALL, "vocab_size": 261}
    tensors: dict[str, Stored] = {}
    for name, shape in llama_shapes(config).items():
        stem = name.removesuffix(".weight")
        parts = STORED[method](*shape) if "_proj" in name else {"weight": plain(shape)}
        tensors |= {f"{stem}.{part}": stored for part, stored in parts.items()}
    trees = {"config.json": {**config, "quantization_config": METHODS[method]}, "tokenizer.json": tokenizer}
    return _model(trees, {}, {"model.safetensors": tensors})


def plain(shape: tuple[int, ...]) -> Stored:
    return ("BF16", shape, None)


STORED: dict[str, Callable[[int, int], dict[str, Stored]]] = {
    "gptq": lambda out, of: {
        "qweight": ("I32", (of // 8, out), None), "qzeros": ("I32", (of // 32, out // 8), None),
        "scales": ("F16", (of // 32, out), None),
        "g_idx": ("I32", (of,), struct.pack(f"<{of}i", *(n // 32 for n in range(of)))),
    },
    "awq": lambda out, of: {
        "qweight": ("I32", (of, out // 8), None), "qzeros": ("I32", (of // 32, out // 8), None),
        "scales": ("F16", (of // 32, out), None),
    },
    "compressed-tensors": lambda out, of: {
        "weight_packed": ("I32", (out, of // 8), None), "weight_scale": ("BF16", (out, of // 32), None),
        "weight_shape": ("I64", (2,), struct.pack("<2q", out, of)),
    },
    "fp8": lambda out, of: {
        "weight": ("F8_E4M3", (out, of), None), "weight_scale_inv": ("F32", (-(-out // 128), -(-of // 128)), None),
    },
}  # fmt: skip
WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
METHODS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
    "compressed-tensors": {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": None}},
    },
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3", "activation_scheme": "dynamic"},
}  # fmt: skip


def mistral(config: dict[str, Any], tokenizer: dict[str, Any]) -> Model:
    """A tiny Mixtral in Mistral's own layout. `tokenizer` is its tekken.json."""
    experts = {f"feed_forward.experts.{n}.{w}": size for n in (0, 1) for w, size in
               (("w1", (96, 64)), ("w2", (64, 96)), ("w3", (96, 64)))}  # fmt: skip
    block = {"attention.wq": (64, 64), "attention.wk": (32, 64), "attention.wv": (32, 64), "attention.wo": (64, 64),
             "attention_norm": (64,), "ffn_norm": (64,), "feed_forward.gate": (2, 64), **experts}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (260, 64),
        **{f"layers.0.{name}.weight": size for name, size in block.items()},
        "norm.weight": (64,),
        "output.weight": (260, 64),
    }
    trees = {"params.json": PARAMS, "tekken.json": tokenizer, "config.json": config}
    return _model(trees, {}, {"consolidated.safetensors": {name: plain(shape) for name, shape in shapes.items()}})


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 32,
    "num_key_value_heads": 1, "tie_word_embeddings": True,
}  # fmt: skip


def llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, ffn, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    block = {
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    blocks = {f"model.layers.0.{name}.weight": size for name, size in block.items()}
    return {"model.embed_tokens.weight": (config["vocab_size"], hidden), **blocks, "model.norm.weight": (hidden,)}


Stored = tuple[str, tuple[int, ...], bytes | None]  # dtype, shape, data (None: zeros)
ITEMSIZE = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8, "U8": 1, "F8_E4M3": 1}


def _model(trees: Mapping[str, Any], texts: Mapping[str, bytes], weights: Mapping[str, Mapping[str, Stored]]) -> Model:
    damage: dict[str, m.Mutator] = {name: tree_of(tree) for name, tree in trees.items()}
    damage |= {name: m.text_of(text) for name, text in texts.items()}
    files = {**{name: json.dumps(tree).encode() for name, tree in trees.items()}, **texts}
    data = {}
    for name, tensors in weights.items():
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data[name] = b""
        for tensor, (dtype, shape, values) in tensors.items():
            start = len(data[name])
            data[name] += bytes(prod(shape) * ITEMSIZE[dtype]) if values is None else values
            header[tensor] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, len(data[name])]}
        files[name] = _with_length(json.dumps(header).encode())
        damage[name] = header_of(header)
    return Model(files, damage, data)


def _with_length(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def tree_of(tree: Any) -> m.Mutator:
    """A damaged JSON tree that most often still is JSON: of several damaged files one would hide the others."""
    return lambda rng: (m.spelled if rng.random() < 0.1 else _dumped)(m.changed(tree, rng), rng)


def _dumped(tree: Any, _: random.Random) -> bytes:
    return json.dumps(tree).encode()


def header_of(header: dict[str, Any]) -> m.Mutator:
    """A damaged header of a safetensors file, with its length."""

    def mutate(rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return _with_length(tree_of(header)(rng))
        name = rng.choice([name for name in header if name != "__metadata__"])  # shape, type and bytes that agree
        start, stop = header[name]["data_offsets"]
        dtype = rng.choice([one for one, size in ITEMSIZE.items() if (stop - start) % size == 0])
        count = (stop - start) // ITEMSIZE[dtype]
        rows = rng.choice([n for n in (1, 2, 3, 8, 32, 64, 96) if count % n == 0])
        shape = rng.choice(([count], [rows, count // rows], [count // rows, rows], [1, rows, count // rows]))
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
        return _with_length(m.spelled({**header, name: entry}, rng))

    return mutate


def folders(*models: Model) -> Callable[[Path], tuple[m.Mutator, Read]]:
    """Two to four files of one of the models damaged, now and then one gone; then planned.

    An input is a JSON object: which model, damaged files, files that are gone, bytes of weights, and recipes.
    """

    def mutate(rng: random.Random) -> bytes:
        number = rng.randrange(len(models))
        model = models[number]
        chosen = rng.sample(list(model.damage), min(rng.choice((2, 2, 3, 4)), len(model.damage)))
        work = {
            "model": number,
            "files": {name: model.damage[name](rng).decode("latin-1") for name in chosen},
            "gone": [name for name in model.files if rng.random() < 0.01],
            "bytes": {n: rng.randrange(len(data)) for n, data in model.weights.items() if rng.random() < 0.03},
            "recipe": rng.choice(RECIPES),
        }
        return json.dumps(work).encode()

    def make(folder: Path) -> tuple[m.Mutator, Read]:
        sources = [folder / f"model-{number}" for number in range(len(models))]
        changed = {number: set(model.files) for number, model in enumerate(models)}
        for source, model in zip(sources, models, strict=True):
            for name in model.files:
                (source / name).parent.mkdir(parents=True, exist_ok=True)

        def read(data: bytes) -> object:
            work = json.loads(data)
            number = work["model"]
            files = {name: text.encode("latin-1") for name, text in work["files"].items()}
            touched = {*files, *work["gone"], *work["bytes"]}
            for name in changed[number] | touched:
                weights = models[number].weights.get(name, b"")[: work["bytes"].get(name)]
                (sources[number] / name).write_bytes(files.get(name, models[number].files[name]) + weights)
            for name in work["gone"]:
                (sources[number] / name).unlink()
            changed[number] = touched
            return planned(sources[number], work["recipe"].split(","), folder)

        return mutate, forked(native, native_process.__file__, read)

    return make


def gguf_model() -> m.Mutator:
    """A tiny Llama as a GGUF file, damaged."""
    tokens = [*(letter.encode() for letter in "abcdefghijkl"), b"ab", b"abc", b"<s>", b"</s>"]
    entries: list[tuple[bytes, int, Any]] = [
        (b"general.architecture", 8, b"llama"),
        (b"general.name", 8, b"tiny"),
        (b"general.file_type", 4, 1),
        (b"llama.block_count", 4, 1),
        (b"llama.context_length", 4, 128),
        (b"llama.embedding_length", 4, 64),
        (b"llama.feed_forward_length", 4, 96),
        (b"llama.attention.head_count", 4, 2),
        (b"llama.attention.head_count_kv", 4, 1),
        (b"llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        (b"llama.rope.dimension_count", 4, 32),
        (b"llama.rope.freq_base", 6, 1e4),
        (b"llama.vocab_size", 4, len(tokens)),
        (b"tokenizer.ggml.model", 8, b"gpt2"),
        (b"tokenizer.ggml.pre", 8, b"qwen2"),
        (b"tokenizer.ggml.tokens", 9, (8, tokens)),
        (b"tokenizer.ggml.token_type", 9, (5, [1] * 14 + [3, 3])),
        (b"tokenizer.ggml.merges", 9, (8, [b"a b", b"ab c"])),
        (b"tokenizer.ggml.bos_token_id", 4, 14),
        (b"tokenizer.ggml.eos_token_id", 4, 15),
        (b"tokenizer.chat_template", 8, b"{{ messages }}"),
    ]
    hidden, ffn = 64, 96
    shapes = {
        "token_embd": [hidden, len(tokens)], "output_norm": [hidden], "blk.0.attn_norm": [hidden],
        "blk.0.ffn_norm": [hidden], "blk.0.attn_q": [hidden, 64], "blk.0.attn_k": [hidden, 32],
        "blk.0.attn_v": [hidden, 32], "blk.0.attn_output": [64, hidden], "blk.0.ffn_gate": [hidden, ffn],
        "blk.0.ffn_up": [hidden, ffn], "blk.0.ffn_down": [ffn, hidden],
    }  # fmt: skip
    tensors = [
        (f"{name}.weight".encode(), shape, int(len(shape) > 1), prod(shape) * (2 if len(shape) > 1 else 4))
        for name, shape in shapes.items()
    ]
    return m.gguf_of(entries, tensors, harm=0.2)


def gguf_source(folder: Path) -> tuple[m.Mutator, Read]:
    """A damaged GGUF file as the source of another."""
    path = folder / "model.gguf"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return planned(path, GGUF_RECIPES[len(data) % len(GGUF_RECIPES)].split(","), folder)

    return gguf_model(), read


def planned(source: Path, recipes: Sequence[str], out: Path) -> object:
    """What `quantkit plan` and `quantkit inspect` make of a folder."""
    session = Session()
    quantkit.inspect(source, emit=session.emit).metadata  # noqa: B018 - made when it is asked for
    request = quantkit.Request(str(source), tuple(recipes), allow_requantize=True)
    show_plan(session, request, out, Show(tensors=True))  # type: ignore[arg-type]
    return session


class Session:
    """A run of a command whose result is made and goes nowhere."""

    settings = SimpleNamespace(json=False)

    def emit(self, event: Event) -> None:
        if isinstance(event, Warned):
            assert event.message.isprintable() and len(event.message) < 10_000, "a warning not fit for a terminal"

    def result(self, schema: str, data: dict[str, Any], lines: Sequence[str]) -> None:
        json.loads(dump_json({"schema": schema, **data}))
        for line in lines:
            printable(line).encode()
