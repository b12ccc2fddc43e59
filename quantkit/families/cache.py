"""What a model keeps of every token it has read: keys and values, layer by layer, from the numbers of its config.json.

Not every layer keeps the same. With grouped queries (GQA) there are fewer heads of keys than of queries; a layer with a
window forgets what lies before it; latent attention (MLA) keeps one short row in the place of all heads; linear
attention, convolutions and Mamba keep a state that does not grow; and the last layers of some models read the cache of
earlier ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.records import record
from quantkit.units import counted

# Of so many consecutive layers the last one attends to everything, where config.json does not list the layers
# (modeling_*.py of transformers 5; windows_every in families.assumptions says what llama.cpp takes for granted).
FULL_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "exaone4": 4, "olmo3": 4, "gpt-oss": 2}
WINDOWED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
GROWING = {"full_attention", "attention", "hybrid", "parallel"}
STEADY = {"linear_attention", "conv", "mamba", "mamba2", "recurrent", "recurrent_gemma", "ssm", "moe", "mlp"}
LISTS = ("layer_types", "layers_block_type")
PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")


@record
class LayerCache:
    """What a layer keeps of a token: rows of numbers, each as (how many, how long); of the last `window` tokens, None:
    of all."""

    rows: tuple[tuple[int, int], ...]
    window: int | None = None


@record
class Cache:
    """What every layer keeps, those without a growing cache left out. `steady` counts the layers that keep a state of
    fixed size, `shared` those that read another layer's cache, `guessed` says that it is an upper bound."""

    layers: tuple[LayerCache, ...]
    steady: int = 0
    shared: int = 0
    guessed: bool = False

    @property
    def words(self) -> str:
        """ "6 layers of 8 x 128 keys and values, 30 of a window of 1,024"."""
        told = []
        for (rows, window), count in Counter((layer.rows, layer.window) for layer in self.layers).items():
            said = " and ".join(f"{many} x {length}" for many, length in rows)
            if len(rows) == 1:
                said = f"one latent row of {rows[0][1]}" if rows[0][0] == 1 else said
            elif len(set(rows)) == 1:
                said = f"{rows[0][0]} x {rows[0][1]} keys and values"
            told.append(f"{counted(count, 'layer')} of {said}" + (f", a window of {window:,}" if window else ""))
        told += [f"{self.steady} layers with a state of fixed size (not counted)"] if self.steady else []
        told += [f"{self.shared} layers that read another's"] if self.shared else []
        return "; ".join(told)


def plain_cache(layers: int, kv_heads: int, head_dim: int) -> Cache:
    """The cache of a model all of whose layers keep everything."""
    return Cache((LayerCache(((kv_heads, head_dim),) * 2),) * layers, guessed=True)


def read_cache(values: Mapping[str, Any], model_type: str) -> Cache:
    """The cache that the numbers of a configuration mean, defaults filled in; `head` is the length of a head."""
    count, heads = _count(values, "num_hidden_layers"), _count(values, "num_key_value_heads")
    head = _count(values, "head") or _count(values, "head_dim")
    latent, rope = _count(values, "kv_lora_rank"), _count(values, "qk_rope_head_dim")
    rows: tuple[tuple[int, int], ...] = ((heads, head), (heads, head))
    if latent:
        index = _count(values, "index_head_dim")  # of the indexer that chooses what is attended to
        rows = ((1, latent + rope), *([(1, index)] if index else []))
    kinds = _kinds(values, model_type, count)
    shared = min(_count(values, "num_kv_shared_layers"), count)
    found, steady = [], 0
    for kind in kinds[: count - shared]:
        if kind in STEADY:
            steady += 1
            continue
        window = _count(values, WINDOWED[kind]) if kind in WINDOWED else 0
        found.append(LayerCache(rows if window or latent else _global(values, rows), window or None))
    return Cache(tuple(found), steady, shared)


def _global(values: Mapping[str, Any], rows: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """The rows of a layer that attends to everything, where those have heads of their own (Gemma 4)."""
    heads = _count(values, "num_global_key_value_heads") or rows[0][0]
    head = _count(values, "global_head_dim") or rows[0][1]
    return ((heads, head), (heads, head))


def _kinds(values: Mapping[str, Any], model_type: str, count: int) -> Sequence[str]:
    """How each layer attends: a list of the configuration, or what its numbers say."""
    for name in LISTS:
        said = values.get(name)
        if isinstance(said, list) and len(said) >= count:
            return [kind if kind in WINDOWED or kind in STEADY else "full_attention" for kind in map(str, said[:count])]
    if values.get("use_sliding_window") is False:
        return ["full_attention"] * count
    every = next((_count(values, name) for name in PATTERNS if _count(values, name)), FULL_EVERY.get(model_type, 0))
    if every:
        return ["full_attention" if (n + 1) % every == 0 else "sliding_attention" for n in range(count)]
    every = _count(values, "full_attention_interval")
    if every:
        return ["full_attention" if (n + 1) % every == 0 else "linear_attention" for n in range(count)]
    period, offset = _count(values, "attn_layer_period"), _count(values, "attn_layer_offset")
    if period:
        return ["full_attention" if n % period == offset else "mamba" for n in range(count)]
    chosen = next((values[name] for name in ("full_attn_idxs", "attn_layer_indices") if name in values), None)
    if isinstance(chosen, list):
        return ["full_attention" if n in chosen else "conv" for n in range(count)]
    return ["full_attention"] * count  # a window for all layers, as Mistral's first: llama.cpp keeps everything


def _count(values: Mapping[str, Any], key: str) -> int:
    """A count of the configuration, 0 where there is none."""
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
