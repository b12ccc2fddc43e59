"""Every architecture of the table: the reference's file, llama-quantize's types, and the model's predictions.

Predictions are compared with transformers', float32 and without fused attention, on contexts longer than every window
of the checkpoints. Weights are so large that a wrong rotation, window, scale or order moves them by far more than
llama.cpp's cache in 16 bit does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import checkpoints
import family_table
import numpy as np
import pytest
from commands import quantkit
from family_table import TABLE, Entry
from gguf import GGMLQuantizationType, GGUFReader
from oracles import ggml

from quantkit.families.describe import find_family
from quantkit.formats.safetensors.reader import read_safetensors

NAMES = pytest.mark.parametrize("name", TABLE)
OF_THE_PLAN = {"general.file_type", "general.quantization_version"}
SAME = 1e-4  # nats of KL divergence
CONTEXT_TOKENS = (100, 140)
FIRST_TOKEN, LAST_TOKEN = 3, 397  # ids that every vocabulary here has and that are no control tokens

F32, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.BF16
VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")  # counted together
NARROW = re.compile("time_mix_(?:[wva][012]|g[12]|lerp_fused|first|decay_w[12]).weight")  # of RWKV, never quantized
KEPT = ("ffn_gate_inp", "tid2eid", "position_embd", "ssm_conv1d", "indexer.q_proj", "indexer.k_proj")  # never quantized
UNEVEN = ("ssm_dt.weight", "attn_k_b.weight", "ple_conv1d.weight", "per_layer_token_embd.weight")  # of few columns
GLM5_NEXT = re.compile(  # what llama-quantize does not round of this architecture
    r"hc_|indexer\.(attn_q_b|attn_k|proj)|indexer_compressor|(ssm_([fg]_[ab]|beta)|attn_(kv_a_mqa|[kv]_b))\.weight"
)
WITH_MORE_BITS = {
    "attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight", "ffn_down.weight", "ffn_down_exps.weight",
    "ffn_down_chexps.weight", "ffn_down_shexp.weight",
}  # fmt: skip

FAMILY = {n: find_family({**e.config, "architectures": [e.architecture]}).family for n, e in TABLE.items()}
# HRM-Text has two stacks of layers, each counted from 0: it has a test of its own
SERVED = [name for name, family in FAMILY.items() if not family.unserved and family.name != "hrm_text"]

Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checkpoints."""
    folder = tmp_path_factory.mktemp("table")
    for name in TABLE:
        family_table.build(name, folder)
    return folder


@pytest.fixture(scope="module")
def reference(root: Path) -> Made:
    """What llama.cpp's converter makes of a checkpoint, in the type that it finds there."""
    files = {name: root / f"{name}.reference.gguf" for name in TABLE}
    jobs = [
        [str(root / name), str(path), "auto", pre(name), told(name, root), target and str(root / target)]
        for name, path in files.items()
        for target in [TABLE[name].target]
    ]
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return files.__getitem__


@pytest.fixture(scope="module")
def converted(root: Path) -> Made:
    """What quantkit makes of a checkpoint: bf16 and f32 at once."""

    @cache
    def convert(name: str) -> Path:
        out = root / f"{name}.out"
        ran = quantkit("convert", root / name, "--to", "bf16,f32", "-o", out, *chosen(name, root), "--no-verify")
        assert ran.status == 0, ran.stderr
        return out

    return convert


def chosen(name: str, root: Path) -> list[Any]:
    """Options that an entry needs."""
    target = TABLE[name].target
    return [*(["--pre", checkpoints.PRE] if TABLE[name].bpe else []), *(["--base", root / target] if target else [])]


def pre(name: str) -> str | None:
    return checkpoints.PRE if TABLE[name].bpe else None


def told(name: str, root: Path) -> dict[str, Any] | None:
    """What the reference takes for the configuration; None for what transformers makes of config.json."""
    tell = TABLE[name].told
    if tell is None:
        return None
    config: dict[str, Any] = json.loads((root / name / "config.json").read_text())
    tell(config)
    return config


