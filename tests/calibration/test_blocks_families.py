"""walk_blocks against transformers: logits and inputs of linears are the whole model's, for every family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import encoder_table
import family_table
import pytest
import torch
from checkpoints import VARIANTS, Variant, build
from transformers import AutoModel, AutoModelForCausalLM
from walks import logits_after, model_of, statistics_of, windows

from quantkit.calibration.text.samples import samples_of
from quantkit.calibration.text.spec import last_position, row_width, window_length
from quantkit.calibration.walk.head import load_head
from quantkit.calibration.walk.reach import SEED
from quantkit.errors import UnsupportedError
from quantkit.evaluation.corpus import Cutting, read_corpus
from quantkit.families.describe import find_family
from quantkit.families.encoders import CONTEXT
from quantkit.families.hparams import Hparams
from quantkit.families.known import known_families
from quantkit.families.positions import last_position_of
from quantkit.pipeline.asking import text_of_prompts
from quantkit.source import open_source

# float32 in another order of summation, relative to the largest value
TOLERANCE = 2e-5

FAST = {"llama-untied-gqa", "qwen3-moe", "mixtral-4x1M", "gemma2", "gemma3-with-vision", "phi3-longrope", "qwen2-moe"}
EARLY_PHI3 = "phi3-su"  # a checkpoint that transformers 5.23 itself cannot open


def whole_model(folder: Path) -> torch.nn.Module:
    if folder.name == EARLY_PHI3:
        config = json.loads((folder / "config.json").read_text())
        config["rope_scaling"]["type"] = "longrope"
        (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if model.config.architectures[0].endswith("Model"):  # saved without a head: the embedding is one
        model.lm_head.weight = model.get_input_embeddings().weight
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    return model.eval()


def served(variant: Variant) -> bool:
    """Whether its family can be run block by block; that others are refused is tested with the row language."""
    config = {**variant.config, "architectures": [variant.architecture]}
    family = find_family(config).family
    return not (family.unserved or family.unwalked)


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in VARIANTS
        if served(VARIANTS[name])
    ],
)
def test_logits_equal_the_whole_models(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path)
    model = model_of(folder)
    samples = windows(400)
    found, _ = logits_after(model, samples)
    with torch.no_grad():
        expected = whole_model(folder)(input_ids=torch.from_numpy(samples.tokens).long()).logits
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def write_bounded(name: str, folder: Path) -> Path:
    if name in encoder_table.ENCODERS:
        return encoder_table.build(name, folder)
    return build(name, folder) if name in VARIANTS else family_table.build(name, folder)


BOUNDED = ("gpt2", "santacoder", "mpt", "bert-masked-lm", "distilbert", "roberta", "xlm-roberta")


@pytest.mark.parametrize("name", BOUNDED)
def test_a_window_of_all_positions_runs_and_no_longer_one(name: str, tmp_path: Path) -> None:
    folder = write_bounded(name, tmp_path)
    source = open_source(str(folder))
    longest = window_length(source, None, 1 << 20, "seqlen")
    assert longest == last_position(source) > 0
    model, samples = model_of(folder), windows(300, count=1, seqlen=longest + 1)
    assert logits_after(model, samples_of(samples.tokens[:, :-1]))[0].shape[1] == longest
    with pytest.raises((IndexError, RuntimeError)):
        logits_after(model, samples)
    head = load_head(model)  # whose tokens are of any texts
    hidden = torch.randn(1, longest + 3, row_width(source), generator=torch.Generator().manual_seed(1))
    assert torch.equal(head.run(hidden)[0][:, :longest], head.run(hidden[:, :longest])[0])


def test_encoders_are_not_asked_what_they_predict(tmp_path: Path) -> None:
    for name in ("bert-masked-lm", "embedding-gemma"):
        source = open_source(str(encoder_table.build(name, tmp_path)))
        with pytest.raises(UnsupportedError, match="computes embeddings and predicts no text"):
            read_corpus(source, ("default",), Cutting())
        with pytest.raises(UnsupportedError, match="computes embeddings and predicts no text"):
            text_of_prompts(None, source, Cutting())


def test_padding_of_a_class_counts_where_config_json_is_silent(tmp_path: Path) -> None:
    folder = encoder_table.build("roberta", tmp_path)
    samples = windows(300, count=1, seqlen=20)
    said = logits_after(model_of(folder), samples)[0]
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("pad_token_id") == 1
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits_after(model_of(folder), samples)[0], said)


def test_families_whose_positions_end_are_all_run_to_their_end() -> None:
    ends = {family.name for family in known_families() if last_position_of(family, Hparams({CONTEXT: 1}))}
    run = {"gpt2", "gpt_bigcode", "mpt", "bert", "distilbert", "roberta", "xlm_roberta", "rugpt3xl"}
    assert {name.removesuffix("_classifier") for name in ends} == run


ENCODERS = (
    "embedding-gemma", "bert-masked-lm", "bert-of-tensorflow", "distilbert", "xlm-roberta-reranker",
    "eurobert-masked-lm", "modernbert-as-published",
)  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_of_encoders_equal_the_whole_models(name: str, tmp_path: Path) -> None:
    """They attend in both directions; what is compared are the products with their embeddings."""
    folder = encoder_table.build(name, tmp_path)
    samples = windows(300, count=3, seqlen=40)
    samples.tokens[samples.tokens < 5] = 5  # padding has a position of its own in RoBERTa
    found, _ = logits_after(model_of(folder), samples)
    whole = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        vectors = whole(input_ids=torch.from_numpy(samples.tokens).long()).last_hidden_state
        expected = vectors @ whole.get_input_embeddings().weight.T
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def counts_of(inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor], path: str) -> torch.Tensor:
    """How often each token counts for what attention reads (n, seqlen): as often as its squared gradient costs, in all
    as much as every token once, and once."""
    attention = path.rpartition(".")[0]
    given = inputs[f"{attention}.o_proj.weight"]
    noise = torch.stack(
        [torch.randn(given.shape[1:], generator=torch.Generator().manual_seed(SEED + n)) for n in range(len(given))]
    )
    reading = [one for name, one in outputs.items() if name.startswith(attention) and "o_proj" not in name]
    gradients = torch.autograd.grad(given, reading, noise, retain_graph=True)
    weights = sum(gradient.square().sum(-1) for gradient in gradients)
    energy = inputs[f"{path}.weight"].square().sum(-1)
    return (1 + weights * energy.sum(1, keepdim=True) / (weights * energy).sum(1, keepdim=True)).detach()


@pytest.mark.parametrize("name", ["llama-untied-gqa", "phi3", "gemma2", "olmo2"])
def test_statistics_equal_hooks_on_the_whole_model(name: str, tmp_path: Path) -> None:
    """Sums of what linears read; in the products of what attention reads, tokens count as its gradients say."""
    folder = build(name, tmp_path)
    model = model_of(folder)
    samples = windows(400, count=5, seqlen=40)
    statistics = statistics_of(model, samples)
    seen: dict[str, torch.Tensor] = {}
    gave: dict[str, torch.Tensor] = {}
    whole = whole_model(folder)
    for path, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda m, args, path=path: seen.update({f"{path}.weight": args[0]}))
            module.register_forward_hook(lambda m, args, out, path=path: gave.update({f"{path}.weight": out}))
    whole(input_ids=torch.from_numpy(samples.tokens).long())
    assert set(statistics.linears) == set(seen)
    for linear, inputs in seen.items():
        x = inputs.detach().flatten(0, -2).double()
        path = linear.removesuffix(".weight")
        far = "self_attn" in path and "o_proj" not in path
        weighed = counts_of(seen, gave, path).reshape(-1, 1).double() * x if far else x
        total = statistics.total(linear)
        assert total.tokens == len(x)
        for ours, theirs in (
            (total.squares, x.square().sum(0)),
            (total.magnitudes, x.abs().sum(0)),
            (total.peaks, x.abs().amax(0)),
            (total.gram.full(), x.T @ weighed),
            (total.gram.diagonal(), (x * weighed).sum(0)),
        ):
            assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@pytest.mark.parametrize("name", ["qwen3-moe", "qwen2-moe", "mixtral-4x1M"])
def test_experts_get_what_the_router_sends_them(name: str, tmp_path: Path) -> None:
    """Against the stacked experts' own arguments: every expert's tokens, and the inputs of its three matrices."""
    folder = build(name, tmp_path)
    samples = windows(400, count=2, seqlen=60)
    statistics = statistics_of(model_of(folder), samples)
    whole = whole_model(folder)
    calls: dict[str, tuple[torch.Tensor, ...]] = {}
    stacks = {path: m for path, m in whole.named_modules() if hasattr(m, "gate_up_proj")}
    for path, module in stacks.items():
        module.register_forward_pre_hook(lambda m, args, path=path: calls.update({path: args}))
    with torch.no_grad():
        whole(input_ids=torch.from_numpy(samples.tokens).long())
    assert len(calls) == 2
    for path, (hidden, chosen, _) in calls.items():
        for expert in range(stacks[path].num_experts):
            x = hidden[(chosen == expert).any(-1)].double()
            gate, up = (x.float() @ stacks[path].gate_up_proj[expert].T).chunk(2, -1)
            inner = (stacks[path].act_fn(gate) * up).double()
            for matrix, inputs in (("gate_proj", x), ("up_proj", x), ("down_proj", inner)):
                total = statistics.total(f"{path}.{expert}.{matrix}.weight")
                assert total.tokens == len(inputs)
                error = (total.gram.full() - inputs.T @ inputs).abs()
                assert error.max() <= TOLERANCE * max(inputs.square().sum(0).max(), 1e-6)
        router = statistics.total(f"{path.removesuffix('.experts')}.gate.weight")
        assert router.tokens == samples.tokens.size


def test_sites_are_in_the_order_of_use(tmp_path: Path) -> None:
    seen = []

    def visit(index, block):
        if index == 0:
            seen.extend(
                tuple(n.removeprefix("model.layers.0.").removesuffix(".weight") for n in s.linears) for s in block.sites
            )
        return {}

    logits_after(model_of(build("llama-untied-gqa", tmp_path)), windows(400, count=1, seqlen=8), visit)
    assert seen == [
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ]
