"""Models that a text goes through in cycles, against transformers' model in one piece: HRM-Text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_table
import pytest
import torch
import transformers
from commands import TINY, quantkit
from safetensors.torch import load_file, save_file
from walks import logits_after, model_of, same_bits, statistics_of, whole_model, windows

from quantkit.calibration.walk.reading import is_readable
from quantkit.calibration.walk.walk import BlockView, How
from quantkit.errors import InputError
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side
from quantkit.pipeline.guard import corpus_of_samples
from quantkit.source import open_source

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "HrmTextForCausalLM"), reason="this transformers has no HRM-Text"
)

LAYERS, HIGH, LOW = 2, 2, 2
TOLERANCE = 2e-5  # float32 in another order of summation, relative to the largest value
SAMPLES = windows(390, count=5, seqlen=30)
FIRST_OF_HIGH = "model.H_module.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers a stack, whose low state does not begin with zeros."""
    entry = family_table.TABLE["hrm-text"]
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
    config = {**entry.config, **sizes, "H_cycles": HIGH, "L_cycles": LOW, "L_bp_cycles": [LOW] * HIGH}

    def begin(tensors: dict[str, Any]) -> None:
        tensors["model.z_L_init"] = torch.randn(128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)

    folder = tmp_path_factory.mktemp("cycles") / "hrm-text"
    return family_table.write(replace(entry, config=config, published=begin), folder)


def halved(folder: Path, out: Path, chosen: Callable[[str], bool]) -> Path:
    """The checkpoint with these of its tensors halved."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t / 2 if chosen(n) else t for n, t in tensors.items()}, out / "model.safetensors", {"format": "pt"})
    return out


def test_logits_are_those_of_the_whole_model(source: Path) -> None:
    found, reference = logits_after(model_of(source), SAMPLES, how=How(keep_reference=True))
    with torch.no_grad():
        expected = whole_model(source)(input_ids=torch.from_numpy(SAMPLES.tokens).long()).logits
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(found, reference)


def test_sums_are_those_of_all_passes(source: Path) -> None:
    """Of every linear; products where no token counts more than once."""
    statistics = statistics_of(model_of(source), SAMPLES)
    seen: dict[str, list[torch.Tensor]] = {}
    whole = whole_model(source)
    for path, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            hook = lambda m, args, name=f"{path}.weight": seen.setdefault(name, []).append(args[0])  # noqa: E731
            module.register_forward_pre_hook(hook)
    with torch.no_grad():
        whole(input_ids=torch.from_numpy(SAMPLES.tokens).long())
    assert set(statistics.linears) == set(seen)
    for name, inputs in seen.items():
        assert len(inputs) == {"L": HIGH * LOW, "H": HIGH, "l": 1}[name.removeprefix("model.")[0]]
        x, total = torch.cat(inputs).flatten(0, -2).double(), statistics.total(name)
        assert total.tokens == len(x)
        pairs = [(total.squares, x.square().sum(0)), (total.peaks, x.abs().amax(0))]
        if "self_attn" not in name or "o_proj" in name:
            pairs.append((total.gram.full(), x.T @ x))
        for ours, theirs in pairs:
            assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max(), name


def test_they_are_not_read_from_runs_of_single_passes(source: Path) -> None:
    assert not is_readable(model_of(source), SAMPLES, SAMPLES)
    assert is_readable(model_of(TINY), SAMPLES, SAMPLES)


def test_threads_change_no_bit(source: Path) -> None:
    many = windows(390, count=9, seqlen=128)  # two chunks
    one, three = (statistics_of(model_of(source, threads), many) for threads in (1, 3))
    assert same_bits(one, three)


def test_passes_start_from_the_original_and_go_through_what_is_rounded(source: Path, tmp_path: Path) -> None:
    """The second layer of the low stack is another from its visit on: the low stack's inputs are as they were, the high
    one reads what it makes in the last pass of every cycle, beside the original's high states."""
    name, starts, calls, highs = "model.L_module.layers.1.", [], [], []
    original, other = whole_model(source), whole_model(halved(source, tmp_path / "half", lambda n: n.startswith(name)))
    ids = torch.from_numpy(SAMPLES.tokens).long()
    original.model.L_module.register_forward_pre_hook(
        lambda m, args, kwargs: starts.append(args[0]) or calls.append(kwargs), with_kwargs=True
    )
    original.model.H_module.register_forward_hook(lambda m, args, out: highs.append(out))
    read: list[torch.Tensor] = []
    with torch.no_grad():
        embedded = original.model.embed_tokens(ids) * original.model.embedding_scale
        original(input_ids=ids, use_cache=False)
        for turn, high in enumerate([embedded, *highs[:-1]]):
            last = turn * LOW + LOW - 1
            low = other.model.L_module(starts[last], **calls[last])
            read.append(other.model.H_module.layers[0].input_layernorm(high + low))
    plain = statistics_of(model_of(source), SAMPLES, hessian=False)
    found = {}

    def visit(index: int, block: BlockView) -> dict[str, torch.Tensor]:
        statistics = block.statistics(hessian=False)
        found.update({linear: statistics.total(linear).squares for linear in statistics.linears})
        inside = [linear for linear in block.linears if linear.startswith(name)]
        return {linear: block.weight(linear) / 2 for linear in inside}

    candidate, reference = logits_after(model_of(source), SAMPLES, visit, How(keep_reference=True))
    for linear, squares in found.items():
        assert torch.equal(squares, plain.total(linear).squares) == linear.startswith("model.L_module"), linear
    expected = torch.cat(read).flatten(0, 1).double().square().sum(0)
    assert (found[FIRST_OF_HIGH] - expected).abs().max() <= TOLERANCE * expected.max()
    assert not torch.equal(candidate, reference)
    assert torch.equal(reference, logits_after(model_of(source), SAMPLES)[0])


