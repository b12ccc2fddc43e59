"""T5 and its kin: a window of text through an encoder and through the decoder that reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import encoder_table
import numpy as np
import pytest
import torch
from commands import TINY, quantkit
from encoder_table import T5, Encoder
from safetensors.torch import load_file, save_file
from walks import model_of, statistics_of, whole_model, windows

from quantkit.calibration.imatrix import to_imatrix
from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.calibration.text.samples import source_length, with_random
from quantkit.calibration.text.spec import prepare_samples
from quantkit.calibration.walk import refit as refitting
from quantkit.calibration.walk.fisher import SEED as FISHER_SEED
from quantkit.calibration.walk.fisher import downstream, drawn
from quantkit.calibration.walk.model import open_model
from quantkit.calibration.walk.reach import SEED
from quantkit.calibration.walk.threads import workers
from quantkit.calibration.walk.walk import BlockView, How, walk_blocks
from quantkit.errors import InputError, UnsupportedError
from quantkit.evaluation.corpus import Cutting, read_corpus
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side, with_tensors
from quantkit.families.names import block_of
from quantkit.pipeline.asking import text_of_prompts
from quantkit.pipeline.guard import corpus_of_samples
from quantkit.plan.describe import describe_source
from quantkit.quality.engines.transformers import Transformers
from quantkit.source import open_source
from quantkit.source.memory import MemoryTensor
from quantkit.tensors import TensorInfo

TOLERANCE = 2e-5  # float32 in another order of summation, relative to the largest value
TEXT = TINY.parent / "calibration.jsonl"
END, START = 1, 0  # ids that end a source and begin a target
GATED = {**T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 3}
KINDS = {  # of which file each is, and whether it has a head of its own
    "v1.0": (Encoder("T5ForConditionalGeneration", T5, "t5"), False),
    "v1.1": (Encoder("T5ForConditionalGeneration", GATED, "t5"), True),
    "mt5": (Encoder("MT5ForConditionalGeneration", GATED, "t5"), True),
    "umt5": (encoder_table.ENCODERS["umt5"], False),
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a checkpoint of KINDS as it is published: one word says whether the head is the embedding."""

    def write(kind: str) -> Path:
        row, own_head = KINDS[kind]
        monkeypatch.setitem(encoder_table.ENCODERS, kind, row)
        folder = encoder_table.build(kind, tmp_path)
        config = json.loads((folder / "config.json").read_text())
        config.pop("scale_decoder_outputs", None)
        config["tie_word_embeddings"] = not own_head
        (folder / "config.json").write_text(json.dumps(config))
        if own_head:
            tensors = load_file(folder / "model.safetensors")
            tensors["lm_head.weight"] = torch.randn(tensors["shared.weight"].shape) * 0.1
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write


def halves(tokens: np.ndarray) -> dict[str, torch.Tensor]:
    """What transformers is given."""
    ids, at = torch.from_numpy(tokens).long(), source_length(tokens.shape[1])
    return {"input_ids": ids[:, :at], "decoder_input_ids": ids[:, at:]}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_whole_models_before_and_after_a_block_of_each_stack_is_replaced(kind: str, written) -> None:
    folder, samples = written(kind), windows(400, count=3, seqlen=41)
    whole, pieces = whole_model(folder), []
    changed = [f"{stack}.block.0.layer.0.SelfAttention.k.weight" for stack in ("encoder", "decoder")]

    def visit(index: int, block: BlockView) -> dict[str, torch.Tensor]:
        if block.is_head:
            pieces.extend((piece.reference, piece.candidate) for piece in block.logits())
        return {name: 3 * block.weight(name) for name in changed if name in block.linears}

    walk_blocks(model_of(folder), samples, visit, how=How(keep_reference=True))
    before, after = (torch.stack(part) for part in zip(*pieces, strict=True))
    with torch.no_grad():
        expected = [whole(**halves(samples.tokens)).logits]
        for name in changed:
            whole.get_parameter(name).mul_(3)
        expected.append(whole(**halves(samples.tokens)).logits)
    for found, right in zip((before, after), expected, strict=True):
        assert (found - right).abs().max() <= TOLERANCE * right.abs().max()
    assert (after - before).abs().max() > 1e-3 * before.abs().max()


