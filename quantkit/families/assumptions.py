"""What llama.cpp takes for granted of an architecture, because GGUF has no key for it.

A checkpoint that says otherwise becomes a file that loads and computes something else. Each function looks at the
numbers of a checkpoint and returns what will differ, or None. Facts from llama.cpp's `src/models/*.cpp` and
`src/llama-context.cpp` (October 2026); defaults from transformers 5.23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from quantkit.families.hparams import MAX_NUMBER, Hparams
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

Assumption = Callable[[Hparams], str | None]

PHI3_NAMES = ("phi-3", "phi3")  # in general.name, in any case
PHI3_TOKENS = ("</s>", "<unk>", "<s>", "<|endoftext|>")  # llama.cpp looks these up then, and fails without
MODERN_BERT = "modern-bert"
RENAME = "the name is the model card's, else `_name_or_path` of config.json, else the folder's"

CODE = "engine-differs"
GELU = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_python", "gelu_fast")
ROPE_BASE = 10000.0  # rope_freq_base_train of llama_hparams, where the file has no key
STRETCHED = frozenset({"linear", "yarn", "llama3"})  # kinds of rope scaling with a factor
GEMMA2_27B_LAYERS, GEMMA3_27B_LAYERS = 46, 62  # the sizes whose attention llama.cpp scales by hidden / heads


def engine_warnings(assumptions: Iterable[Assumption], hparams: Hparams) -> tuple[tuple[str, str], ...]:
    """A warning for each assumption that the checkpoint does not meet."""
    found = (assumption(hparams) for assumption in assumptions)
    return tuple((CODE, f"llama.cpp will compute something else: {what}") for what in found if what)


def rotation_warnings(hparams: Hparams, written: Sequence[KeyValue], *, factors: bool) -> tuple[tuple[str, str], ...]:
    """A warning for a base or a stretching of rotary positions that the file cannot say.

    `written` are the keys of the architecture, `factors` says that a tensor holds factors of frequencies. For a family
    that rotates: without a key llama.cpp takes a base of 10,000 and stretches nothing.
    """
    said = {kv.key.partition(".")[2]: kv.value for kv in written}
    found = []
    base, kind = _number(hparams, "rope_theta"), hparams.values.get("rope_type")
    if base not in (None, ROPE_BASE) and "rope.freq_base" not in said:
        found.append(f"rope_theta is {base:g}, it takes {ROPE_BASE:g}")
    stretches = kind in {"longrope", "su"} or (kind in STRETCHED and _number(hparams, "rope_factor") not in (None, 1.0))
    if stretches and not factors and said.get("rope.scaling.type", "none") == "none":
        found.append(f"rope scaling is {kind}, it does not scale positions")
    return tuple((CODE, f"llama.cpp will compute something else: {what}") for what in found)


def name_warnings(architecture: str, metadata: Sequence[KeyValue]) -> tuple[tuple[str, str], ...]:
    """What llama.cpp derives from `general.name` (the end of llama_vocab::impl::load): flags of special tokens.

    `architecture` is that of the file, `metadata` its general and tokenizer entries.
    """
    values = {entry.key: entry.value for entry in metadata}
    name, tokens = str(values.get("general.name", "")), values.get("tokenizer.ggml.tokens")
    texts = frozenset(map(str, tokens)) if isinstance(tokens, Sequence) and not isinstance(tokens, str) else frozenset()
    lower = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)  # as the C library does
    if any(part in lower for part in PHI3_NAMES):
        missing = [token for token in PHI3_TOKENS if token not in texts]
        if missing:
            what = f"llama.cpp takes it for a Phi-3 and cannot load the file, which lacks {', '.join(missing)}"
            return ((CODE, f'the name is "{shown(name)}": {what}; {RENAME}'),)
        if architecture != "phi3":
            what = "llama.cpp drops the spaces after special tokens, as for Phi-3"
            return ((CODE, f'the name is "{shown(name)}": {what}; {RENAME}'),)
    elif MODERN_BERT in lower and "[MASK]" in texts:
        return ((CODE, f'the name is "{shown(name)}": llama.cpp drops the spaces before "[MASK]"; {RENAME}'),)
    return ()


def activation(key: str, *known: str) -> Assumption:
    """A nonlinearity, which config.json names under `key`, is the first of `known`; the others are the same."""
    return lambda hparams: _activation(hparams, key, known)


def silu(hparams: Hparams) -> str | None:
    """Gated MLPs use SiLU."""
    return _activation(hparams, "hidden_act", ("silu", "swish"))


def gelu_tanh(hparams: Hparams) -> str | None:
    """Gated MLPs use the tanh approximation of GELU."""
    return _activation(hparams, "hidden_activation", ("gelu_pytorch_tanh", "gelu_new"))


def gelu(hparams: Hparams) -> str | None:
    """MLPs without a gate use GELU, in either form."""
    return _activation(hparams, "hidden_act", GELU)


def _activation(hparams: Hparams, key: str, known: tuple[str, ...]) -> str | None:
    said = hparams.values.get(key)
    return None if said is None or said in known else f'{key} is "{shown(str(said))}", it computes {known[0]}'


def no_window(hparams: Hparams) -> str | None:
    """All layers attend to the whole context."""
    window, context = _number(hparams, "sliding_window"), _number(hparams, "max_position_embeddings")
    if window is None or (context is not None and window >= context):
        return None
    return f"it ignores sliding_window {window:.0f}, so contexts longer than that differ"


def no_switched_window(hparams: Hparams) -> str | None:
    """The same, for configurations where `use_sliding_window` switches the window on."""
    return no_window(hparams) if hparams.flag("use_sliding_window") else None


def windows_every(pattern: int) -> Assumption:
    """Of `pattern` consecutive layers the last one attends to everything, the others to a window."""

    def check(hparams: Hparams) -> str | None:
        layers = hparams.values.get("layer_types")
        own = hparams.values.get("sliding_window_pattern")
        if isinstance(layers, list):
            expected = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(len(layers))]
            return None if layers == expected else f"layer_types are not those of a window pattern of {pattern}"
        if own in (None, 1, pattern):  # 1: no window at all, and no key for one
            return None
        return f"sliding_window_pattern is {shown(str(own))}, it takes {pattern}"

    return check


def attention_scaled_by_head(layers_of_largest: int) -> Assumption:
    """Attention is scaled by the dimensions of a head; in the largest model by hidden size / heads."""

    def check(hparams: Hparams) -> str | None:
        said = _number(hparams, "query_pre_attn_scalar")
        scale = 256.0 if said is None else said
        largest = hparams.count("num_hidden_layers") == layers_of_largest
        hidden, heads = hparams.count("hidden_size"), hparams.count("num_attention_heads")
        taken = hidden // heads if largest else hparams.count("head")
        return None if scale == taken else f"query_pre_attn_scalar is {scale:g}, it scales by {taken}"

    return check


def no_attention_softcap(hparams: Hparams) -> str | None:
    """Attention scores are not capped."""
    cap = _number(hparams, "attn_logit_softcapping")
    return None if cap is None else f"it ignores attn_logit_softcapping {cap:g}"


def plain_router(hparams: Hparams) -> str | None:
    """The weights of the chosen experts are taken as they come, and add up to less than 1."""
    return "norm_topk_prob is true, it does not normalize" if hparams.flag("norm_topk_prob") else None


def normalized_router(hparams: Hparams) -> str | None:
    """The weights of the chosen experts add up to 1. transformers' default for Qwen3-MoE is that they do not."""
    return None if hparams.flag("norm_topk_prob") else "norm_topk_prob is false, it normalizes"


def yarn_temperature(hparams: Hparams) -> str | None:
    """yarn scales attention by 1 + ln(factor) / 10, whatever rope.scaling.yarn_attn_factor says."""
    factor, given = _number(hparams, "rope_factor"), _number(hparams, "rope_temperature")
    if hparams.values.get("rope_type") != "yarn" or factor is None or given is None:
        return None
    taken = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
    same = math.isclose(given, taken, rel_tol=1e-3)
    return None if same else f"attention_factor of yarn is {given:g}, it takes {taken:.4g}"


def _number(hparams: Hparams, key: str) -> float | None:
    """A number, or None for anything else: what has no key in the file may be odd without being refused."""
    value = hparams.values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_NUMBER:
        return None
    return float(value)