def test_measured_are_all_passes_of_what_was_made(source: Path, tmp_path: Path) -> None:
    """Errors go through every cycle there, unlike in a walk that rounds: divergence is that of transformers' models."""
    changed = halved(source, tmp_path / "half", lambda name: ".L_module." in name and "down_proj" in name)
    sides = [Side(path.name, open_source(str(path))) for path in (source, changed)]
    [scores] = measure(sides[0], sides[1:], corpus_of_samples(SAMPLES), threads=2)
    ids = torch.from_numpy(SAMPLES.tokens).long()
    with torch.no_grad():
        p, q = (torch.log_softmax(whole_model(path)(input_ids=ids).logits, -1) for path in (source, changed))
    kl = (p.exp() * (p - q)).sum(-1)[:, :-1]
    assert scores.kl.mean() == pytest.approx(float(kl.mean()), rel=1e-3)
    steps = HIGH * (LOW + 1) * LAYERS
    assert len(scores.errors) == steps
    assert {row.tensor for row in scores.weights} >= {
        f"model.L_module.layers.{n}.mlp.down_proj.weight" for n in range(2)
    }


def test_files_are_the_same_for_any_number_of_threads(source: Path, tmp_path: Path) -> None:
    """Queries, keys and values are rows of one tensor, which stays as it was: no scales are moved into it."""
    made = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        ran = quantkit(
            "convert", source, "--to", "w4a16-awq", "--keep", r"self_attn\.(q|k|v|gate)_proj=bf16",
            "--calib", TINY.parent / "calibration.jsonl", "--samples", 1, "--seqlen", 32, "--threads", threads,
            "-o", out,
        )  # fmt: skip
        assert ran.status == 0, ran.stderr
        made.append((out / "model.safetensors").read_bytes())
    assert made[0] == made[1]
    held, given = (load_file(folder / "model.safetensors") for folder in (out, source))
    kept = [name for name in given if name.endswith("gqkv_proj.weight")]
    assert len(kept) == 2 * LAYERS
    assert all(torch.equal(held[name], given[name]) for name in kept)


def test_more_passes_than_anybody_waits_for_are_refused(source: Path, tmp_path: Path) -> None:
    folder = halved(source, tmp_path / "long", lambda name: False)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(f'"H_cycles": {HIGH}', '"H_cycles": 1000'))
    with pytest.raises(InputError, match="6,000 passes through layers, at most 4,096 are run"):
        model_of(folder)


@pytest.mark.parametrize("said", [1, 3])
def test_layers_that_config_json_does_not_say_are_named_as_it_counts_them(
    said: int, source: Path, tmp_path: Path
) -> None:
    folder, key = halved(source, tmp_path / "other", lambda name: False), "num_layers_per_stack"
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(f'"{key}": {LAYERS}', f'"{key}": {said}'))
    with pytest.raises(InputError, match=f"config.json: {key} is {said}, the checkpoint has 2 layers"):
        model_of(folder)


@pytest.mark.parametrize("command", ["sensitivity", "convert"])
def test_what_types_cost_is_not_asked(command: str, source: Path, tmp_path: Path) -> None:
    target = ("--target-bpw", "5") if command == "convert" else ()
    text = ("--calib", TINY.parent / "calibration.jsonl", "--samples", 4, "--seqlen", 32)
    ran = quantkit(command, source, "--to", "q4_k_m", *target, *text, "-o", tmp_path / "out")
    assert ran.status == 4
    option = "--target-bpw" if target else command
    assert f"{option}: what types cost is measured of layers that text goes through once" in ran.stderr
