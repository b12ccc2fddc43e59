"""Every family from checkpoint to file to llama.cpp: planned bytes are written bytes, and both models agree.

transformers on the saved checkpoint is the truth; the file is loaded in real llama.cpp. Weights are so large that
attention is far from uniform: a wrong rotation, window, cap or scale moves the distributions by far more than the
rounding of the cache does. Contexts are longer than every window and every original context of the checkpoints.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import gguf
import gguf_bytes
import numpy as np
import pytest
from checkpoints import VARIANTS, Variant
from commands import quantkit
from numpy.typing import NDArray

from quantkit.errors import VerificationError
from quantkit.qtypes import base
from quantkit.quality.engines.llamacpp import LlamaCpp
from quantkit.recipes.read import gguf_recipe_names, load_recipe

SPREAD = 0.4  # standard deviation of all weights
RECURRENT, RECURRENT_SPREAD = ("qwen3-next", "qwen3.5"), 0.15  # whose state feeds back what rounding leaves
CONTEXT_TOKENS = (140, 170, 210, 260, 300)
FIRST_TOKEN, LAST_TOKEN = 3, 397  # ids that every vocabulary here has and that are no control tokens

# Nats of KL divergence, the median of the contexts: one may sit where a router is undecided. Where both models compute
# the same, llama.cpp's cache in f16 is what remains, at most 1e-5; the smallest mistake tried here gives 8e-4.
SAME = 1e-4

Array = NDArray[np.float32]
Built = Callable[[str], Path]


def but(name: str, **changes: Any) -> Variant:
    """A variant with another configuration."""
    return replace(VARIANTS[name], config={**VARIANTS[name].config, **changes})


# What llama.cpp computes differently and GGUF cannot say: the plan warns, and the warning is true.
DIFFERING: dict[str, Variant] = {
    "llama-yarn": VARIANTS["llama-yarn"],
    "mistral-sliding": VARIANTS["mistral-sliding"],
    "llama-gelu": Variant("Llama", {**checkpoints.SIZES, "hidden_act": "gelu"}),
    "qwen2-sliding": Variant(
        "Qwen2", {**checkpoints.SIZES, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}
    ),
    "qwen3-moe-unnormalized": but("qwen3-moe", norm_topk_prob=False),
    "qwen2-moe-normalized": but("qwen2-moe", norm_topk_prob=True),
    "gemma2-scale": but("gemma2", query_pre_attn_scalar=4),
    "gemma3-scale": but("gemma3", query_pre_attn_scalar=256),
    "gemma3-pattern": but("gemma3", sliding_window_pattern=2),
    "olmo3-two-bases": replace(
        VARIANTS["olmo3-from-defaults"], edit=lambda config: config.update(rope_parameters={"rope_theta": 1e4})
    ),
    "gpt-oss-bands": but("gpt-oss", rope_parameters={**checkpoints.GPT_OSS_ROPE, "truncate": False}),
    "gpt-oss-limit": but("gpt-oss", swiglu_limit=1.0),
    "olmoe-normalized": but("olmoe", norm_topk_prob=True),
    "olmoe-clipped": but("olmoe", clip_qkv=0.1),
    "phi3-sliding": but("phi3", sliding_window=64),
}
# llama.cpp gives rerankers' files a head of two classes, and their next tokens no meaning.
RERANKERS = {name for name in VARIANTS if "reranker" in name.lower()}
AGREEING = [name for name in VARIANTS if name not in DIFFERING and name not in RERANKERS]

# One per architecture, and the kinds of rope scaling; the others are slow.
QUICK = {
    "llama-untied-gqa", "Llama-3x-tied-1B-Instruct-v3.2", "mixtral-4x1M", "qwen2-tied", "qwen3", "qwen3-moe", "gemma2",
    "gemma3", "phi3-longrope", "qwen2-moe", "granite", "olmo2",
}  # fmt: skip

READABLE = set(gguf.GGMLQuantizationType.__members__)  # newer types are not read by the package that is installed
FREE_RECIPES = tuple(
    name
    for name in gguf_recipe_names()
    if not (recipe := load_recipe(name)).needs_imatrix and recipe.weights.type.upper() in READABLE
)
EVERY_RECIPE = {"llama-sharded", "qwen3-moe", "gemma3-with-vision"}
SOME_RECIPES = ("bf16", "q8_0", "q4_k_m")


def slow_unless(quick: set[str], names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Checkpoints by name, each written once."""
    root = tmp_path_factory.mktemp("checkpoints")

    def build(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            recurrent = name.lower().startswith(RECURRENT)
            checkpoints.build_variant(
                {**VARIANTS, **DIFFERING}[name], folder, RECURRENT_SPREAD if recurrent else SPREAD
            )
        return folder

    return build


def convert(folder: Path, out: Path, *options: object) -> Any:
    return quantkit("convert", folder, "-o", out, *pre(folder), "--no-verify", *options)


def pre(folder: Path) -> list[str]:
    """The BPE vocabularies made here are none that quantkit could recognize."""
    return ["--pre", checkpoints.PRE] if (folder / "tokenizer.json").exists() else []


def contexts() -> list[list[int]]:
    rng = np.random.default_rng(20)
    return [rng.integers(FIRST_TOKEN, LAST_TOKEN, count).tolist() for count in CONTEXT_TOKENS]


def logits_of_transformers(folder: Path) -> Array:
    """Logits (contexts, vocabulary) of the token after each context, in float32 and without fused attention."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text())
    rope = config.get("rope_scaling") or {}
    if rope.get("type") == "su":  # transformers 5 does not read this old spelling any more
        config["rope_scaling"] = {**rope, "type": "longrope", "original_max_position_embeddings": 128}
    config.pop("time_step_limit", None)  # the default, which JSON cannot write and transformers does not read again
    named = config["architectures"][0]
    headless = named.endswith("Model") and not named.endswith("HeadModel")  # the embedding is its head
    model_class = getattr(transformers, f"{named.removesuffix('Model')}ForCausalLM" if headless else named)
    parsed = model_class.config_class.from_dict(config)
    parsed._attn_implementation = "eager"
    model = model_class.from_pretrained(folder, config=parsed, dtype=torch.float32).eval()
    if headless:
        model.lm_head.weight = model.get_input_embeddings().weight
    with torch.no_grad():
        return np.stack([model(input_ids=torch.tensor([c])).logits[0, -1].numpy() for c in contexts()])


def divergence(path: Path, logits: Array) -> float:
    """Median KL divergence of llama.cpp's next-token distributions on a file from the softmax of `logits`."""
    with closing(LlamaCpp(path, threads=2)) as engine:
        found = np.concatenate([next(engine.logits(c, [len(c) - 1])) for c in contexts()])
    assert np.isfinite(found).all()
    p, q = log_softmax(logits), log_softmax(found[:, : logits.shape[1]])
    return float(np.median((np.exp(p) * (p - q)).sum(axis=1)))


def log_softmax(logits: Array) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("name", slow_unless(QUICK | EVERY_RECIPE, list(VARIANTS)))
def test_the_plan_is_right_to_the_byte(name: str, built: Built, tmp_path: Path) -> None:
    folder = built(name)
    recipes = ",".join(FREE_RECIPES if name in EVERY_RECIPE else SOME_RECIPES)
    planned = quantkit("plan", folder, "--to", recipes, *pre(folder), "--json")
    assert planned.status == 0, planned.stderr
    written = convert(folder, tmp_path, "--to", recipes)
    assert written.status == 0, written.stderr
    plans = planned.json["plans"]
    assert {p.name for p in tmp_path.glob("*.gguf")} == {file["name"] for plan in plans for file in plan["files"]}
    for plan in plans:
        [file] = plan["files"]
        path = tmp_path / file["name"]
        assert path.stat().st_size == file["bytes"] == plan["size"]["bytes"]
        found = [(t.name, t.tensor_type.name.lower(), t.data_offset, t.n_bytes) for t in gguf.GGUFReader(path).tensors]
        assert found == [(t["name"], t["type"], t["offset"], t["bytes"]) for t in plan["tensors"]]


@pytest.mark.parametrize("name", ["llama-sharded", "qwen3-moe", "phi4-mini"])
def test_rows_that_do_not_divide_are_listed_and_can_be_refused(name: str, built: Built, tmp_path: Path) -> None:
    folder = built(name)
    [plan] = quantkit("plan", folder, "--to", "q4_k_m", *pre(folder), "--json").json["plans"]
    cols = {t["name"]: t["shape"][-1] for t in plan["tensors"]}
    types = {t["name"]: t["type"] for t in plan["tensors"]}
    assert plan["fallbacks"]
    for fallback in plan["fallbacks"]:
        name, wanted, taken = fallback["tensor"], base.get(fallback["wanted"]), base.get(fallback["type"])
        assert cols[name] % wanted.block != 0
        assert cols[name] % taken.block == 0
        assert types[name] == taken.name
    listed = {fallback["tensor"] for fallback in plan["fallbacks"]}
    head = "output.weight" if "output.weight" in types else "token_embd.weight"  # q8_0 by a rule of the mixture
    assert types[head] == "q8_0"
    assert listed == {name for name, qtype in types.items() if base.get(qtype).block == 32} - {head}
    assert "fallback" in {warning["code"] for warning in plan["warnings"]}
    refused = quantkit("convert", folder, "--to", "q4_k_m", *pre(folder), "-o", tmp_path, "--on-fallback", "error")
    assert refused.status == 2
    assert refused.stderr.startswith("error[recipe]: ")
    assert plan["fallbacks"][0]["tensor"] in refused.stderr
    assert not list(tmp_path.iterdir())


def test_rows_that_no_block_divides_stay_floats(tmp_path: Path) -> None:
    variant = Variant("Llama", {**checkpoints.SIZES, "intermediate_size": 100})
    folder = checkpoints.build_variant(variant, tmp_path / "odd")
    planned = quantkit("plan", folder, "--to", "q8_0", "--json").json["plans"][0]
    assert {(f["tensor"], f["wanted"], f["type"]) for f in planned["fallbacks"]} == {
        (f"blk.{layer}.ffn_down.weight", "q8_0", "f16") for layer in range(2)
    }
    outcome = convert(folder, tmp_path / "out", "--to", "q8_0")
    assert outcome.status == 0, outcome.stderr
    assert Path(outcome.stdout.strip()).stat().st_size == planned["files"][0]["bytes"]


@pytest.mark.parametrize("name", slow_unless(QUICK, AGREEING))
def test_llama_cpp_computes_what_the_checkpoint_does(name: str, built: Built, tmp_path: Path) -> None:
    folder = built(name)
    outcome = convert(folder, tmp_path, "--to", "f32")
    assert outcome.status == 0, outcome.stderr
    assert "engine-differs" not in outcome.stderr
    assert divergence(Path(outcome.stdout.strip()), logits_of_transformers(folder)) < SAME


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERING)
def test_what_llama_cpp_cannot_compute_is_announced(name: str, built: Built, tmp_path: Path) -> None:
    folder = built(name)
    outcome = convert(folder, tmp_path, "--to", "f32")
    assert outcome.status == 0, outcome.stderr
    assert "warning[engine-differs]: " in outcome.stderr
    assert divergence(Path(outcome.stdout.strip()), logits_of_transformers(folder)) > SAME


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixtral-4x1M", "qwen3-moe", "gemma2", "phi4"])
def test_the_engine_check_of_the_command_passes(name: str, built: Built, tmp_path: Path) -> None:
    folder = built(name)
    engine = ["--engine", "llama.cpp", "--json"]
    outcome = quantkit("convert", folder, "--to", "q8_0", "-o", tmp_path, *pre(folder), *engine)
    assert outcome.status == 0, outcome.stderr
    [check] = [c for c in outcome.json["artifacts"][0]["checks"] if c["check"] == "llama.cpp"]
    assert (check["ok"], check["tokenizer_differences"]) == (True, 0)
    assert check["own_kl"] < 0.01  # the distance to the source, kl_mean, is told and not judged