def the(folder: Path, kind: str) -> Path:
    models = (path for path in folder.glob("*.gguf") if not path.name.startswith("mmproj-"))
    [found] = [path for path in models if kind in path.name.lower()]
    return found


def keys(reader: GGUFReader) -> dict[str, tuple[list[int], Any]]:
    return {
        key: ([int(kind) for kind in field.types], field.contents())
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "quantkit.")) and key not in OF_THE_PLAN
    }


@pytest.mark.reference
@NAMES
def test_the_file_is_that_of_the_reference(name: str, reference: Made, converted: Made) -> None:
    require_same(TABLE[name], reference(name), the(converted(name), "bf16"))


def require_same(entry: Entry, reference: Path, converted: Path) -> None:
    """Assert that two files have the same tensors and keys, but for what an entry says."""
    expected, found = GGUFReader(reference), GGUFReader(converted)
    wanted = {str(t.name): t for t in expected.tensors}
    tensors = [t for t in found.tensors if entry.adds is None or entry.adds not in t.name]
    assert {str(t.name) for t in tensors} == set(wanted)
    assert (len(tensors) < len(found.tensors)) is (entry.adds is not None)
    for tensor in tensors:
        other = wanted[str(tensor.name)]
        assert list(tensor.shape) == list(other.shape), tensor.name
        kinds = (tensor.tensor_type, other.tensor_type)
        if entry.model == "NemotronH" and tensor.name == f"blk.{trunk(entry)}.ffn_gate_inp.weight":
            assert kinds == (F32, BF16)  # the reference forgets to keep the router of a block after the last layer
            continue
        assert tensor.tensor_type == other.tensor_type, tensor.name
        alike = same(str(tensor.name), tensor.data, other.data)
        assert alike is not str(tensor.name).endswith(entry.apart), tensor.name
    differs = entry.differs
    ours, theirs = keys(found), keys(expected)
    assert all(theirs.pop(key, None) and key not in ours for key in entry.lacks)
    assert all(
        ours[key][1] == pytest.approx(value) != theirs.get(key, (None, None))[1] for key, value in differs.items()
    )
    assert {k: v for k, v in ours.items() if k not in differs} == {k: v for k, v in theirs.items() if k not in differs}


def trunk(entry: Entry) -> int:
    """The layers, without blocks after the last one."""
    return int(entry.config.get("text_config", entry.config)["num_hidden_layers"])


def same(name: str, found: Any, expected: Any) -> bool:
    """Exponentials are taken in float64 and rounded once: their last bit may be another."""
    if not name.endswith(".ssm_a"):
        return np.array_equal(found, expected)
    apart = np.abs(found.view(np.int32).astype(np.int64) - expected.view(np.int32))
    return bool((apart <= 1).all())


def expected_types(tensors: Mapping[str, tuple[int, ...]], architecture: str) -> dict[str, str]:
    """Q4_K_M by llama-quantize's rules (llama-quant.cpp), for models of less than 70 B and not of 8 experts.

    Values are counted where they are; the rest is, too, unless there are experts: then the layer counts.
    """
    tied = "output.weight" not in tensors
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    mixed = any("_exps." in name for name in tensors)
    found, counted = {}, Counter[str]()
    values = sum(name.endswith(VALUES) for name in tensors)
    for name, shape in sorted(tensors.items(), key=lambda tensor: (block_of(tensor[0]), tensor[0])):
        part = name.partition(".")[2].partition(".")[2] if name.startswith("blk.") else name
        kept = "_norm." in name or any(kept in name for kept in KEPT)
        kept = kept or NARROW.search(name) is not None
        kept |= any(kept in name for kept in ("per_layer_model_proj", "altup", "laurel"))
        glm5_next = architecture == "Glm5NextForConditionalGeneration"
        kept |= glm5_next and GLM5_NEXT.search(name) is not None
        if len(shape) < 2 or shape[0] == 1 or kept or not name.endswith("weight"):
            continue
        # llama-quantize looks for "ffn_down" and "attn_qkv" anywhere in a name
        part = part.removeprefix("hc_").removeprefix("vis_")
        kind = "attn_v" if name.endswith(VALUES) else part[:8]
        place = counted[kind] if kind == "attn_v" or not mixed else block_of(name)
        counted[kind] += 1
        of = values if kind == "attn_v" else layers
        more = place < of // 8 or place >= 7 * of // 8 or (place - of // 8) % 3 == 2
        head = name == "output.weight" or (tied and name in {"token_embd.weight", "per_layer_token_embd.weight"})
        wanted = "q6_k" if head or (part in WITH_MORE_BITS and more) else "q4_k"
        if glm5_next and part in {"attn_q_a.weight", "attn_q_b.weight"}:
            wanted = "q8_0"
        fallback = {"q8_0": "q8_0", "q6_k": "q8_0", "q4_k": "q5_0"}[wanted] if shape[-1] % 32 == 0 else "f16"
        found[name] = wanted if shape[-1] % 256 == 0 else fallback
    return found


