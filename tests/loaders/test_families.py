"""Families beyond Llama in transformers: every weight that quantkit decodes is what the loader holds, experts included.

The plain model that an artifact is compared with is loaded from what quantkit decodes, so that transformers itself
brings names and stacks of experts into its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import encoder_table
import family_table
import pytest
import torch
import transformers
from activations import round_inputs
from artifacts import CALIBRATION
from comparisons import FLOAT32, distance, same
from encoder_table import ENCODERS, Encoder
from expected import decoded, quantization
from loaders import computes_in_float32, loaded_weights
from published_layouts import as_deepseek, as_qwen
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

import quantkit
from quantkit.errors import UnsupportedError
from quantkit.families.describe import find_family
from quantkit.families.known import known_families
from quantkit.recipes.read import load_recipe
from quantkit.recipes.recipe import Overrides, override

TEXT = {"calib": (CALIBRATION[1],), "samples": 4, "seqlen": 32}

# Served family -> its small checkpoints, each in one scheme: these go round.
LOADED: dict[str, dict[str, str]] = {
    "afmoe": {"trinity": "w4a16"}, "apertus": {"apertus": "w8a8"}, "arcee": {"arcee": "nf4"},
    "chameleon": {"chameleon": "w4a16", "chameleon-swin": "w8a8"}, "chatglm": {"glm-4-hf": "w8a16"},
    "cohere2": {"cohere2": "nvfp4a16"}, "cohere2_moe": {"cohere2-moe": "w4a16"},
    "command_r": {"command-r": "mxfp4a16"}, "dbrx": {"dbrx": "gptq-w4g32"},
    "deepseek2": {"deepseek-v3": "fp8", "deepseek-v2": "fp8", "youtu": "w8a8"},
    "deepseek_ocr": {"deepseek-ocr-2-saved": "w4a16", "unlimited-ocr-saved": "fp8"},
    "deepseek32": {"deepseek-v3.2": "w4a16"}, "glm_moe_dsa": {"glm-5": "w4a16"},
    "dots1": {"dots1": "w4a16"}, "ernie4_5": {"ernie4.5": "fp8-block"}, "ernie4_5_moe": {"ernie4.5-moe": "fp8"},
    "exaone4": {"exaone4": "int8"}, "exaone4_5": {"exaone4.5": "w8a8"}, "exaone_moe": {"k-exaone": "w4a16"},
    "falcon_h1": {"falcon-h1": "w4a16"},
    "gemma": {"gemma": "nf4-double"}, "gemma2": {"gemma2": "gptq-w4g32"},
    "gemma3": {"gemma3": "fp8-weights", "gemma3-with-vision": "w8a8"}, "gemma3n": {"gemma3n": "fp8"},
    "gemma4": {"gemma4": "w8a8"}, "gemma4_e": {"gemma4-e": "w4a16"}, "gemma4_unified": {"gemma4-unified": "nf4"},
    "glm4": {"glm-4-0414": "fp8-weights"}, "glm4_moe": {"glm4-moe": "w4a16"},
    "glm4_moe_lite": {"glm-4.7-flash": "w4a16"}, "glm4v": {"glm-4.1v": "w8a8"}, "glm4v_moe": {"glm-4.5v": "fp8"},
    "glm_ocr": {"glm-ocr": "w4a16"},
    "gpt2": {"gpt2": "nf4"}, "gpt_neox": {"pythia": "fp8"}, "gpt_oss": {"gpt-oss": "w8a8"},
    "granite": {"granite": "fp8"},
    "granite_4": {"granite-4": "nf4"}, "granite_4_moe": {"granite-4-moe": "w4a16"},
    "granite_hybrid": {"granite-4-h": "w4a16"}, "granite_moe": {"granite-moe": "fp8", "granite-moe-shared": "w4a16"},
    "hrm_text": {"hrm-text": "w8a8", "hrm-text-as-trained": "w4a16"},
    "hunyuan_dense": {"hunyuan-dense": "w8a16"}, "hunyuan_moe": {"hunyuan-moe": "w4a16"},
    "hunyuan_vl": {"hunyuan-vl": "nf4"}, "hy_v3": {"hy-3": "w4a16"},
    "jais2": {"jais2": "fp8-native"}, "jamba": {"jamba": "fp8"}, "laguna": {"laguna": "fp8-native"},
    "lfm2": {"lfm2": "w8a8"},
    "lfm2_moe": {"lfm2-moe": "w4a16"}, "llama": {"llama-biases": "nvfp4a16"}, "mellum": {"mellum": "w4a16"},
    "mimo2": {"mimo-v2": "fp8"},
    "minicpm3": {"minicpm3": "fp8"}, "minimax_01": {"minimax-01": "w4a16"},
    "minimax_m2": {"minimax-m2": "fp8"}, "minimax_m3": {"minimax-m3": "fp8"}, "mistral3": {"ministral3": "mxfp4a16"},
    "mixtral": {"mixtral-4x1M": "fp8"}, "nemotron": {"nemotron": "int8"}, "nemotron_h": {"nemotron-h": "w8a8"},
    "muse_glimmer": {"muse-glimmer": "fp8-native"}, "nemotron_h_moe": {"nemotron-3": "w4a16"},
    "olmo": {"olmo": "nf4"}, "olmo2": {"olmo2": "gptq-w4g32"},
    "olmo3": {"olmo3": "fp8-native"}, "olmoe": {"olmoe": "fp8"}, "phi2": {"phi-2": "fp8-block"},
    "phi3": {"phi4-mini": "w8a16"}, "phimoe": {"phimoe": "w4a16"}, "paddleocr": {"paddleocr-vl": "w8a16"},
    "qwen2": {"qwen2-tied": "w8a16"},
    "qwen2_5_omni": {"qwen2.5-omni-saved": "fp8-native"}, "qwen3_asr": {"qwen3-asr-saved": "nf4-double"},
    "qwen3_omni_moe": {"qwen3-omni-saved": "fp8-native"},
    "qwen2_moe": {"qwen2-moe": "w4a16"}, "qwen2_vl": {"qwen2-vl": "w8a8", "qwen2.5-vl": "nf4"},
    "qwen3": {"qwen3": "fp8-native"}, "qwen3_5": {"qwen3.5": "w4a16"}, "qwen3_5_moe": {"qwen3.5-moe": "fp8"},
    "qwen3_moe": {"qwen3-moe": "fp8"}, "qwen3_next": {"qwen3-next": "fp8"}, "qwen3_vl": {"qwen3-vl": "nf4"},
    "mamba": {"mamba": "fp8", "falcon-mamba": "nf4"}, "mamba2": {"mamba2": "fp8"}, "bamba": {"bamba": "w4a16"},
    "granite_swa": {"granite-swa": "fp8"}, "bloom": {"bloom": "w4a16"},
    "falcon": {"falcon": "w8a8", "falcon-groups": "fp8"}, "gpt_bigcode": {"santacoder": "fp8"},
    "mpt": {"mpt": "w4a16"}, "qwen4_exp": {"qwen-3.8": "fp8"}, "glm5_next": {"glm-5.3-flash": "fp8"},
    "bailing_moe3": {"ling-3": "fp8"}, "deepseek4": {"deepseek-v4": "fp8"}, "kimi_linear": {"kimi-linear": "fp8"},
    "seed_oss": {"seed-oss": "nf4-double"}, "smollm3": {"smollm3": "gptq-w4g32"}, "solar_open": {"solar-open": "fp8"},
    "stablelm": {"stablelm": "int8"}, "starcoder2": {"starcoder2": "fp4"},
}  # fmt: skip
CASES = [(family, name, recipe) for family, rows in LOADED.items() for name, recipe in rows.items()]
SCHEMES = (
    "w4a16", "w8a16", "w8a8", "fp8", "fp8-block", "fp8-native", "nvfp4a16", "mxfp4a16", "nf4", "int8", "gptq-w4g32",
)  # fmt: skip
# Whose experts transformers knows by their stack alone.
NAMED = (
    ("gemma4-moe", "w4a16"), ("gemma4-moe", "fp8-native"), ("granite-moe-swa", "w4a16"),
    ("granite-moe-swa", "fp8-native"), ("hy-4", "fp8"), ("qwen3-vl-moe", "fp8"), ("qwen3-vl-moe", "fp8-native"),
    ("llama4-interleaved", "fp8-native"),
)  # fmt: skip
ELSEWHERE = {  # loaded by tests of their own, below
    "llama4", "qwen3_vl_moe", "granite_moe_swa", "hy_v4", "t5", "t5_encoder", "bert", "bert_classifier", "distilbert",
    "distilbert_classifier", "roberta", "roberta_classifier", "xlm_roberta", "xlm_roberta_classifier", "modernbert",
    "modernbert_classifier", "eurobert", "embedding_gemma", "gemma4_assistant", "nemotron_puzzle",
}  # fmt: skip
OPENED = {  # as config.json calls a class, and transformers
    "Qwen2_5OmniModel": "Qwen2_5OmniForConditionalGeneration",
    "DeepseekOCR2ForCausalLM": "DeepseekOcr2ForConditionalGeneration",
    "UnlimitedOCRForCausalLM": "UnlimitedOcrForConditionalGeneration",
}


def load(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """A checkpoint in the class that its config.json names, the thinker of one that speaks."""
    [architecture] = json.loads((folder / "config.json").read_text())["architectures"]
    options = {} if dtype is None else {"dtype": dtype}
    if architecture == "Qwen2_5OmniModel":
        torch.save({}, folder / "spk_dict.pt")  # voices, without which its class stops
    # some are published under names of their own code
    kind = getattr(transformers, OPENED.get(architecture, architecture), AutoModelForCausalLM)
    model = kind.from_pretrained(folder, attn_implementation="eager", **options).eval()
    for name, parameter in model.named_parameters():  # beside rounded layers, what is joined from pieces keeps its type
        if dtype is not None and parameter.dtype is torch.bfloat16 and ".experts." not in name:  # these are decoded so
            parameter.data = parameter.data.to(dtype)
    return getattr(model, "thinker", model)


def plain(artifact: Path, weights: dict[str, torch.Tensor], folder: Path) -> PreTrainedModel:
    """The model with these weights and nothing rounded but, where the artifact asks for it, inputs of linears."""
    folder.mkdir()
    config = json.loads((artifact / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "quantization_config"}))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load(folder, torch.float32)


def made(name: str, recipe: str, folder: Path, keep: tuple[str, ...] = ()) -> tuple[Path, quantkit.Verdict]:
    """The artifact of a family's small checkpoint, and what the table says of transformers."""
    tables = {**dict.fromkeys(family_table.TABLE, family_table), **dict.fromkeys(ENCODERS, encoder_table)}
    build = tables.get(name, checkpoints).build
    return made_of(build(name, folder), recipe, folder, keep)


