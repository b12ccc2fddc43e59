"""What a visit may do: calibrate site by site, replace weights, compare with the original, and fail well."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build, stack_experts
from predictions import next_token_logits
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from walks import TINY, joined, logits_after, model_of, same_bits, statistics_of, windows

from quantkit.calibration.inputs import open_calibration_model
from quantkit.calibration.statistics.sums import merge
from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.calibration.text.samples import samples_of
from quantkit.calibration.walk.model import open_model, read_embedding, token_rows
from quantkit.calibration.walk.walk import How, walk_blocks
from quantkit.errors import InputError, NonFiniteError, ResourceError, UnsupportedError, UsageError
from quantkit.events import BlockProgress, Event, TensorProgress
from quantkit.source import open_source
from quantkit.source.memory import MemoryCheckpoint
from quantkit.storage import Scratch

TOLERANCE = 2e-5  # float32 in another order of summation, relative to the largest value


def halved(index, block):
    """Replacement weights: every matrix but routers, and the input norm, halved."""
    if block.is_head:
        return {}
    norm = block.name + ".input_layernorm.weight"
    return {name: block.weight(name) * 0.5 for name in [*block.linears, norm]}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama-sharded", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("mixtral-4x1M", tmp_path_factory.mktemp("models"))


def edited(folder: Path, out: Path, edit) -> Path:
    """A copy of a checkpoint in one shard with changed tensors."""
    shutil.copytree(folder, out)
    tensors = {}
    for shard in sorted(out.glob("*.safetensors")):
        tensors |= load_file(shard)
        shard.unlink()
    (out / "model.safetensors.index.json").unlink(missing_ok=True)
    edit(tensors)
    save_file(tensors, out / "model.safetensors")
    return out


@pytest.mark.parametrize("threads", [2, 3])
def test_statistics_have_the_same_bits_for_any_number_of_threads(threads: int, mixture: Path) -> None:
    for folder, samples in ((TINY, windows(2048, count=70, seqlen=5)), (mixture, windows(2048, count=5, seqlen=300))):
        alone = statistics_of(model_of(folder, threads=1), samples)
        assert same_bits(alone, statistics_of(model_of(folder, threads=threads), samples))


ALONE = """
import hashlib, sys
import numpy as np
from quantkit.calibration.walk.model import open_model; from quantkit.calibration.walk.walk import walk_blocks
from quantkit.calibration.text.samples import samples_of
from quantkit.source.memory import MemoryCheckpoint

random = np.random.default_rng(5)
shapes = {"model.embed_tokens": (64, 512), "model.norm": (512,), "lm_head": (64, 512)}
block = {"self_attn.q_proj": (512, 512), "self_attn.k_proj": (512, 512), "self_attn.v_proj": (512, 512),
         "self_attn.o_proj": (512, 512), "mlp.gate_proj": (4096, 512), "mlp.up_proj": (4096, 512),
         "mlp.down_proj": (512, 4096), "input_layernorm": (512,), "post_attention_layernorm": (512,)}