def block_of(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


@NAMES
def test_the_types_are_those_of_llama_quantize(name: str, root: Path) -> None:
    ran = quantkit("plan", root / name, "--to", "q4_k_m", *chosen(name, root), "--json")
    assert ran.status == 0, ran.stderr
    [plan] = [plan for plan in ran.json["plans"] if plan["kind"] == "model"]
    tensors = {t["name"]: tuple(t["shape"]) for t in plan["tensors"]}
    uneven = {name for name, shape in tensors.items() if len(shape) > 1 and shape[-1] % 256}
    assert {each["tensor"] for each in plan["fallbacks"]} == {n for n in uneven if n.endswith(UNEVEN)}
    found = {t["name"]: t["type"] for t in plan["tensors"]}
    assert {n: q for n, q in found.items() if q not in {"f32", "bf16", "i32", "i64"}} == expected_types(
        tensors, TABLE[name].architecture
    )


@NAMES
def test_llama_cpp_computes_what_the_checkpoint_does(
    name: str, root: Path, converted: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = the(converted(name), "f32")
    if TABLE[name].drafts:
        with ggml.Model(path) as loaded, pytest.raises(RuntimeError, match="cannot make a context"):
            loaded.last_logits([3, 17, 40])
        return
    if TABLE[name].model is None:
        with ggml.Model(path) as loaded:  # it has every tensor and number that its architecture asks for
            assert np.isfinite(loaded.last_logits([3, 17, 40])).all()
        return
    model = transformers_model(root / name)
    expected = logits_of_transformers(model)
    with ggml.Model(path) as loaded:
        found = np.stack([loaded.last_logits(context)[: expected.shape[1]] for context in contexts()])
    graph = TABLE[name].graph
    assert (divergence(expected, found) < SAME) is (graph is None)
    if graph:
        graph(model, monkeypatch)
        assert divergence(logits_of_transformers(model), found) < SAME


OF_ENCODERS = re.compile(r"vision|visual|audio|sam_model|qwen2_model|\bvit\.")
IN_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
STAYS = re.compile(
    r"\.(gate|gate\.wg|router|router\.(gate|layer|proj)|x_proj|dt_proj|fc[12]_latent_proj)\.weight$"
    r"|\.(altup\.\w+|laurel\.\w+|per_layer_input_gate|per_layer_projection)\.weight$"
    r"|\.experts\.mlp\.(w1|v1|w2)$|\.(e_score_correction_bias|A_log|hc_fn)$|\.indexer\.\w+(\.weight)?$|\.hc_\w+_fn$"
    r"|_hyper_connection\.\w+\.weight$|\.ple\.[\w.]+\.weight$|\.(in_proj_[ab]|shared_expert_gate)\.weight$"
    r"|\.([fg](_[ab])?_proj|b_proj|index_[qk]_proj|wo_a|compressor\.\w+)\.weight$|\.(ape|tid2eid)$"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SERVED if name != "deepseek-ocr"])  # see test_published_names
def test_its_layers_are_run_and_rounded_one_by_one(name: str, root: Path, tmp_path: Path) -> None:
    """Blocks run one after the other give the model's logits, and a checkpoint for servers has its linears."""
    import torch
    from walks import logits_after, model_of, windows

    if not FAMILY[name].unwalked:
        samples = windows(400, count=1, seqlen=80)
        found, _ = logits_after(model_of(root / name), samples)
        with torch.no_grad():
            expected = transformers_model(root / name)(input_ids=torch.from_numpy(samples.tokens).long()).logits
        never = expected == torch.finfo(torch.float32).min  # predicted: tokens that stand for images
        assert torch.equal(found[never], expected[never])
        found, expected = found[~never], expected[~never]
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    ran = quantkit("convert", root / name, "--to", "w8a16", "-o", tmp_path / "out")
    assert ran.status == 0, ran.stderr
    made, given = (read_safetensors(f / "model.safetensors").tensors for f in (tmp_path / "out", root / name))
    packed = {n.removesuffix("_packed") for n in made if n.endswith("weight_packed")}
    config = json.loads((root / name / "config.json").read_text())
    config = config.get("thinker_config", config)
    config = config.get("text_config", config)
    counts = (config[key] for key in ("num_hidden_layers", "n_layer", "n_layers") if key in config)
    layers = len(config.get("layers_block_type") or range(next(counts)))
    inside = {n for n in given if IN_BLOCK.search(n) and not OF_ENCODERS.search(n) and ".mtp." not in f".{n}"}
    no_linears = (".shard_", ".q_norm.", ".k_norm.")  # of a table, and norms with a row for each head
    linears = {n for n in inside if len(given[n].shape) == 2 and not any(part in n for part in no_linears)}
    further = {n for n in linears if int(IN_BLOCK.search(n)[1]) >= layers}
    of_stacks = {n for n in packed if ".experts." in n and n not in given}
    assert bool(of_stacks) == any(len(given[n].shape) == 3 for n in inside if ".experts." in n)
    assert packed - of_stacks == {n for n in linears - further if not STAYS.search(n)}
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    routers = {n.removesuffix(".weight") for n in linears - further if n.endswith(".weight") and STAYS.search(n)}
    assert routers <= set(said), "engines want to be told what stays"


@pytest.mark.parametrize("name", [name for name, family in FAMILY.items() if family.unserved])
def test_what_is_for_gguf_only_is_refused_elsewhere(name: str, root: Path, tmp_path: Path) -> None:
    ran = quantkit("convert", root / name, "--to", "w8a16", "-o", tmp_path / "out")
    assert ran.status == 4
    assert "GGUF files without calibration only" in ran.stderr
    assert not list(tmp_path.iterdir())


def contexts() -> list[list[int]]:
    rng = np.random.default_rng(20)
    return [rng.integers(FIRST_TOKEN, LAST_TOKEN, count).tolist() for count in CONTEXT_TOKENS]


def log_softmax(logits: Any) -> Any:
    p = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return p - np.log(np.exp(p).sum(axis=1, keepdims=True))


def divergence(expected: Any, found: Any) -> float:
    """The median over contexts, in nats."""
    p, q = log_softmax(expected), log_softmax(found)
    return float(np.median((np.exp(p) * (p - q)).sum(axis=1)))


def logits_of_transformers(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return np.stack([model(input_ids=torch.tensor([c])).logits[0, -1].numpy() for c in contexts()])


OPENED = {  # as transformers calls what others name, and the thinkers of classes without a forward pass
    "DeepseekOCR2ForCausalLM": "DeepseekOcr2ForConditionalGeneration",
    "Qwen2_5OmniModel": "Qwen2_5OmniThinkerForConditionalGeneration",
    "Qwen3OmniMoeForConditionalGeneration": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "UnlimitedOCRForCausalLM": "UnlimitedOcrForConditionalGeneration",
}


def transformers_model(folder: Path) -> Any:
    """The checkpoint in float32, without fused attention."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text())
    [name] = config["architectures"]
    model_class = getattr(transformers, OPENED.get(name, name), transformers.AutoModelForCausalLM)
    return model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
