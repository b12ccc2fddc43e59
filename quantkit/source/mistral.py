"""Mistral's own layout (params.json, consolidated*.safetensors) seen as the layout that transformers saves.

    params.json  {"dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "norm_eps", "vocab_size",
                  "rope_theta", "sliding_window", "max_seq_len", "tied_embeddings", "moe", "yarn", "quantization", ...}
                  and "vision_encoder" where it sees (source/mistral_images)
    weights      tok_embeddings.weight, layers.N.attention.wq.weight, layers.N.feed_forward.w1.weight, ...
                 in FP8 with layers.N.attention.wq.qscale_weight, one scale, and .qscale_act, that of its inputs

Numbers and names are translated once, here; nothing else knows this layout. Rows of queries and keys lie in the order
in which rotation pairs stand side by side, those of transformers with the first of all pairs before the second.
Sources: convert_mistral_weights_to_hf.py of transformers, conversion/mistral.py of the reference converter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.events import Warned
from quantkit.records import record
from quantkit.source import mistral_images
from quantkit.source.base import StoredTensor
from quantkit.source.shards import PARAMS
from quantkit.tensors import U8, TensorInfo
from quantkit.untrusted import listed, shown

TOKENIZER = "tokenizer.model"
TOKENIZERS = frozenset({"tekken.json", "tokenizer.json", TOKENIZER})
VERSIONED = re.compile(r"tokenizer\.model\.v(?P<version>[0-9]{1,3})(m[0-9]{1,3})?")

NEEDED = ("dim", "n_layers", "n_heads", "hidden_dim", "vocab_size")
# called the same in both layouts
LIKE = ("max_position_embeddings", "rope_theta", "vocab_size", "bos_token_id", "eos_token_id")
CONTEXT = 131072  # what transformers takes for a Mistral or Mixtral whose configuration does not say
NAMED = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps", "max_seq_len": "max_position_embeddings", "tied_embeddings": "tie_word_embeddings",
    "activation": "hidden_act",
}  # fmt: skip
SHAPED = ("n_heads", "n_kv_heads", "head_dim", "sliding_window", "moe", "yarn", "quantization")
QUANTIZATION = ("qformat_weight", "qscheme_act")
FP8 = "fp8_e4m3"
SCALES = {".qscale_weight": "_scale", ".qscale_act": ".input_scale"}  # of FP8: beside ".weight", and in its place
PLAIN = {"model_type": ("transformer", "mistral"), "causal": (True,)}  # keys that may say what holds anyway
RUNTIME = frozenset({"max_batch_size"})  # of the program that runs it
MOE = {"num_experts": "num_local_experts", "num_experts_per_tok": "num_experts_per_tok"}
MOE_RUNTIME = frozenset({"expert_parallel", "expert_model_parallel"})
YARN = {
    "factor": "factor", "original_max_position_embeddings": "original_max_position_embeddings",
    "beta": "beta_fast", "alpha": "beta_slow",
}  # fmt: skip
HEADS = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim")  # as the rows were ordered
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

OUTSIDE = {
    "tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}  # fmt: skip
IN_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    **{f"attention.w{x}.weight": f"self_attn.{x}_proj.weight" for x in "qkvo"},
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.gate.weight": "block_sparse_moe.gate.weight",
}
LAYER = re.compile(r"layers\.(?P<layer>[0-9]{1,6})\.(?P<inner>.+)")
EXPERT = re.compile(r"feed_forward\.experts\.(?P<number>[0-9]{1,6})\.(?P<matrix>w[123])\.weight")
ROTATED = ("attention.wq.weight", "attention.wk.weight")
OTHER_LAYOUT = "use the same model in the layout of transformers (config.json and model.safetensors)"


@record
class PairedTensor(StoredTensor):
    """Queries or keys: row 2j + i of a head, as stored, is row i * head/2 + j of the tensor that is read.

    `head` is the number of rows of a head, even. Whole heads are read at once; of a part of one, no more than twice.
    """

    head: int

    def read_packed(self, start: int, stop: int) -> U8:
        """Rows [start, stop) in the order of transformers: uint8 (stop - start, row_bytes)."""
        assert 0 <= start <= stop <= self.info.rows, (self.info.name, start, stop)
        half = self.head // 2
        out = np.empty((stop - start, self.row_bytes), np.uint8)
        row = start
        while row < stop:
            inside = row % self.head
            if inside == 0 and stop - row >= self.head:
                last = stop - stop % self.head
                pairs = super().read_packed(row, last).reshape(-1, half, 2, self.row_bytes)
                rows = pairs.swapaxes(1, 2).reshape(last - row, self.row_bytes)
            else:
                which, pair = divmod(inside, half)
                last = row + min(half - pair, stop - row)
                first = row - inside + 2 * pair
                rows = super().read_packed(first, first + 2 * (last - row))[which::2]
            out[row - start : last - start] = rows
            row = last
        return out


def config_of(params: Mapping[str, Any], dtype: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config.json for a params.json (parsed) whose weights are stored as `dtype`.

    `own` is a config.json of the same architecture that lies beside it: what params.json does not say is taken from
    there. Raises InputError naming the key for a value that is missing or none, UnsupportedError for a key that the
    layout of transformers cannot express for a Mistral or Mixtral.
    """
    _require_known(params)
    for key in NEEDED:
        _count(params, key)
    _number(params, "norm_eps")  # transformers has another default than Mistral
    heads = _count(params, "n_heads")
    mixture = params.get("moe") is not None
    config: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM" if mixture else "MistralForCausalLM"],
        "model_type": "mixtral" if mixture else "mistral",
        "hidden_act": "silu",
        "num_attention_heads": heads,
        "num_key_value_heads": heads if params.get("n_kv_heads") is None else _count(params, "n_kv_heads"),
        "head_dim": head_rows(params),
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": DTYPES.get(dtype, "bfloat16"),
    }
    given = {
        name: params[key] for key, name in {**NAMED, **{k: k for k in LIKE}}.items() if params.get(key) is not None
    }
    if params.get("sliding_window") is not None:
        given["sliding_window"] = _window(params["sliding_window"])
    if mixture:
        given |= {name: _count(_section(params, "moe", (*MOE, *MOE_RUNTIME)), key, "moe.") for key, name in MOE.items()}
    if params.get("yarn") is not None:
        given["rope_scaling"] = _yarn(_section(params, "yarn", (*YARN, "apply_scale")))
    if params.get("quantization") is not None:
        given["quantization_config"] = _fp8(_section(params, "quantization", QUANTIZATION))
    rest = own if own is not None and own.get("architectures") == config["architectures"] else {}
    whole = {**config, **rest, **given, **{key: config[key] for key in HEADS}}
    if params.get(mistral_images.PART) is not None:
        part = _section(params, mistral_images.PART, mistral_images.KNOWN)
        for key in mistral_images.NEEDED:
            _count(part, key, f"{mistral_images.PART}.")
        if part.get("mm_projector_id") not in mistral_images.PROJECTORS:
            raise _bad(f"{mistral_images.PART}.mm_projector_id", part["mm_projector_id"], f'"{mistral_images.MERGER}"')
        whole = mistral_images.with_encoder(dict(sorted(whole.items())), part)
    return dict(sorted(whole.items()))  # as transformers saves it