def test_gradients_reach_the_embeddings_of_both_stacks(written) -> None:
    folder, samples = written("umt5"), windows(400, count=3, seqlen=41)
    found, whole = downstream(model_of(folder), samples), whole_model(folder)
    kept: dict[str, torch.Tensor] = {}
    for name in ("encoder", "decoder"):
        embedding = whole.get_submodule(name).embed_tokens
        embedding.register_forward_hook(lambda m, a, out, n=name: kept.update({n: out.detach().requires_grad_()}))
        embedding.register_forward_hook(lambda m, a, out, n=name: kept[n])
    whole.lm_head.register_forward_hook(lambda m, args, out: kept.update(read=args[0], given=out))
    fisher, gram, squares = 0, 0, 0.0
    for number, row in enumerate(samples.tokens):
        log = torch.log_softmax(whole(**halves(row[None])).logits[0], -1)
        labels = drawn(log, FISHER_SEED + number * 41 + 20)
        parts = [kept["encoder"], kept["decoder"], kept["given"]]
        source, target, given = torch.autograd.grad(log.gather(1, labels).sum(), parts)
        g, x = torch.cat([source, target], 1)[0].double(), kept["read"][0].detach().double()
        fisher, gram, squares = fisher + g.T @ g, gram + x.T @ x, squares + float(given.double().square().sum())
    for ours, theirs in ((found.embedding, fisher), (found.head, gram)):
        assert (ours.full() - theirs).abs().max() < 1e-3 * theirs.abs().max()
    assert found.weight == pytest.approx(squares / (3 * 21), rel=1e-3)


def test_runs_for_gradients_show_what_both_stacks_read(written) -> None:
    model, samples = model_of(written("umt5")), windows(400, count=3, seqlen=41)
    found, expected = downstream(model, samples, first=samples).read, statistics_of(model, samples, hessian=False)
    assert found is not None
    assert found.linears == expected.linears
    for linear in expected.linears:
        ours, theirs = found.total(linear), expected.total(linear)
        assert ours.tokens == theirs.tokens
        assert torch.equal(ours.squares, theirs.squares), linear


def test_norms_of_both_stacks_follow_the_gradient_of_the_whole_model(written) -> None:
    folder, samples = written("v1.0"), windows(400, count=4, seqlen=41)
    source = open_source(str(folder))
    changed = {}
    for name, info in source.tensors().items():
        if name.endswith(("Attention.k.weight", "wi.weight")):
            values = np.float32(0.9) * source.ref(name).read(0, info.rows)
            changed[name] = MemoryTensor(TensorInfo(name, "F32", info.shape, values.nbytes), values)
    vectors = {name: 0.0 for name in source.tensors() if name.endswith(".layer_norm.weight")}
    models = open_model(source, threads=1), open_model(with_tensors(source, changed), threads=1)
    with workers(1, models[0].device) as pool:
        fit = refitting._Fit(models, (samples.cut(0, 3), samples.cut(3, 4)), vectors, models[0].rows, pool)
        gradients, *kept = (fit._new(3) for _ in range(models[1].count + 2))
        gradients.fill_(torch.nan)  # whatever an earlier step has left
        found = fit._gradients(range(3), kept, gradients)
    first, second = whole_model(folder), whole_model(folder)
    given = halves(samples.tokens[:3])
    for name, tensor in changed.items():
        second.get_parameter(name).data = torch.from_numpy(tensor.values)
    with torch.no_grad():
        ours = torch.log_softmax(first(**given).logits, -1)
    apart = (ours.exp() * (ours - torch.log_softmax(second(**given).logits, -1))).sum(-1).mean()
    expected = torch.autograd.grad(apart, [second.get_parameter(name) for name in vectors])
    largest = max(one.abs().max() for one in expected)
    for name, one in zip(vectors, expected, strict=True):
        assert (found[name] - one).abs().max() < 2e-3 * largest, name