def test_a_file_that_computes_something_else_is_not_published(built: Built, tmp_path: Path) -> None:
    outcome = quantkit("convert", built("llama-yarn"), "--to", "q8_0", "-o", tmp_path, "--engine", "llama.cpp")
    assert outcome.status == 7
    assert "error[verification]: " in outcome.stderr
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".quantkit-")]


# Keys that llama.cpp does not compute with: sizes, which it compares with the shapes of tensors, and these two.
SIZES = {
    "block_count", "embedding_length", "feed_forward_length", "expert_feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "expert_count", "vocab_size",
    "context_length", "expert_shared_feed_forward_length",
}  # fmt: skip
UNUSED = {
    "rope.scaling.yarn_attn_factor": "it takes the value that the paper derives from the factor",
    "phi3.attention.sliding_window": "it attends to everything",
    "granite.rope.dimension_count": "it aborts where this is not the size of a head",
}
SENSITIVE = (
    "llama-yarn-from-defaults",
    "llama-linear",
    "qwen2.5-yarn",
    "qwen3-moe",
    "qwen2-moe",
    "granite",
    "olmo2",
    "gemma2",
    "gemma3-linear",
    "phi4-mini",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SENSITIVE)
def test_a_wrong_number_in_the_metadata_would_be_noticed(name: str, built: Built, tmp_path: Path) -> None:
    """The comparison above can fail: any number that is off moves the distributions."""
    folder = built(name)
    outcome = convert(folder, tmp_path, "--to", "f32")
    path = Path(outcome.stdout.strip())
    logits, original = logits_of_transformers(folder), path.read_bytes()
    unnoticed = []
    for key, changed in wrong_numbers(path, original):
        path.write_bytes(changed)
        try:
            same = divergence(path, logits) < SAME
        except VerificationError:  # llama.cpp found it itself
            continue
        if same:
            unnoticed.append(key)
    assert unnoticed == []


def wrong_numbers(path: Path, original: bytes) -> Iterator[tuple[str, bytes]]:
    """The file with one number of its architecture changed, for each number that counts."""
    fields = gguf.GGUFReader(path).fields
    architecture = fields["general.architecture"].contents()
    for key, field in fields.items():
        name = key.removeprefix(f"{architecture}.")
        if name == key or name in SIZES or name in UNUSED or key in UNUSED:
            continue
        value = field.contents()
        if field.types == [gguf.GGUFValueType.FLOAT32]:
            kind, form, other = gguf_bytes.F32, "<f", 30.0 if value < 0.01 else value / 20
        elif field.types == [gguf.GGUFValueType.UINT32]:
            wrong_count = value * 8 if name.endswith("original_context_length") else max(value // 8, 2)
            kind, form, other = gguf_bytes.U32, "<I", wrong_count
        else:
            continue
        stored, wrong = (gguf_bytes.entry(key.encode(), kind, struct.pack(form, v)) for v in (value, other))
        assert original.count(stored) == 1
        yield key, original.replace(stored, wrong)