shapes |= {f"model.layers.0.{name}": shape for name, shape in block.items()}
weights = {f"{name}.weight": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
config = {"model_type": "llama", "hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 1,
          "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 64}
digest = hashlib.sha256()

def visit(index, block):
    statistics = block.statistics(hessian=True)
    for name in statistics.sites:
        digest.update(statistics.total(name).gram.full().numpy().tobytes())
    return {}

model = open_model(MemoryCheckpoint(config, weights), threads=int(sys.argv[1]))
walk_blocks(model, samples_of(np.arange(5, dtype=np.int32)[None]), visit)
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_the_threads_that_the_environment_gives_torch_do_not_matter() -> None:
    """Few tokens and long sums: torch alone gives other bits here with one thread than with two (see threads.py)."""
    digests = set()
    for threads, openmp in (("1", "1"), ("2", "2")):
        environment = {**os.environ, "OMP_NUM_THREADS": openmp}
        command = [sys.executable, "-c", ALONE, threads]
        digests.add(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert len(digests) == 1


def test_a_walk_leaves_torch_as_it_was() -> None:
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state()
    statistics_of(model_of(TINY, threads=2), windows(2048, count=1, seqlen=4))
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_pieces_of_the_samples_merge_to_the_whole(llama: Path) -> None:
    samples = windows(2048, count=150, seqlen=6)
    model = model_of(llama)
    whole = statistics_of(model, samples)
    pieces = [statistics_of(model, samples.part(*cut)) for cut in ((0, 64), (64, 128), (128, 150))]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert same_bits(whole, merge([pieces[n] for n in order]))


def test_later_blocks_see_replaced_weights(llama: Path, tmp_path: Path) -> None:
    """As a model whose files hold those weights; blocks' statistics too."""
    samples = windows(2048)

    def edit(tensors):
        for name in tensors:
            if ".layers." in name and "post_attention" not in name:
                tensors[name] = tensors[name] * 0.5

    other = edited(llama, tmp_path / "halved", edit)
    found, _ = logits_after(model_of(llama), samples, halved)
    expected, _ = logits_after(model_of(other), samples)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("when", ["blocks", "head", "embedding", "all", "nothing"])
def test_the_reference_is_the_original_model(when: str, llama: Path) -> None:
    model, samples = model_of(llama), windows(2048)
    original, _ = logits_after(model, samples)

    def visit(index, block):
        if block.is_head:
            return {
                n: block.weight(n) * 2.0 for n in ("lm_head.weight", "model.norm.weight") if when in {"head", "all"}
            }
        return halved(index, block) if when in {"blocks", "all"} else {}

    table = read_embedding(model, token_rows(samples)) * 1.5 if when in {"embedding", "all"} else None
    candidate, reference = logits_after(model, samples, visit, How(keep_reference=True, embedding=table))
    alone, _ = logits_after(model, samples, visit, How(embedding=table))
    assert reference is not None
    assert torch.equal(reference, original)
    assert torch.equal(candidate, alone)
    assert torch.equal(candidate, original) == (when == "nothing")


def test_sites_can_be_calibrated_one_after_the_other(llama: Path) -> None:
    """Statistics after a replacement are those of a block that had the new weights from the start."""
    samples = windows(2048)
    stepwise, at_once = [], []

    def one_by_one(index, block):
        if block.is_head:
            return {}
        for site in block.sites:
            stepwise.append(block.statistics(site.linears, hessian=True))
            block.replace({name: block.weight(name) * 0.5 for name in site.linears})
        return {}

    def after(index, block):
        if block.is_head:
            return {}
        for number, site in enumerate(block.sites):
            block.replace({n: block.weight(n) * 0.5 for n in block.sites[number - 1].linears} if number else {})
            at_once.append(block.statistics(hessian=True).total(site.name))
        return {n: block.weight(n) * 0.5 for n in block.sites[-1].linears}

    walk_blocks(model_of(llama), samples, one_by_one)
    walk_blocks(model_of(llama), samples, after)
    assert len(stepwise) == len(at_once) == 8
    for one, other in zip(stepwise, at_once, strict=True):
        (site,) = one.sites
        assert torch.equal(one.total(site).gram.full(), other.gram.full())


def test_final_statistics_move_on_like_a_plain_run(llama: Path) -> None:
    samples = windows(2048)
    plain, _ = logits_after(model_of(llama), samples)

    def visit(index, block):
        block.statistics(final=True)
        return {}

    assert torch.equal(logits_after(model_of(llama), samples, visit)[0], plain)


def test_next_token_logits_are_the_whole_models(llama: Path) -> None:
    contexts = [[5, 6, 7], [9], list(range(30, 50))]
    found = next_token_logits(open_source(str(llama)), contexts)
    whole = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = np.stack([whole(input_ids=torch.tensor([c])).logits[0, -1].numpy() for c in contexts])
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_progress_counts_blocks_and_source_bytes() -> None:
    heard: list[Event] = []
    model = model_of(TINY)
    walk_blocks(model, windows(2048, count=1, seqlen=4), lambda i, b: {}, heard.append)
    events = [event for event in heard if isinstance(event, TensorProgress)]
    within = [event for event in heard if isinstance(event, BlockProgress)]
    assert {(event.block, event.index) for event in within} == {(f"model.layers.{n}", n + 1) for n in range(4)}
    assert all((event.samples, event.of_samples) == (1, 1) for event in within)
    assert [event.tensor for event in events] == [f"model.layers.{n}" for n in range(4)] + ["head"]
    assert [event.index for event in events] == list(range(5))
    done = [event.done_bytes for event in events]
    assert done == sorted(done)
    assert done[-1] <= events[-1].total_bytes == sum(i.nbytes for i in model.checkpoint.tensors().values())


def test_activations_can_lie_in_a_file(llama: Path, tmp_path: Path) -> None:
    """The same bits, of what the walk changed, too, and of the reference that goes with it."""
    samples = windows(2048, count=70, seqlen=40)
    scratch = Scratch(0, tmp_path)
    model = open_calibration_model(open_source(str(llama)), CalibrationSpec(("-",), threads=2), scratch)
    found = logits_after(model, samples, halved, How(keep_reference=True))
    expected = logits_after(model_of(llama), samples, halved, How(keep_reference=True))
    assert len(scratch.maps) == 2
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["llama", "mixture"])
def test_a_block_is_gone_when_the_next_is_loaded(kind: str, request: pytest.FixtureRequest) -> None:
    """By counting references alone: nothing waits for the garbage collector."""
    model = model_of(request.getfixturevalue(kind))
    earlier: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def visit(index, block):
        alive.append(sum(ref() is not None for ref in earlier))
        earlier.extend(weakref.ref(block._resident.parameter(name)) for name in block.linears)
        block.statistics(hessian=True)
        return {}

    gc.disable()
    try:
        walk_blocks(model, windows(2048, count=1, seqlen=4), visit)
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def broken(name: str, value: float):
    def edit(tensors):
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[3] = value

    return edit


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("model.layers.1.mlp.up_proj.weight", "block model.layers.1, first in module mlp.up_proj"),
        ("model.layers.0.self_attn.v_proj.weight", "block model.layers.0, first in module self_attn.v_proj"),
        ("model.embed_tokens.weight", "before block model.layers.0"),
    ],
)
@pytest.mark.parametrize("look", [True, False])
def test_non_finite_activations_name_block_and_module(
    name: str, where: str, look: bool, llama: Path, tmp_path: Path
) -> None:
    folder = edited(llama, tmp_path / "broken", broken(name, float("nan")))
    samples = samples_of(np.zeros((2, 6), np.int32))  # token 0 has the broken embedding
    with pytest.raises(NonFiniteError, match="sample 0 become infinite or NaN") as caught:
        walk_blocks(model_of(folder), samples, lambda i, b: b.statistics(hessian=True) and {} if look else {})
    assert where in caught.value.message
    assert caught.value.hint