def context_warning(params: Mapping[str, Any], own: Mapping[str, Any] | None) -> Warned | None:
    """That nothing says for how long a context the model is made."""
    said = [source.get(key) for source in (params, own or {}) for key in ("max_seq_len", "max_position_embeddings")]
    if any(value is not None for value in said):
        return None
    what = (
        f"{PARAMS} has no max_position_embeddings: {CONTEXT:,} tokens of context are written, as transformers takes it"
    )
    return Warned("context-length", f"{what}; the model card knows")


def _require_known(params: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for keys that say something of the model which is not translated."""
    known = {*NAMED, *LIKE, *SHAPED, *RUNTIME, *PLAIN, mistral_images.PART}
    other = sorted(key for key, value in params.items() if key not in known and value not in (None, False, {}, []))
    other += sorted(key for key, values in PLAIN.items() if params.get(key) not in (None, *values))
    if other:
        what = f"{PARAMS}: {listed(other)} is not read from Mistral's own layout"
        raise UnsupportedError(what, key=other[0], path=PARAMS, hint=OTHER_LAYOUT)


def _section(params: Mapping[str, Any], key: str, known: Iterable[str]) -> Mapping[str, Any]:
    found = params[key]
    if not isinstance(found, Mapping):
        raise _bad(key, found, "an object")
    other = sorted(name for name, value in found.items() if name not in known and value is not None)
    if other:
        what = f"{PARAMS}: {listed([f'{key}.{name}' for name in other])} is not read from Mistral's own layout"
        raise UnsupportedError(what, key=f"{key}.{other[0]}", path=PARAMS, hint=OTHER_LAYOUT)
    return found


def _yarn(yarn: Mapping[str, Any]) -> dict[str, Any]:
    """yarn as transformers writes it: without `apply_scale` attention keeps its temperature."""
    for key in YARN:
        _number(yarn, key, "yarn.")
    scaled = yarn.get("apply_scale", True)
    if not isinstance(scaled, bool):
        raise _bad("yarn.apply_scale", scaled, "true or false")
    kept = {} if scaled else {"attention_factor": 1.0}
    return {"rope_type": "yarn", **{name: yarn[key] for key, name in YARN.items()}, **kept}


def _fp8(quantization: Mapping[str, Any]) -> dict[str, Any]:
    """FP8 with a scale for each matrix, as transformers says it."""
    said = quantization.get("qformat_weight")
    if said != FP8:
        what = f'{PARAMS}: quantization.qformat_weight is "{shown(str(said))}", read from Mistral\'s layout is {FP8}'
        raise UnsupportedError(what, key="quantization.qformat_weight", path=PARAMS, hint=OTHER_LAYOUT)
    static = quantization.get("qscheme_act") is not None
    return {"quant_method": "fp8", "activation_scheme": "static" if static else "dynamic"}


def _window(found: object) -> int:
    """The window, which older files write as a text; one per layer has no counterpart."""
    if isinstance(found, list):
        what = f"{PARAMS}: sliding_window differs between layers, which is not read from Mistral's own layout"
        raise UnsupportedError(what, key="sliding_window", path=PARAMS, hint=OTHER_LAYOUT)
    if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) < 10:
        found = int(found)
    return _count({"sliding_window": found}, "sliding_window")


def _count(values: Mapping[str, Any], key: str, prefix: str = "") -> int:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise _bad(prefix + key, value, "a positive integer")
    return value


def _number(values: Mapping[str, Any], key: str, prefix: str = "") -> None:
    if isinstance(values.get(key), bool) or not isinstance(values.get(key), int | float):
        raise _bad(prefix + key, values.get(key), "a number")


def _bad(key: str, value: object, expected: str) -> InputError:
    found = "missing" if value is None else shown(repr(value), 80)
    hint = "fetch the checkpoint again, or correct the value"
    return InputError(f"{PARAMS}: {key} is {found}, expected {expected}", key=key, path=PARAMS, hint=hint)


def head_rows(params: Mapping[str, Any]) -> int:
    """How many rows of queries and keys a head has."""
    return (
        _count(params, "dim") // _count(params, "n_heads")
        if params.get("head_dim") is None
        else _count(params, "head_dim")
    )


def renamed(stored: Mapping[str, StoredTensor], params: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """The tensors under the names of transformers, in the same order, rows of queries and keys in its order.

    Raises UnsupportedError naming a tensor that has no counterpart (of adapters, other quantized weights), InputError
    for queries and keys that are not made of heads.
    """
    head = head_rows(params)
    sees: Mapping[str, Any] = params.get(mistral_images.PART) or {}
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        of_images = mistral_images.counterpart(name) if sees else None
        if of_images is not None:
            rows = sees["hidden_size"] // sees["num_attention_heads"]
            found[of_images] = _in_order(name, tensor, of_images, rows)
            continue
        scale = next((end for end in SCALES if name.endswith(end)), None) if params.get("quantization") else None
        new = _renamed(name if scale is None else name.removesuffix(scale) + ".weight")
        if scale is not None:
            new = new + SCALES[scale] if SCALES[scale][0] == "_" else new.removesuffix(".weight") + SCALES[scale]
        new = mistral_images.TEXT + new if sees else new
        found[new] = _in_order(name, tensor, new, head)
    return found


def _in_order(name: str, tensor: StoredTensor, new: str, head: int) -> StoredTensor:
    """A tensor under its new name; queries and keys, of `head` rows a head, in the order of transformers."""
    info = TensorInfo(new, tensor.info.dtype, tensor.info.shape, tensor.info.nbytes)
    if not name.endswith(ROTATED):
        return StoredTensor(info, tensor.source, tensor.offset)
    if head < 2 or head % 2 or info.rows % head:
        what = f'tensor "{name}" has {info.rows} rows, by head_dim of {PARAMS} heads have {head}'
        hint = "the two are not of the same model, or heads cannot be rotated"
        raise InputError(what, tensor=name, key="head_dim", path=PARAMS, hint=hint)
    return PairedTensor(info, tensor.source, tensor.offset, head)


def _renamed(name: str) -> str:
    match = LAYER.fullmatch(name)
    inner = match["inner"] if match else name
    expert = EXPERT.fullmatch(inner) if match else None
    if expert:
        new: str | None = f"block_sparse_moe.experts.{expert['number']}.{expert['matrix']}.weight"
    else:
        new = IN_LAYER.get(inner) if match else OUTSIDE.get(name)
    if new is None:
        what = f'tensor "{shown(name)}" of Mistral\'s own layout has no counterpart in a Mistral or Mixtral'
        raise UnsupportedError(what, tensor=name, hint=OTHER_LAYOUT)
    return f"model.layers.{match['layer']}.{new}" if match else new


def tokenizer_file(names: Iterable[str]) -> str | None:
    """The newest tokenizer.model.vN where the folder has no tokenizer under another name; it is a tokenizer.model."""
    there = set(names)
    if there & TOKENIZERS:
        return None
    found = [match for name in sorted(there) if (match := VERSIONED.fullmatch(name))]
    return max(found, key=lambda match: int(match["version"]))[0] if found else None