def weighed(inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """How often each token counts for what reads of other tokens (tokens,): once, and as its squared gradient costs."""
    attention = name.removesuffix(".weight").rpartition(".")[0]
    given = inputs[f"{attention}.o.weight"]
    noise = torch.stack(
        [torch.randn(given.shape[1:], generator=torch.Generator().manual_seed(SEED + n)) for n in range(len(given))]
    )
    site = "kv" if "EncDec" in attention else "qkv"
    reading = [outputs[f"{attention}.{which}.weight"] for which in site]
    gradients = torch.autograd.grad(given, reading, noise, retain_graph=True)
    weights = sum(gradient.square().sum(-1) for gradient in gradients)
    energy = inputs[name].square().sum(-1)
    counts = 1 + weights * energy.sum(1, keepdim=True) / (weights * energy).sum(1, keepdim=True)
    return counts.detach().reshape(-1, 1).double()


def test_every_linear_of_both_stacks_has_the_sums_of_its_inputs_and_a_place_in_the_file(written) -> None:
    folder, samples = written("v1.1"), windows(400, count=3, seqlen=41)
    statistics, whole = statistics_of(model_of(folder), samples), whole_model(folder)
    seen: dict[str, torch.Tensor] = {}
    gave: dict[str, torch.Tensor] = {}
    for path, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda m, args, path=path: seen.update({f"{path}.weight": args[0]}))
            module.register_forward_hook(lambda m, args, out, path=path: gave.update({f"{path}.weight": out}))
    whole(**halves(samples.tokens))
    assert set(statistics.linears) == set(seen)
    for name, inputs in seen.items():
        x = inputs.detach().flatten(0, -2).double()
        far = "Attention" in name and not name.endswith(".o.weight") and not name.endswith("EncDecAttention.q.weight")
        total, counted = statistics.total(name), weighed(seen, gave, name) * x if far else x
        assert total.tokens == len(x) == 3 * (20 if "encoder" in name or cross(name) else 21)
        for ours, theirs in ((total.squares, x.square().sum(0)), (total.gram.full(), x.T @ counted)):
            assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max(), name
    described = describe_source(open_source(str(folder)))
    matrices = {t.name for t in described.tensors if len(t.shape) == 2 and "attn_rel_b" not in t.name}
    assert set(to_imatrix(statistics, described).entries) == matrices - {"token_embd.weight"}
    blocks = {t.name: t.layer for t in described.tensors}
    assert (blocks["enc.blk.1.attn_q.weight"], blocks["dec.blk.1.attn_q.weight"]) == (1, 3)


def cross(name: str) -> bool:
    """Whether a linear of the decoder reads what the encoder gives."""
    return block_of(name)[1].endswith(("EncDecAttention.k.weight", "EncDecAttention.v.weight"))


def test_windows_are_a_source_that_ends_and_a_target_that_begins(written) -> None:
    source = open_source(str(written("v1.0")))
    samples = prepare_samples(source, CalibrationSpec((str(TEXT),), samples=4, seqlen=40))
    assert (samples.middle, samples.first) == ((END, START), 20)
    for cut in (samples, samples.cut(1, 3), with_random(samples, 400, 2)):
        assert (cut.tokens[:, 19] == END).all()
        assert (cut.tokens[:, 20] == START).all()
    corpus = corpus_of_samples(samples)
    assert corpus.position.min() == 20
    assert corpus.tokens == 4 * 19


