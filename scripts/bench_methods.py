"""Quality and time of calibrated methods against llm-compressor and AutoRound, on the same tokens in the same run.

    python scripts/bench_methods.py MODEL --calibration C.jsonl --text held-out=H.jsonl --text other=O.jsonl
        [--llm-compressor PYTHON] [--auto-round PYTHON] [--recipes gptq-w4g128] [--methods [PART]] [--samples 128]
        [--seqlen 256] [--windows 40] [--group-size 128] [--limit 1200] [--solver [q4_k,q2_k]]

Every contender writes a checkpoint in a process of its own, timed from start to end: `quantkit convert` with each of
the recipes, llm-compressor's GPTQ (4 bits, symmetric, in groups of --group-size) and AutoRound's default (W4A16 in
groups of 128, symmetric), each with the Python of an environment that has it. Calibration windows are chosen by
quantkit and handed to the peers as token ids. All checkpoints are then read back by quantkit and compared with the
original: mean KL divergence per token in nats, with its standard error over windows. With --methods, a table of methods
by bits and group size follows, made in memory; PART chooses those whose name has it. With --solver, a table of what
column feedback takes follows: nanoseconds of one core per weight of the first block's matrices for these types, all of
it and its first sweep alone, beside a plain loop that rounds a column and adds its error to all that follow.
A contender that takes longer than --limit seconds is stopped, and its time is that limit.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.text.samples import Samples, select_samples
from quantkit.calibration.walk.model import open_model
from quantkit.calibration.walk.walk import BlockView, How, walk_blocks
from quantkit.families.known import folds_of
from quantkit.filling.rounding import Rounding, round_block
from quantkit.filling.transforming import Moves
from quantkit.methods import gptq
from quantkit.methods.base import Layer, Prepared
from quantkit.methods.columns.grids import lookup
from quantkit.methods.settings import DEFAULTS, in_turn, single_threaded
from quantkit.methods.transforms import base as transforms
from quantkit.methods.transforms.base import Transform
from quantkit.qtypes import base as qtypes
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.qtypes.target import Target, type_target
from quantkit.source import Checkpoint, open_source

LLM_COMPRESSOR = """
import sys
import numpy as np
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM

source, windows, out, group = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
ids = np.load(windows)
data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()})
weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=int(group))
groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
recipe = GPTQModifier(config_groups=groups, ignore=["lm_head"])
oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=ids.shape[1], num_calibration_samples=len(ids))
model.save_pretrained(out, save_compressed=True)
"""

AUTO_ROUND = """
import sys
import numpy as np
import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

source, windows, out, _ = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(source)
ids = torch.from_numpy(np.load(windows)).long()
data = [row[None] for row in ids]
tool = AutoRound(model, tokenizer, scheme="W4A16", dataset=data, nsamples=len(ids), seqlen=ids.shape[1])
tool.quantize_and_save(out, format="auto_gptq")
"""


@dataclass(frozen=True)
class Timed:
    """A process: wall and processor seconds; `finished` is False for one that was stopped."""

    seconds: float
    processor: float
    finished: bool


@dataclass(frozen=True)
class Divergence:
    """Mean KL divergence per token and its standard error over windows."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.6f} ± {self.error:.6f}"