def made_of(source: Path, recipe: str, folder: Path, keep: tuple[str, ...] = ()) -> tuple[Path, quantkit.Verdict]:
    """The artifact of a checkpoint, likewise."""
    text = TEXT if override(load_recipe(recipe), Overrides(method="rtn")).needs_calibration else {}
    request = quantkit.Request(str(source), (recipe,), method="rtn", keep=keep, **text)
    prepared = quantkit.prepare(request)
    [said] = [v for v in quantkit.consumer_verdicts(prepared.plans[0]) if v.consumer == "transformers"]
    prepared.checkpoint.close()
    quantkit.convert(request, quantkit.Output(folder / "out", threads=1))
    return folder / "out", said


def unlike(model: PreTrainedModel, expected: PreTrainedModel, artifact: Path) -> set[str]:
    """The rounded matrices, and stacks of experts, that are not those expected, (in, out) or (out, in)."""
    rounded, wanted = loaded_weights(model, artifact), dict(expected.named_parameters())
    turned = [f"{name}.weight" for name, module in expected.named_modules() if isinstance(module, Conv1D)]
    wanted |= {name: wanted[name].T.contiguous() for name in turned}
    stacks = {name: p.detach() for name, p in model.named_parameters() if ".experts." in name}
    exact = not quantization(artifact).get("load_in_8bit", False)
    found = {name for name, weight in rounded.items() if not same(weight, wanted[name], exact=exact)}
    return found | {name for name, weight in stacks.items() if not same(weight, wanted[name], exact=True)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        every = [(family, name, r) for family, rows in LOADED.items() for name in rows for r in SCHEMES]
        cases = every if metafunc.config.getoption("--every-scheme") else CASES
        metafunc.parametrize(("family", "name", "recipe"), cases, ids=[f"{name}-{recipe}" for _, name, recipe in cases])


def test_the_loader_has_the_weights_that_quantkit_decodes(family: str, name: str, recipe: str, tmp_path: Path) -> None:
    try:
        artifact, said = made(name, recipe, tmp_path)
    except UnsupportedError:
        if (family, name, recipe) in CASES:
            raise
        pytest.skip("sizes that this scheme does not take")
    if (family, name, recipe) not in CASES and (not said.ok or any("on CPUs" in caveat for caveat in said.caveats)):
        pytest.skip("not for transformers, or not on CPUs")
    assert said.ok
    assert find_family(json.loads((artifact / "config.json").read_text())).family.name == family
    model = load(artifact, torch.float32 if computes_in_float32(artifact) else None)
    expected = plain(artifact, decoded(artifact), tmp_path / "plain")
    assert unlike(model, expected, artifact) == set()
    ids = torch.randint(3, 390, (1, 40), generator=torch.Generator().manual_seed(1))
    config = quantization(artifact)
    with torch.inference_mode():
        found = model(input_ids=ids).logits[0].float()
        if recipe in {"fp8", "w8a8"}:  # experts of packed integers are decoded to bfloat16 before the type of the model
            round_inputs(expected, config, {})
            right = expected(input_ids=ids).logits[0]
            told = right > torch.finfo(right.dtype).min  # no tokens that stand for images
            assert distance(found[told], right[told]) <= FLOAT32
    assert found.isfinite().all()


# Language models inside models that see, whose blocks lie elsewhere in memory than in files: one layer is kept, or two
# sizes of groups stand side by side.
INSIDE = [
    *((name, recipe, ("down_proj=bf16",)) for name in ("gemma3-with-vision", "qwen2-vl")
      for recipe in ("w4a16", "fp8", "fp8-native", "nf4", "int8", "gptq-w4g32")),
    ("gemma3-with-vision", "w4a16", ()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "recipe", "keep"), INSIDE)
def test_single_layers_are_found_inside_models_that_see(
    name: str, recipe: str, keep: tuple[str, ...], tmp_path: Path
) -> None:
    artifact, said = made(name, recipe, tmp_path, keep)
    assert said.ok
    model = load(artifact, torch.float32 if computes_in_float32(artifact) else None)
    expected = plain(artifact, decoded(artifact), tmp_path / "plain")
    assert unlike(model, expected, artifact) == set()
    if quantization(artifact)["quant_method"] != "fp8":  # without a GPU all of these become bfloat16
        rounded = [name for name in loaded_weights(model, artifact) if name.endswith("down_proj.weight")]
        assert bool(rounded) is not bool(keep)
    with torch.inference_mode():
        assert model(input_ids=torch.arange(3, 43)[None]).logits.isfinite().all()


def test_every_family_that_is_served_is_loaded() -> None:
    served = {family.name for family in known_families() if not family.unserved}
    assert served == LOADED.keys() | ELSEWHERE


@pytest.mark.parametrize("recipe", ["w4a16", "fp8"])
def test_experts_of_llama_4_become_linears_of_their_own(recipe: str, tmp_path: Path) -> None:
    """Where weights are those of compressed-tensors, the loader itself takes its stacks apart."""
    artifact, said = made("llama4-interleaved", recipe, tmp_path)
    assert said.ok
    model, expected = load(artifact, torch.float32), decoded(artifact)
    found = loaded_weights(model, artifact)
    assert any(".experts.3.up_proj" in name for name in found)
    assert [name for name, weight in found.items() if not same(weight, expected[name], exact=True)] == []
    with torch.inference_mode():
        assert model(input_ids=torch.arange(3, 40)[None]).logits.isfinite().all()


# What T5 is given: both what its encoder reads, and what its decoder has said.
T5_READS = {"input_ids": torch.arange(3, 43)[None], "decoder_input_ids": torch.arange(60, 43, -1)[None]}
T5_LOADED = [
    ("flan-t5", "w8a8"), ("flan-t5", "fp8-native"), ("flan-t5", "int8"), ("flan-t5", "nf4"), ("umt5", "fp8"),
    ("t5-encoder", "w8a8"), ("t5-encoder", "int8"), ("flan-t5", "w8a8-smooth"), ("t5-encoder", "w8a8-smooth"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "recipe"), T5_LOADED)
def test_both_stacks_of_t5_are_what_quantkit_decodes(name: str, recipe: str, tmp_path: Path) -> None:
    """Its `wo` are float32 in memory whatever a checkpoint has, and stay as they are; both stacks share embeddings."""
    artifact, said = made(name, recipe, tmp_path)
    assert said.ok
    model = load(artifact, torch.float32 if computes_in_float32(artifact) else None)
    expected = plain(artifact, decoded(artifact), tmp_path / "plain")
    reads = T5_READS if hasattr(model, "decoder") else {"input_ids": T5_READS["input_ids"]}
    with torch.inference_mode():
        if computes_in_float32(artifact):
            model(**reads)  # the first pass decompresses
            weights = {name: p for name, p in model.named_parameters() if not name.endswith("_scale")}
        else:
            weights = loaded_weights(model, artifact)
        wanted, exact = dict(expected.named_parameters()), recipe != "int8"
        assert [name for name, weight in weights.items() if not same(weight, wanted[name], exact=exact)] == []
        assert {p.dtype for name, p in model.named_parameters() if name.endswith(".wo.weight")} == {torch.float32}
        round_inputs(expected, quantization(artifact), {})
        found, right = (m(**reads)[0][0].float() for m in (model, expected))
    assert found.isfinite().all()
    if recipe not in {"int8", "nf4"}:  # kernels of bitsandbytes compute in bfloat16, and T5 does not scale attention
        assert distance(found, right) <= FLOAT32


MASKED = "roberta-masked-lm", Encoder("RobertaForMaskedLM", encoder_table.ROBERTA, "bpe")  # not the reference's
ENCODING = [
    ("bert-mean", "fp8"), ("bert-masked-lm", "w4a16"), ("bert-reranker", "nvfp4a16"), ("bert-labels", "int8"),
    ("distilbert", "w8a8"), ("roberta", "int8"), ("roberta-masked-lm", "w8a8"), ("roberta-reranker", "fp8-native"),
    ("xlm-roberta", "w8a16"), ("xlm-roberta-reranker", "mxfp4a16"), ("modernbert", "w8a8"),
    ("modernbert-masked-lm", "int8"), ("modernbert-reranker", "fp8"), ("eurobert", "fp8"),
    ("eurobert-masked-lm", "w4a16"), ("embedding-gemma", "w4a16"), ("embedding-gemma", "fp8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "recipe"), ENCODING)
def test_encoders_are_what_quantkit_decodes(
    name: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every parameter, so that heads are left alone; and what they compute: vectors, scores, labels."""
    monkeypatch.setitem(ENCODERS, *MASKED)
    artifact, said = made(name, recipe, tmp_path)
    assert said.ok
    alike = computes_in_float32(artifact)
    model = load(artifact, torch.float32 if alike else None)
    expected = plain(artifact, decoded(artifact), tmp_path / "plain")
    reads = {"input_ids": torch.arange(5, 45)[None]}
    with torch.inference_mode():
        rounded = {} if alike else loaded_weights(model, artifact)
        model(**reads)  # the first pass of compressed-tensors decompresses
        wanted = dict(expected.named_parameters())
        weights = {**{n: p for n, p in model.named_parameters() if n in wanted}, **rounded}
        assert weights.keys() == wanted.keys()
        assert [
            n for n, p in weights.items() if not same(p, wanted[n], exact=n not in rounded or recipe != "int8")
        ] == []
        round_inputs(expected, quantization(artifact), {})
        found, right = (m(**reads)[0].float().flatten(0, -2) for m in (model, expected))
    if alike:
        assert (found - right).abs().max() <= FLOAT32 * right.abs().max()
    assert torch.cosine_similarity(found, right, dim=-1).min() > 0.99  # kernels in bfloat16


@pytest.mark.parametrize("recipe", ["w8a8", "w4a16", "nf4"])
def test_assistants_are_what_quantkit_decodes(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They read hidden states, keys and values of a large model: some that are made up."""
    sharing = property(lambda self: ["reuse"] * self.num_hidden_layers)  # as 5.24.0 has it: 5.23.0 makes no such model
    monkeypatch.setattr(transformers.Gemma4TextConfig, "kv_sharing_modes", sharing)
    artifact, said = made("gemma-4-assistant", recipe, tmp_path)
    assert said.ok
    alike = computes_in_float32(artifact)
    model = load(artifact, torch.float32 if alike else None)
    expected = plain(artifact, decoded(artifact), tmp_path / "plain")
    drawn = torch.Generator().manual_seed(1)
    heads = {layer.self_attn.layer_type: layer.self_attn for layer in expected.model.layers}
    shared = {
        kind: [torch.randn((1, 8 // one.num_key_value_groups, 9, one.head_dim), generator=drawn) for _ in range(2)]
        for kind, one in heads.items()
    }
    hidden = torch.randn((1, 1, 2 * expected.config.backbone_hidden_size), generator=drawn)

    def given(of: PreTrainedModel) -> torch.Tensor:
        of.masked_embedding.centroid_intermediate_top_k = 2  # of the four clusters that there are
        kind = of.pre_projection.weight.dtype
        states = {name: tuple(one.to(kind) for one in pair) for name, pair in shared.items()}
        output = of(inputs_embeds=hidden.to(kind), position_ids=torch.tensor([[8]]), shared_kv_states=states)
        return torch.cat([output.last_hidden_state, output.logits], -1).float()

    with torch.inference_mode():
        rounded = {} if alike else loaded_weights(model, artifact)
        given(model)  # the first pass of compressed-tensors decompresses
        wanted = dict(expected.named_parameters())
        weights = {**{n: p for n, p in model.named_parameters() if n in wanted}, **rounded}
        assert weights.keys() == wanted.keys()
        assert [name for name, weight in weights.items() if not same(weight, wanted[name], exact=True)] == []
        round_inputs(expected, quantization(artifact), {})
        found, right = given(model), given(expected)
    assert found.isfinite().all()
    if alike:
        assert (found - right).abs().max() <= FLOAT32 * right.abs().max()


# Classes that stop at layers whose weights are packed, or leave them as they were made.
STOPPED = [
    ("mamba", "w4a16"),
    ("mamba2", "w4a16"),
    ("mamba2", "mxfp4a16"),
    ("falcon-mamba", "w4a16"),
    ("santacoder", "w4a16"),
    ("falcon-groups", "w4a16"),
    ("falcon", "nf4"),
    ("mamba", "gptq-w4g32"),
    ("santacoder", "gptq-w4g32"),
    ("modernbert", "w4a16"),
    ("modernbert", "nvfp4a16"),
    ("modernbert", "gptq-w4g32"),
    ("gpt2", "w8a8"),
    ("gpt2", "gptq-w4g32"),
    ("minimax-m3", "w4a16"),
    ("flan-t5", "w4a16"),
    ("flan-t5", "mxfp4a16"),
    ("flan-t5", "nvfp4a16"),
    ("t5-encoder", "w8a16"),
    ("qwen-3.8", "w4a16"),
    ("hrm-text", "fp8-native"),
    ("unlimited-ocr-saved", "fp8-native"),
    ("qwen2.5-omni-saved", "gptq-w4g32"),
]


@pytest.mark.parametrize(("name", "recipe"), STOPPED)
def test_classes_that_stop_are_known(name: str, recipe: str, tmp_path: Path) -> None:
    artifact, said = made(name, recipe, tmp_path)
    assert not said.ok
    with pytest.raises((AttributeError, RuntimeError, ValueError)):
        load(artifact, None)


def packed_words(artifact: Path) -> set[str]:
    """The names of a GPTQ checkpoint's codes."""
    with safe_open(artifact / "model.safetensors", "pt") as file:
        return {name for name in file.keys() if name.endswith(".qweight")}  # noqa: SIM118  not a dict


# Layers that engines know by no role of attention or MLP, and blocks under names that optimum does not look for.
GPTQ = {
    "lfm2": (), "mamba": ("out_proj=bf16",), "falcon-mamba": ("out_proj=bf16",),
    "bert-mean": (), "bert-masked-lm": (r"output\.dense=bf16",), "distilbert": (),
    "hrm-text": (), "gpt2": ("c_proj=bf16",),
}  # fmt: skip


@pytest.mark.parametrize(("name", "keep"), GPTQ.items(), ids=GPTQ)
def test_every_layer_of_gptq_is_replaced(name: str, keep: tuple[str, ...], tmp_path: Path) -> None:
    """One that is not would keep the weights it was made with, without a word."""
    artifact, said = made(name, "gptq-w4g32", tmp_path, keep)
    assert said.ok
    model = load(artifact, None)
    assert packed_words(artifact) <= model.state_dict().keys()
    expected = dict(plain(artifact, decoded(artifact), tmp_path / "plain").named_parameters())
    weights = {n: p for n, p in model.named_parameters() if n in expected}
    assert [n for n, p in weights.items() if not same(p, expected[n], exact=True)] == []


def test_linears_of_falcon_are_not_replaced(tmp_path: Path) -> None:
    artifact, said = made("falcon-groups", "gptq-w4g32", tmp_path)
    assert not said.ok
    assert not packed_words(artifact) & load(artifact, None).state_dict().keys()


@pytest.mark.parametrize("recipe", ["w4a16", "mxfp4a16"])
def test_matrices_of_gpt2_are_left_as_they_were_made(recipe: str, tmp_path: Path) -> None:
    artifact, said = made("gpt2", recipe, tmp_path)
    assert not said.ok
    assert loaded_weights(load(artifact, torch.float32), artifact) == {}


@pytest.mark.parametrize(("name", "recipe"), [("qwen2.5-omni-saved", "w4a16"), ("qwen3-omni-saved", "fp8")])
def test_thinkers_stop_at_what_a_pass_of_the_whole_model_decodes(name: str, recipe: str, tmp_path: Path) -> None:
    artifact, said = made(name, recipe, tmp_path)
    assert not said.ok
    with torch.inference_mode(), pytest.raises((AttributeError, RuntimeError)):
        load(artifact, None)(input_ids=torch.arange(3, 40)[None])


def test_a_model_that_transformers_does_not_have_is_known(tmp_path: Path) -> None:
    artifact, said = made("nemotron-puzzle", "fp8", tmp_path)
    assert not said.ok
    with pytest.raises(ValueError, match="nemotron_h_puzzle"):
        load(artifact, None)


def test_the_first_deepseek_ocr_is_not_opened(tmp_path: Path) -> None:
    source = as_deepseek(family_table.build("deepseek-ocr-2-saved", tmp_path), tmp_path / "published")
    artifact, said = made_of(source, "w8a16", tmp_path)
    assert not said.ok
    with pytest.raises(ValueError, match="deepseek_vl_v2"):
        AutoConfig.from_pretrained(artifact)


def test_a_published_thinker_of_asr_is_not_found(tmp_path: Path) -> None:
    """Neither its numbers nor its names: what is made is a model of the default sizes, with random weights."""
    source = as_qwen(family_table.build("qwen3-asr-saved", tmp_path), tmp_path / "published")
    artifact, said = made_of(source, "w8a16", tmp_path)
    assert not said.ok
    config = AutoConfig.from_pretrained(artifact)
    assert config.thinker_config["text_config"]["hidden_size"] != config.text_config.hidden_size
    with torch.device("meta"):
        model = transformers.Qwen3ASRForConditionalGeneration(config)
    with safe_open(artifact / "model.safetensors", "pt") as file:
        assert model.state_dict().keys().isdisjoint(file.keys())


@pytest.mark.parametrize(("name", "recipe"), NAMED)
def test_experts_that_are_known_by_their_stack_alone_are_not_found(name: str, recipe: str, tmp_path: Path) -> None:
    artifact, said = made(name, recipe, tmp_path)
    assert not said.ok
    model = load(artifact, torch.float32)
    wrong = unlike(model, plain(artifact, decoded(artifact), tmp_path / "plain"), artifact)
    assert wrong
    assert all(".experts." in name for name in wrong)