def test_predictions_of_the_decoder_are_measured(written) -> None:
    folder = written("umt5")
    side = Side("original", open_source(str(folder)))
    corpus = read_corpus(side.checkpoint, [str(TEXT)], Cutting(40, tokens=200))
    [scores] = measure(side, [Side("same", side.checkpoint)], corpus, threads=1)
    with torch.no_grad():
        logits = whole_model(folder)(**halves(corpus.batches[0].tokens)).logits.double()
    places = torch.from_numpy(corpus.row).long(), torch.from_numpy(corpus.position).long() - 20
    expected = logits.log_softmax(-1)[places].gather(1, torch.from_numpy(corpus.target).long()[:, None])[:, 0]
    assert np.abs(scores.reference - expected.numpy()).max() <= 1e-4
    assert scores.kl.max() <= 1e-6
    engine, first = Transformers(folder, 1, {}), corpus.window == corpus.window[0]
    tokens = corpus.batches[0].tokens[corpus.row[0]][:-1].tolist()  # as engines are given them: to the last prediction
    [found] = engine.logits(tokens, corpus.position[first].tolist())
    right = logits[corpus.row[0]][corpus.position[first] - 20]
    assert np.abs(found - right.numpy()).max() <= TOLERANCE * float(right.abs().max())
    assert [name for name, _ in scores.errors] == [
        f"{stack}.block.{n}" for stack in ("encoder", "decoder") for n in (0, 1)
    ]


def test_what_a_decoder_behind_an_encoder_cannot_be_asked_is_refused(written) -> None:
    folder = written("v1.0")
    with pytest.raises(UnsupportedError, match='prompts: family "t5" has a decoder that answers'):
        text_of_prompts(None, open_source(str(folder)), Cutting())
    ran = quantkit("plan", folder, "--to", "fp8-kv", "--calib", TEXT)
    assert ran.status == 4
    assert "scales of cached keys and values: no server takes them" in ran.stderr


@pytest.mark.parametrize(("key", "stack"), [("num_layers", "encoder"), ("num_decoder_layers", "decoder")])
def test_a_missing_block_of_either_stack_is_named(key: str, stack: str, written) -> None:
    folder = written("v1.0")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_decoder_layers": 2, key: 3}))
    with pytest.raises(InputError, match=f"config.json: {key} is 3, the checkpoint has 2 layers"):
        model_of(folder)


@pytest.mark.parametrize("recipe", ["w8a8-smooth", "q4_0"])
def test_layers_of_both_stacks_are_rounded_with_their_inputs(recipe: str, tmp_path: Path) -> None:
    """Each with a Hessian of its own: 8 windows of 64 tokens, and for GGUF half as many of other text."""
    folder, gguf = encoder_table.build("flan-t5", tmp_path), recipe == "q4_0"
    out, method = tmp_path / ("made.gguf" if gguf else "made"), () if gguf else ("--method", "gptq")
    text = ("--calib", TEXT, "--samples", 8, "--seqlen", 64)
    ran = quantkit(
        "convert", folder, "--to", recipe, *method, *text, "-o", out, "--threads", 1, "--no-verify", "--json"
    )
    assert ran.status == 0, ran.stderr
    manifest = json.loads(Path(ran.json["artifacts"][0]["manifest"]).read_text())
    described = describe_source(open_source(str(folder)))
    sources = {t.name: t.parts[0].source.tensor for t in described.tensors if len(t.shape) == 2}
    of = {name if gguf else source.removesuffix(".weight"): source for name, source in sources.items()}
    rounded = {of[layer["name"]]: layer for layer in manifest["layers"]}
    left = ("shared.weight",) if gguf else (".DenseReluDense.wo.weight", "shared.weight")  # float32 in transformers
    blocks = {source for source in sources.values() if "bias" not in source and not source.endswith(left)}
    assert rounded.keys() - {"shared.weight"} == blocks
    tokens = {source: 12 * 32 if gguf else 8 * 32 for source in blocks}
    assert {source: layer["tokens"] for source, layer in rounded.items() if source in blocks} == tokens
    assert {layer["method"] for source, layer in rounded.items() if source in blocks} == {"gptq"}
