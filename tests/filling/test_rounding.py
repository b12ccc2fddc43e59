"""A block rounded: what each stage reads, what transforms leave alone, and what experts without tokens get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import encoder_table
import family_table
import numpy as np
import pytest
import torch
from checkpoints import build
from folded import MOVED
from walks import TINY, logits_after, model_of, windows

from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk import walk
from quantkit.calibration.walk.walk import BlockView, How, walk_blocks
from quantkit.errors import InputError
from quantkit.families.folds import Fold
from quantkit.families.known import family_named, folds_of
from quantkit.filling.rounding import BlockRounded, Rounding, round_block
from quantkit.filling.transforming import Moves, transform_block
from quantkit.methods import base
from quantkit.methods.base import Layer, Seen
from quantkit.methods.settings import DEFAULTS, Order, Settings, in_turn
from quantkit.methods.transforms import base as transforms
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.minifloat import Float8

AWQ, SMOOTH = transforms.get("awq"), transforms.get("smoothquant")
W4, W3 = Integers(4, 32), Integers(3, 32)
ROUTER = ".mlp.gate.weight"

Plan = Callable[[BlockView], Mapping[str, Rounding]]


def everything(scheme=W4, method="gptq", settings=DEFAULTS) -> Plan:
    """All linears of a block but routers."""
    rounding = Rounding(scheme, method, settings)
    return lambda block: {name: rounding for name in block.linears if not name.endswith(ROUTER)}


def rounded(folder: Path, samples: Samples, plan: Plan, threads: int = 2, **options) -> list[BlockRounded]:
    """Every block of a checkpoint."""
    found: list[BlockRounded] = []

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if not block.is_head:
            found.append(round_block(block, plan(block), block.run, **options))
            for name, linear in found[-1].linears.items():
                assert np.array_equal(block.weight(name).numpy(), linear.quantized.values())
            for name, values in found[-1].changed.items():
                assert np.array_equal(block.weight(name).numpy(), values)
        return {}

    walk_blocks(model_of(folder, threads), samples, visit)
    return found


def same(a: list[BlockRounded], b: list[BlockRounded]) -> bool:
    return all(
        x.linears.keys() == y.linears.keys()
        and x.changed.keys() == y.changed.keys()
        and all(np.array_equal(x.changed[n], y.changed[n]) for n in x.changed)
        and all(np.array_equal(x.linears[n].quantized.codes, y.linears[n].quantized.codes) for n in x.linears)
        and all(np.array_equal(x.linears[n].quantized.values(), y.linears[n].quantized.values()) for n in x.linears)
        and all(x.linears[n].report == y.linears[n].report for n in x.linears)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("qwen3-moe", tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("transform", [None, pytest.param(AWQ, marks=pytest.mark.slow)], ids=["plain", "awq"])
def test_any_number_of_threads_gives_the_same_bits(transform, mixture: Path) -> None:
    for folder, family, samples in (
        (TINY, "llama", windows(2048, count=4, seqlen=100)),
        (mixture, "qwen3_moe", windows(400, count=4, seqlen=100)),
    ):
        options = {"moves": transform and Moves(transform, folds_of(family, {}))}
        alone = rounded(folder, samples, everything(), 1, **options)
        assert same(alone, rounded(folder, samples, everything(), 2, **options))
        assert same(alone, rounded(folder, samples, everything(), 1, **options)), "and so does another run"


@pytest.mark.parametrize("name", ["llama-untied-gqa", "qwen3-moe", "gemma2"])
def test_outputs_kept_from_run_to_run_are_those_of_new_runs(name: str, tmp_path: Path, monkeypatch) -> None:
    folder, samples = build(name, tmp_path), windows(400, count=3, seqlen=50)
    kept = rounded(folder, samples, everything())
    monkeypatch.setattr(walk, "OUTPUT_BYTES", 0)
    assert same(kept, rounded(folder, samples, everything()))


@pytest.mark.parametrize("name", ["llama-untied-gqa", "qwen3-moe", "gemma2"])
def test_what_is_kept_from_run_to_run_is_counted_and_spares_every_second_product(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    folder, samples = build(name, tmp_path), windows(400, count=3, seqlen=50)
    model, computed = model_of(folder, 1), Counter()
    linear, statistics = torch.nn.Linear.forward, BlockView.statistics

    def counted(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        computed[module] += 1
        return linear(module, x)

    def watched(block: BlockView, *args, **options):
        found = statistics(block, *args, **options)
        tensors = [one for kept in block._outputs.values() for one in kept.values() if isinstance(one, torch.Tensor)]
        room = samples.tokens.size * model.kept_bytes(block._resident)
        assert (
            sum(one.nbytes for one in tensors)
            <= room
            < samples.tokens.size
            * 4
            * sum(
                one.rows * (model.skeleton.model.config.num_experts_per_tok if "experts" in one.name else 1)
                for one in block.linears.values()
            )
        )
        return found

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    monkeypatch.setattr(BlockView, "statistics", watched)

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if not block.is_head:
            round_block(block, everything()(block), block.run)
        return {}

    walk_blocks(model, samples, visit)
    # all samples are one chunk: two looks at the block, once through what is rounded, and attention for its weights
    inner = [count for module, count in computed.items() if 96 in (module.in_features, module.out_features)]
    assert computed and ("moe" in name or (max(inner) <= 3 and max(computed.values()) <= 4))


@pytest.mark.parametrize("method", ["gptq", pytest.param("rtn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", [Integers(4, 128), Integers(3, 32), Integers(4, 32, "asymmetric")], ids=str)
def test_no_layer_loses_more_than_by_rounding_to_nearest(method: str, scheme: Integers) -> None:
    moves = Moves(AWQ, folds_of("llama", {})) if method == "rtn" else None
    samples = windows(2048, count=4, seqlen=128)
    for block in rounded(TINY, samples, everything(scheme, method), moves=moves):
        assert len(block.linears) == 7
        for name, linear in block.linears.items():
            assert linear.report.loss <= linear.report.rounding_loss, name
            assert linear.input_peak > 0
            assert linear.report.tokens == samples.tokens.size


def test_a_stage_reads_what_the_rounded_stages_before_it_give() -> None:
    samples, settings = windows(2048, count=4, seqlen=100), Settings(passes=1)
    target, found = W4.target(256), {}

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if index:
            return {}
        names = [name for name in block.linears if "self_attn" in name]
        weights = {name: block.weight(name).numpy().copy() for name in names}
        result = round_block(block, {name: Rounding(W4, "gptq", settings) for name in names}, block.run)
        last = next(name for name in names if "o_proj" in name)
        block.replace({last: torch.from_numpy(weights[last])})  # the others stay rounded
        hessian = block.statistics([last], hessian=True).total(last).gram.full()
        found[last] = base.get("gptq").quantize(Layer(last, weights[last], hessian), target, settings, in_turn)
        assert np.array_equal(found[last].codes, result.linears[last].quantized.codes)
        return {}

    walk_blocks(model_of(TINY), samples, visit)
    assert found


TOLERANCE = 2e-4  # float32 weights rounded once more, through two blocks; largest logit 1


BIASED = {"phi-2", "stablelm", "stablelm-parallel", "starcoder2", "nemotron", "jais2", "gpt2"}  # norms


CASES = [(name, AWQ) for name in MOVED] + [
    (name, SMOOTH) for name, family in MOVED.items() if any(fold.norm for fold in family_named(family).folds)
]


def build_any(name: str, folder: Path) -> Path:
    tables = (encoder_table.ENCODERS, encoder_table), (family_table.TABLE, family_table)
    return next((table.build for names, table in tables if name in names), build)(name, folder)


@pytest.mark.parametrize(("name", "transform"), CASES, ids=[f"{name}-{transform.name}" for name, transform in CASES])
def test_transforms_change_weights_and_not_what_the_model_says(name: str, transform, tmp_path: Path) -> None:
    model, samples = model_of(build_any(name, tmp_path)), windows(300, count=2, seqlen=40)
    folds = [fold for fold in folds_of(MOVED[name], model.checkpoint.config) if fold.norm or not transform.norms]
    changes: list[str] = []

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if block.is_head:
            return {}
        schemes = {n: r.scheme for n, r in everything()(block).items()}
        changed = transform_block(block, schemes, block.run, Moves(transform, folds))
        for parameter, values in changed.items():
            stored = torch.from_numpy(values)
            kind = torch.float32 if block.stored_dtype(parameter) == "F32" else torch.bfloat16
            assert torch.equal(stored.to(kind).float(), stored), parameter  # as the checkpoint will hold it
        assert all(n not in schemes for n in changed)
        changes.extend(changed)
        return {}

    candidate, reference = logits_after(model, samples, visit, How(keep_reference=True))
    biased = any(name.endswith(("norm.bias", "ln_1.bias")) for name in changes)
    norms = [fold for fold in folds if fold.norm]
    assert biased == (name in BIASED and bool(norms))
    assert bool(changes) or not norms  # others change what is rounded anyway
    told = reference > torch.finfo(reference.dtype).min  # no tokens that stand for images
    candidate, reference = candidate[told], reference[told]
    assert (candidate - reference).abs().max() <= TOLERANCE * reference.abs().max()
    assert biased or not folds or not torch.equal(candidate, reference)  # with powers of two all may be as before


def test_scales_that_more_reads_change_what_a_model_says(tmp_path: Path) -> None:
    """BERT adds to what its norms give."""
    folds = (Fold("attention.output.LayerNorm", ("intermediate.dense",), norm=True),)
    model, samples = model_of(build_any("bert-mean", tmp_path)), windows(300, count=1, seqlen=20)

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if not block.is_head:
            transform_block(block, dict.fromkeys(block.linears, W4), block.run, Moves(SMOOTH, folds))
        return {}

    candidate, reference = logits_after(model, samples, visit, How(keep_reference=True))
    assert (candidate - reference).abs().max() > 100 * TOLERANCE * reference.abs().max()


def test_smoothquant_evens_out_what_activations_and_weights_reach() -> None:
    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if not block.is_head:
            schemes = dict.fromkeys(block.linears, Integers(8))
            transform_block(block, schemes, block.run, Moves(SMOOTH, folds_of("llama", {})))
            name = next(n for n in block.linears if "gate_proj" in n)
            peaks = block.statistics([name]).total(name).peaks.numpy()
            largest = np.max(
                [np.abs(block.weight(n).numpy()).max(0) for n in block.linears if "gate" in n or "up" in n], 0
            )
            assert np.allclose(peaks, largest, rtol=0.02)  # norms are stored as bfloat16, but this does not matter
        return {}

    walk_blocks(model_of(TINY), windows(2048, count=4, seqlen=64), visit)


def test_experts_take_the_mean_for_the_tokens_that_they_lack(mixture: Path) -> None:
    few = rounded(mixture, windows(400, count=1, seqlen=4), everything())
    reports = {name: one.report for block in few for name, one in block.linears.items()}
    experts = {name: report for name, report in reports.items() if ".experts." in name}
    assert {report.seen for report in experts.values()} == {Seen.SHRUNK, Seen.MEAN}
    assert all((report.seen is Seen.MEAN) == (report.tokens == 0) for report in experts.values())
    assert all(report.seen is Seen.OWN for name, report in reports.items() if name not in experts)
    assert all(report.loss <= report.rounding_loss for report in reports.values())
    unseen = [one for block in few for one in block.linears.values() if one.report.tokens == 0]
    assert unseen and all(one.input_peak is None for one in unseen)


def test_rounding_without_hessian_is_the_loaders_own(mixture: Path) -> None:
    for scheme in (Codebook("nf4", double=True), Float8("tensor"), Integers(8)):
        model = {}

        def keep(block: BlockView, scheme=scheme, model=model) -> Mapping[str, Rounding]:
            plan = everything(scheme, "rtn")(block)
            model.update({name: block.weight(name).numpy().copy() for name in plan})
            return plan

        for block in rounded(mixture, windows(400, count=1, seqlen=40), keep):
            for name, one in block.linears.items():
                expected = scheme.encode(model[name])
                assert np.array_equal(one.quantized.codes, expected.codes)
                assert np.array_equal(one.quantized.grid.scale, expected.grid.scale)
                assert one.report.loss is None


def test_layers_outside_the_plan_stay_as_they_are() -> None:
    def plan(block: BlockView) -> Mapping[str, Rounding]:
        return {name: one for name, one in everything()(block).items() if "down_proj" in name}

    for block in rounded(TINY, windows(2048, count=1, seqlen=64), plan, moves=Moves(AWQ, folds_of("llama", {}))):
        assert [name.split(".")[-2] for name in block.linears] == ["down_proj"]
        assert [name.split(".")[-2] for name in block.changed] == ["up_proj"]


def test_an_order_kept_on_disk_goes_with_the_codes() -> None:
    plan = everything(settings=Settings(order=Order.PERMUTED))
    for block in rounded(TINY, windows(2048, count=2, seqlen=100), plan):
        assert all(one.quantized.order is not None for one in block.linears.values())


def test_a_name_that_is_no_linear_of_the_block_is_refused() -> None:
    def plan(block: BlockView) -> Mapping[str, Rounding]:
        return {"model.layers.0.mlp.up_prj.weight": Rounding(W3)}

    with pytest.raises(InputError, match=r"up_prj.*did you mean.*up_proj"):
        rounded(TINY, windows(2048, count=1, seqlen=8), plan)


def test_settings_of_layers_that_share_inputs_may_differ() -> None:
    def plan(block: BlockView) -> Mapping[str, Rounding]:
        found = dict(everything()(block))
        name = next(n for n in found if "k_proj" in n)
        return found | {name: replace(found[name], scheme=Integers(4, 128), settings=Settings(damping=0.1))}

    for block in rounded(TINY, windows(2048, count=2, seqlen=100), plan):
        damping = {name.split(".")[-2]: one.report.damping for name, one in block.linears.items()}
        assert damping["k_proj"] == 0.1
        assert damping["q_proj"] == damping["v_proj"] == DEFAULTS.damping


def test_a_module_goes_on_from_its_last_linear() -> None:
    """Attention shows that it ends in its output projection, and the other part how it ends, when the first block is
    looked at; from then on nothing before these runs again."""
    model = model_of(TINY)
    seen: list[int] = []

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        for site in () if block.is_head else block.sites:
            block.statistics(site.linears, hessian=True)
            block.replace({name: block.weight(name) * 0.5 for name in site.linears})
        seen.append(len(model.endings))
        return {}

    walk_blocks(model, windows(4, 16), visit)
    endings = {key.split()[-1]: (ending.leaf, ending.length) for key, ending in model.endings.items()}
    assert endings == {"self_attn": ("o_proj", 2), "mlp": ("down_proj", 0)}
    assert seen[:2] == [2, 2]