def timed(command: list[str], limit: float) -> Timed:
    """Run a command to its end or the limit; its output is shown when it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if pid or seconds > limit:
                break
            time.sleep(0.02)
        if not pid:
            os.killpg(process.pid, signal.SIGKILL)
            _, _, usage = os.wait4(process.pid, 0)
            return Timed(seconds, usage.ru_utime + usage.ru_stime, finished=False)
        if status:
            log.seek(0)
            sys.exit(f"{' '.join(command[:2])} failed:\n{log.read().decode(errors='replace')[-3000:]}")
    return Timed(seconds, usage.ru_utime + usage.ru_stime, finished=True)


def divergences(model: Checkpoint, samples: Samples, put: Callable[[BlockView], None]) -> Divergence:
    """KL divergence of the model whose block weights `put` changes, from the model itself."""
    windows = np.zeros(len(samples.tokens))

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if not block.is_head:
            put(block)
            return {}
        for piece in block.logits():
            assert piece.reference is not None
            p, q = (torch.log_softmax(logits.double(), dim=-1) for logits in (piece.reference, piece.candidate))
            windows[piece.position] += float((p.exp() * (p - q)).sum())
        return {}

    walk_blocks(open_model(model), samples, visit, how=How(keep_reference=True))
    windows /= samples.tokens.shape[1]
    return Divergence(float(windows.mean()), float(windows.std(ddof=1) / len(windows) ** 0.5))


def stored(checkpoint: Checkpoint) -> Callable[[BlockView], None]:
    """Puts the weights of another checkpoint of the same model into a block."""

    def put(block: BlockView) -> None:
        def values(name: str) -> torch.Tensor:
            ref = checkpoint.ref(block.source_name(name))
            return torch.from_numpy(ref.read(0, ref.info.rows)).reshape(block.weight(name).shape)

        block.replace({name: values(name) for name in sorted(block.parameters)})

    return put


def rounded(
    model: Checkpoint, samples: Samples, rounding: Rounding, transform: Transform | None
) -> Callable[[BlockView], None]:
    """Rounds the model in memory, and puts the result into a block."""
    found: dict[str, torch.Tensor] = {}

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        if not block.is_head:
            plan = dict.fromkeys(block.linears, rounding)
            made = round_block(block, plan, block.run, Moves(transform, folds_of("llama")) if transform else None)
            found.update({name: torch.from_numpy(one.quantized.values()) for name, one in made.linears.items()})
            found.update({name: torch.from_numpy(values) for name, values in made.changed.items()})
        return {}

    data_free = rounding.method == "rtn" and transform is None
    walk_blocks(open_model(model), samples.part(0, 1) if data_free else samples, visit)
    return lambda block: block.replace({name: value for name, value in found.items() if name in block.parameters})


def variants() -> dict[str, tuple[Rounding, Transform | None]]:
    """Methods by bits and group size."""
    table: dict[str, tuple[Rounding, Transform | None]] = {}
    for bits in (4, 3):
        for group in (128, 64, 32):
            scheme, name = Integers(bits, group, "full-range"), f"W{bits} g{group}"
            table |= {
                f"{name} rounding": (Rounding(Integers(bits, group), "rtn"), None),
                f"{name} rounding, signed scale": (Rounding(scheme, "rtn"), None),
                f"{name} AWQ": (Rounding(scheme, "rtn"), transforms.get("awq")),
                f"{name} GPTQ": (Rounding(scheme), None),
            }
    return table | {
        "INT8 per row": (Rounding(Integers(8), "rtn"), None),
        "FP8 per row": (Rounding(Float8("channel"), "rtn"), None),
        "NF4": (Rounding(Codebook("nf4"), "rtn"), None),
        "NF4 GPTQ": (Rounding(Codebook("nf4")), None),
    }


def plain_sweep(layer: Layer, target: Target, ready: Prepared) -> None:
    """Round column after column on grids of the original weights: what the solver's sweep does, in blocks."""
    visited, mixing = ready.columns.visited, ready.factor.mixing
    own = torch.from_numpy(np.ascontiguousarray(layer.weight[:, visited]))
    targets, grid = own.clone(), lookup(target.fit(layer.weight, None), len(layer.weight))
    groups = visited // (own.shape[1] // grid.scale.shape[1])
    scale = torch.from_numpy(grid.scale)
    offset = torch.from_numpy(grid.offset) if grid.offset.size else torch.zeros_like(scale)
    middles, levels = torch.from_numpy(grid.middles), torch.from_numpy(grid.levels)
    for k, group in enumerate(groups):
        x = (targets[:, k] - offset[:, group]) / scale[:, group]
        found = levels[torch.bucketize(x, middles)] if len(levels) else x.round().clamp(grid.low, grid.high)
        error = own[:, k] - (found * scale[:, group] + offset[:, group])
        targets[:, k + 1 :].addr_(error, mixing[k, k + 1 :])


def solver_times(model: Checkpoint, samples: Samples, names: Sequence[str]) -> Iterator[str]:
    """Nanoseconds of one core per weight, by type and shape: all of the method, its first sweep, a plain loop."""
    found: dict[tuple[int, ...], Layer] = {}

    def visit(index: int, block: BlockView) -> Mapping[str, torch.Tensor]:
        sums = block.statistics(hessian=True)
        for name in block.linears:
            weight = block.weight(name).numpy()
            gram = sums.total(name).gram
            assert gram is not None
            found.setdefault(weight.shape, Layer(name, weight.copy(), gram.full()))
        return {}

    def spent(work: Callable[..., object], *given: object) -> float:
        with single_threaded():
            work(*given)  # compiles
            start = time.process_time()
            work(*given)
            return time.process_time() - start

    walk_blocks(open_model(model), samples, visit, how=How(last=0))
    for name in names:
        target = type_target(qtypes.get(name))
        for shape, layer in found.items():
            ready = gptq.prepare(layer, target, DEFAULTS, in_turn)
            known = replace(layer, prepared=ready)
            took = [
                spent(gptq.quantize, known, target, DEFAULTS, in_turn),
                spent(gptq.quantize, known, target, replace(DEFAULTS, passes=0), in_turn),
                spent(plain_sweep, layer, target, ready),
            ]
            yield f"{name:8} {shape!s:14}" + "".join(f"{1e9 * one / layer.weight.size:10.1f}" for one in took)