def test_large_activations_whose_sum_is_not_finite_are_let_through(llama: Path) -> None:
    name, seen = "model.layers.0.mlp.down_proj.weight", {}

    def grow(index, block):
        if index == 1:
            seen["next"] = block._activations.candidate.clone()
        return {name: torch.full_like(block.weight(name), 3e38)} if index == 0 else {}

    walk_blocks(model_of(llama), windows(2048, count=1, seqlen=200), grow, how=How(last=1))
    assert seen["next"].isfinite().all()
    assert not seen["next"].sum().isfinite()


def test_replacements_are_checked(llama: Path) -> None:
    def walk(weights):
        walk_blocks(model_of(llama), windows(2048, count=1, seqlen=4), lambda i, b: weights(b) if i == 0 else {})

    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(InputError, match="has no parameter"):
        walk(lambda b: {"model.layers.1.mlp.up_proj.weight": b.weight(name)})
    with pytest.raises(InputError, match="has shape"):
        walk(lambda b: {name: b.weight(name).T})
    with pytest.raises(NonFiniteError, match="not finite"):
        walk(lambda b: {name: b.weight(name) * torch.inf})
    with pytest.raises(InputError, match="no linear model"):
        walk(lambda b: b.statistics(["model.layers.0.mlp.up.weight"]) and {})


def test_tokens_beyond_the_embedding_are_refused(llama: Path) -> None:
    for token in (2048, -1):
        with pytest.raises(InputError, match=f"token {token} has no row in the embedding, which has 2,048"):
            walk_blocks(model_of(llama), samples_of(np.full((1, 4), token, np.int32)), lambda i, b: {})


def test_activations_beyond_memory_are_refused(llama: Path) -> None:
    model = model_of(llama)
    with pytest.raises(ResourceError, match="activations take") as caught:
        model.new_activations((1 << 20, 1 << 20, 64))
    assert "--samples" in (caught.value.hint or "")


