"""Whole folders with several damaged files at once, through the command that plans: `quantkit plan`, in this process.

An input holds the damaged files alone, as a JSON object of names and texts (bytes as Latin-1); the other files of the
folder are sound. What the command prints, and what it would print with --json, is made too.
"""

from __future__ import annotations

import json
import random
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
RECIPES = ("q4_k_m", "w4a16", "q8_0,hf-f16", "fp8", "nf4", "f16")

PARAMS = {
    "dim": 64, "n_layers": 1, "head_dim": 32, "hidden_dim": 96, "n_heads": 2, "n_kv_heads": 1, "norm_eps": 1e-5,
    "vocab_size": 260, "rope_theta": 1e4, "max_seq_len": 128, "sliding_window": 64, "tied_embeddings": False,
    "moe": {"num_experts": 2, "num_experts_per_tok": 1}, "model_type": "transformer", "max_batch_size": 1,
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 64, "beta": 32.0, "alpha": 1.0},
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A checkpoint folder: files as they should be, and how to damage them."""

    files: Mapping[str, bytes]
    damage: Mutators


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
    }
    texts = {
        "chat_template.jinja": b"{% for m in messages %}{{ m.content }}{% endfor %}",
        "README.md": b"---\nlicense: mit\nbase_model: a/b\n---\n# x\n",
    }
    return _model(trees, texts, {file: {name: shapes[name] for name in part} for file, part in parts.items()})


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
    return _model(trees, {}, {"consolidated.safetensors": shapes})


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


def _model(
    trees: Mapping[str, Any], texts: Mapping[str, bytes], weights: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> Model:
    damage: dict[str, m.Mutator] = {name: m.json_of(tree) for name, tree in trees.items()}
    damage |= {name: m.text_of(text) for name, text in texts.items()}
    files = {**{name: json.dumps(tree).encode() for name, tree in trees.items()}, **texts}
    for name, shapes in weights.items():
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor, shape in shapes.items():
            header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + 2 * prod(shape)]}
            offset = header[tensor]["data_offsets"][1]
        raw = json.dumps(header).encode()
        files[name] = len(raw).to_bytes(8, "little") + raw + bytes(offset)
        damage[name] = header_of(header, offset)
    return Model(files, damage)


def header_of(header: dict[str, Any], size: int) -> m.Mutator:
    """A damaged header over zeros, which are not part of the input: the file is as long as it should be."""

    def mutate(rng: random.Random) -> bytes:
        tree = m.changed(header, rng)
        if rng.random() < 0.3:  # a shape and its bytes that agree
            name = rng.choice([name for name in header if name != "__metadata__"])
            shape = [rng.choice((1, 2, 31, 32, 64, 96, 261)) for _ in range(rng.choice((1, 2, 2, 3)))]
            start = rng.randrange(size)
            tree = {**header, name: {"dtype": rng.choice(("BF16", "F32", "F16", "I32", "F8_E4M3", "U8")),
                                     "shape": shape, "data_offsets": [start, start + 2 * prod(shape)]}}  # fmt: skip
        raw = m.spelled(tree, rng)
        return len(raw).to_bytes(8, "little") + raw + b"\0" * (size if rng.random() < 0.9 else rng.randrange(size))

    return mutate


def folders(model: Model) -> Callable[[Path], tuple[m.Mutator, Read]]:
    """Two to four files of a model damaged, now and then one gone; then planned."""

    def make(folder: Path) -> tuple[m.Mutator, Read]:
        source = folder / "model"
        source.mkdir()
        changed = set(model.files)

        def mutate(rng: random.Random) -> bytes:
            chosen = rng.sample(list(model.damage), rng.choice((2, 2, 3, 4)) if len(model.damage) > 4 else 2)
            damaged = {name: model.damage[name](rng).decode("latin-1") for name in chosen}
            # zeros at the end of a file of weights need not be kept
            tails = {name: len(text) for name, text in damaged.items() if name.endswith(".safetensors")}
            gone = [name for name in model.files if rng.random() < 0.01]
            cut = {name: text.rstrip("\0") if name in tails else text for name, text in damaged.items()}
            return json.dumps({"recipe": rng.choice(RECIPES), "files": cut, "lengths": tails, "gone": gone}).encode()

        def read(data: bytes) -> object:
            given = json.loads(data)
            files = {n: t.encode("latin-1").ljust(given["lengths"].get(n, 0), b"\0") for n, t in given["files"].items()}
            for name in changed - files.keys():
                (source / name).write_bytes(model.files[name])
            for name, raw in files.items():
                (source / name).write_bytes(raw)
            for name in given["gone"]:
                (source / name).unlink()
            changed.clear()
            changed.update(files, given["gone"])
            return planned(source, given["recipe"].split(","), folder)

        return mutate, forked(native, native_process.__file__, read)

    return make


def planned(source: Path, recipes: Sequence[str], out: Path) -> object:
    """What `quantkit plan` and `quantkit inspect` make of a folder."""
    session = Session()
    quantkit.inspect(source, emit=session.emit).metadata  # noqa: B018 - made when it is asked for
    show_plan(session, quantkit.Request(str(source), tuple(recipes)), out, Show(tensors=True))  # type: ignore[arg-type]
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