def contenders(options: argparse.Namespace, work: Path) -> dict[str, list[str]]:
    """Commands by name; each writes the folder of its name below `work`."""
    quantkit = str(Path(sys.executable).with_name("quantkit"))
    commands = {}
    for recipe in filter(None, options.recipes.split(",")):
        name = Path(recipe).stem
        commands[name] = [
            quantkit, "convert", options.model, "--to", recipe, "--calib", options.calibration,
            "--samples", str(options.samples), "--seqlen", str(options.seqlen), "-o", str(work / name), "--quiet",
        ]  # fmt: skip
    peers = {"llm-compressor": (options.llm_compressor, LLM_COMPRESSOR), "auto-round": (options.auto_round, AUTO_ROUND)}
    for name, (python, code) in peers.items():
        if python:
            given = [options.model, str(work / "windows.npy"), str(work / name), str(options.group_size)]
            commands[name] = [python, "-c", code, *given]
    return commands


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--llm-compressor", metavar="PYTHON")
    parser.add_argument("--auto-round", metavar="PYTHON")
    parser.add_argument("--recipes", default="gptq-w4g128")
    parser.add_argument("--methods", nargs="?", const="", metavar="PART")
    parser.add_argument("--solver", nargs="?", const="q4_k,q6_k,q5_k,q3_k,q2_k,q4_0,iq4_nl,iq4_xs", metavar="TYPES")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--limit", type=float, default=1200)
    return parser.parse_args()


def chosen(model: Checkpoint, path: str, seqlen: int, samples: int) -> Samples:
    return select_samples(load_texts(path), model_tokens(model, model_rows(model)), seqlen=seqlen, samples=samples)


def model_rows(model: Checkpoint) -> int:
    return open_model(model).rows


def main() -> None:
    options = parsed()
    model = open_source(options.model)
    calibration = chosen(model, options.calibration, options.seqlen, options.samples)
    texts = {
        name: chosen(model, path, options.seqlen, options.windows)
        for name, _, path in (given.partition("=") for given in options.text)
    }
    print(f"{'':30} {'wall s':>8} {'CPU s':>8}  " + "  ".join(f"KL {name:18}" for name in texts), flush=True)
    first: tuple[Timed, list[Divergence]] | None = None
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.save(work / "windows.npy", calibration.tokens)
        for name, command in contenders(options, work).items():
            took = timed(command, options.limit)
            print(f"{name:30} {took.seconds:8.1f} {took.processor:8.1f}  ", end="", flush=True)
            found = []
            if took.finished:
                out = next(p.parent for p in sorted((work / name).rglob("config.json")))
                found = [divergences(model, text, stored(open_source(str(out)))) for text in texts.values()]
            print("  ".join(str(one) for one in found) if found else "stopped", end="")
            if first is None:
                first = (took, found)
                print()
                continue
            ratios = [f"{a.mean / b.mean:.2f}" for a, b in zip(first[1], found, strict=False)]
            print(f"  first: {took.seconds / first[0].seconds:.1f} x faster, KL x {', '.join(ratios)}", flush=True)
    for name, (rounding, transform) in variants().items():
        if options.methods is None or options.methods not in name:
            continue
        start = time.perf_counter()
        replaced = rounded(model, calibration, rounding, transform)
        print(f"{name:30} {time.perf_counter() - start:8.1f} {'':8}  ", end="", flush=True)
        print("  ".join(str(divergences(model, text, replaced)) for text in texts.values()), flush=True)
    if options.solver:
        print(f"{'type':8} {'shape':14}{'all':>10}{'sweep':>10}{'plain':>10}  ns per weight, one core")
        for line in solver_times(model, calibration.part(0, 16), options.solver.split(",")):
            print(line, flush=True)


if __name__ == "__main__":
    main()