def memory_checkpoint(folder: Path, **config: object) -> MemoryCheckpoint:
    found = json.loads((folder / "config.json").read_text()) | config
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= {name: tensor.float().numpy() for name, tensor in load_file(shard).items()}
    return MemoryCheckpoint({k: v for k, v in found.items() if v is not ...}, tensors)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"architectures": ["NoSuchModel"]}, UnsupportedError, 'unknown model family "NoSuchModel"'),
        ({"architectures": ..., "model_type": ...}, InputError, "neither an architecture nor a model type"),
        ({"num_hidden_layers": 3}, InputError, "num_hidden_layers is 3, the checkpoint has 2"),
        ({"num_hidden_layers": 10**12}, InputError, "num_hidden_layers is 1000000000000"),
        ({"hidden_size": "many"}, InputError, "config.json"),
        ({"num_attention_heads": 0}, InputError, "config.json"),
        ({"num_hidden_layers": True}, InputError, "num_hidden_layers is True"),
        ({"head_dim": 10**11}, InputError, "head_dim is 100000000000"),
        ({"head_dim": 10**7}, InputError, "has shape"),
        ({"vocab_size": 10**9}, InputError, "has shape"),
        ({"layer_types": ["full_attention"] * 10**6}, InputError, "layer_types has 1,000,000 entries"),
        ({"hidden_act": "no_such_act"}, InputError, "config.json: transformers does not know 'no_such_act'"),
        ({"hidden_size": 128}, InputError, "has shape"),
        ({"intermediate_size": 10**7}, InputError, "has shape"),
        ({"rope_parameters": {"rope_type": "odd"}}, InputError, "config.json"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config, error, message: str, llama: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        walk_blocks(open_model(memory_checkpoint(llama, **config)), windows(64, count=1, seqlen=4), lambda i, b: {})
    assert caught.value.hint


def test_a_config_cannot_choose_code(llama: Path) -> None:
    """Remote classes and kernels are never looked up: the walk is the plain one."""
    hostile = {
        "auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"}, "_attn_implementation": "evil/kernel",
        "attn_implementation": "evil/kernel", "experts_implementation": "evil/kernel", "_name_or_path": "/etc/passwd",
        "quantization_config": {"quant_method": "evil"}, "trust_remote_code": True,
    }  # fmt: skip
    samples = windows(2048, count=1, seqlen=8)
    found, _ = logits_after(open_model(memory_checkpoint(llama, **hostile)), samples)
    assert torch.equal(found, logits_after(open_model(memory_checkpoint(llama)), samples)[0])


def test_a_missing_tensor_is_named(llama: Path, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.o_proj.weight"
    folder = edited(llama, tmp_path / "missing", lambda tensors: tensors.pop(name))
    with pytest.raises(InputError, match="no tensor") as caught:
        walk_blocks(model_of(folder), windows(2048, count=1, seqlen=4), lambda i, b: {})
    assert caught.value.tensor == name


def test_other_containers_and_devices_are_refused(llama: Path) -> None:
    checkpoint = open_source(str(llama))
    with pytest.raises(UnsupportedError, match="does not run gguf files"):
        open_model(replace(memory_checkpoint(llama), kind="gguf"))
    for device in ("mps", "nonsense"):
        with pytest.raises(UsageError, match=f"does not run on {device}"):
            open_model(checkpoint, device=device)
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="no CUDA device"):
            open_model(checkpoint, device="cuda")


def test_stacked_experts_in_a_file_are_found(mixture: Path, tmp_path: Path) -> None:
    """What transformers 5 holds in memory, saved by tools that do not split it again."""
    samples = windows(2048, count=2, seqlen=40)

    folder = edited(mixture, tmp_path / "stacked", stack_experts)
    stacked, separate = statistics_of(model_of(folder), samples), statistics_of(model_of(mixture), samples)
    assert stacked.sites == separate.sites
    assert joined([stacked.total(n).squares for n in stacked.sites], (-1,)).equal(
        joined([separate.total(n).squares for n in separate.sites], (-1,))
    )
    source = stacked.linears["model.layers.1.mlp.experts.2.up_proj.weight"].source
    assert (source.tensor, source.start, source.stop) == ("model.layers.1.mlp.experts.gate_up_proj", 480, 576)
