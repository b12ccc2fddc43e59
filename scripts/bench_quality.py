"""Damage of GGUF files of the same bytes: plain, with an importance matrix, with feedback; all from the same text.

    python scripts/bench_quality.py MODEL --calibration C.jsonl --text held-out=H.jsonl --text other=O.jsonl
        [--recipes q4_k_m,q3_k_m,q2_k] [--hardened] [--engine 32] [--samples 128,32] [--seeds 0,1] [--seqlen 256]
        [--context 1024] [--documents 40] [--keep FOLDER] [--convert ARGUMENT ...]

Trains nothing and downloads nothing: MODEL is a checkpoint folder of the Llama family. Every contender is a
`quantkit convert` in a process of its own, timed from start to end with its peak resident memory: without text, with
`--imatrix` (calibrated on the same tokens: what llama-quantize writes, byte for byte), and with `--calib`; types that
are useless without importance are not made plain. The last two must have the same types for the same tensors. They are
decoded to float32 by the gguf package and run by transformers over whole documents, each up to --context tokens.
Printed is the mean KL divergence per token in nats from the original, its ratio to the imatrix file and, behind it, the
95 % interval of a paired bootstrap over documents.

--hardened repeats this for the same function with other numbers: channels between norms and linears, and between up
and down projections, multiplied by log-normal factors (sigma 1), one in a hundred of them by another 50. --engine N
runs the files in real llama.cpp as well, at the ends of N passages per text. --convert adds arguments to the run with
feedback, as --convert=--no-refit-norms.

Several --samples and --seeds make a grid: as many calibration windows, and the documents of the calibration text in
another order for every seed but 0, so that other windows are taken. At the end it is said which of all cases did more
damage with feedback than with the importance matrix: on average, and beyond the standard error of the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import gguf
import numpy as np
import torch
from child import Took, run
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.walk.model import open_model
from quantkit.source import open_source

RESAMPLES = 10_000
PIECE = 4096  # tokens run at once

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Made:
    """A contender's file, and what making it took."""

    file: Path
    took: Took


@dataclass(frozen=True)
class Damage:
    """Sums of the KL divergence over the tokens of each document, and their numbers of tokens, (documents,)."""

    sums: F64
    tokens: F64

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.tokens.sum())


def ratio(a: Damage, b: Damage) -> tuple[float, float, float]:
    """Mean of a to mean of b, and its 95 % interval: documents drawn with replacement, the same for both."""
    draws = np.random.default_rng(0).integers(0, len(a.sums), (RESAMPLES, len(a.sums)))
    low, high = np.quantile(a.sums[draws].sum(axis=1) / b.sums[draws].sum(axis=1), [0.025, 0.975])
    return a.mean / b.mean, float(low), float(high)


def quantkit(*arguments: str) -> Took:
    return run([sys.executable, "-m", "quantkit", *arguments, "--quiet"], {**os.environ, "HF_HUB_OFFLINE": "1"})


@dataclass(frozen=True)
class Case:
    """What a comparison is of: the checkpoint, its calibration text, the number of windows, and a folder to work in."""

    label: str
    source: str
    calibration: str
    samples: int
    work: Path


def make(case: Case, recipe: str, options: argparse.Namespace) -> dict[str, Made]:
    """The files of a recipe."""
    model, work = case.source, case.work
    text = ["--samples", str(case.samples), "--seqlen", str(options.seqlen)]
    imatrix = work / "imatrix.gguf"
    if not imatrix.exists():
        data = ["--data", case.calibration, "--no-hessian", "-o", str(imatrix)]
        quantkit("calibrate", model, *data, *text)
    extra = {
        **({} if needs_importance(recipe) else {"plain": list[str]()}),
        "imatrix": ["--imatrix", str(imatrix)],
        "feedback": ["--calib", case.calibration, *text, *(options.convert or ())],
    }
    made = {}
    for name, arguments in extra.items():
        folder = work / recipe / name
        took = quantkit("convert", model, "--to", recipe, *arguments, "-o", str(folder))
        made[name] = Made(next(folder.rglob("*.gguf")), took)
    kinds = {name: {t.name: t.tensor_type for t in gguf.GGUFReader(one.file).tensors} for name, one in made.items()}
    if kinds["feedback"] != kinds["imatrix"]:
        sys.exit(f"{recipe}: the files differ in their types")
    return made


def parameters(file: Path, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a GGUF file under their names in the checkpoint, float32, as they were before conversion."""
    config = model.config
    count, heads = config.num_hidden_layers, config.num_attention_heads
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, count)
    known = {}
    for name, _ in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        known[f"{names.get_name(stem)}.{suffix}"] = name
    for tensor in gguf.GGUFReader(file).tensors:
        name = known.get(tensor.name)
        if name is None:
            sys.exit(f"{tensor.name} is no tensor of this model")
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        if "attn_q." in tensor.name or "attn_k." in tensor.name:
            rows = heads if "attn_q." in tensor.name else config.num_key_value_heads
            pairs = values.reshape(rows, -1, 2, *values.shape[1:])  # llama.cpp keeps the two of a rotation together
            values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
        yield name, torch.from_numpy(values)


def opened(source: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.eval().requires_grad_(False)
    return model


def documents(source: str, path: str, options: argparse.Namespace) -> list[list[int]]:
    """Token ids of the first documents, each with the token that begins a text and cut to the context."""
    checkpoint = open_source(source)
    tokens = model_tokens(checkpoint, open_model(checkpoint).rows)
    start = [] if tokens.bos is None else [tokens.bos]
    found = (start + tokens.encode(text) for text in load_texts(path).documents)
    return [ids[: options.context] for ids in found if len(ids) > 32][: options.documents]


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)


def damages(
    reference: PreTrainedModel, candidates: dict[str, PreTrainedModel], texts: list[list[int]]
) -> dict[str, Damage]:
    """The KL divergence of several models from one, document by document."""
    sums: dict[str, list[float]] = {name: [] for name in candidates}
    for ids in texts:
        expected = log_probabilities(reference, ids)
        weights = expected.exp()
        for name, candidate in candidates.items():
            found = weights * (expected - log_probabilities(candidate, ids))
            sums[name].append(float(found.sum(dtype=torch.float64)))
    tokens = np.array([len(ids) for ids in texts], np.float64)
    return {name: Damage(np.array(values), tokens) for name, values in sums.items()}


def in_engine(file: Path, expected: list[tuple[list[int], NDArray[np.float32]]], threads: int) -> Damage:
    """The same in llama.cpp, at the end of each passage."""
    from quantkit.quality.engines.llamacpp import LlamaCpp

    sums = []
    with closing(LlamaCpp(file, threads, context=max(len(ids) for ids, _ in expected))) as engine:
        for ids, logs in expected:
            [logits] = engine.logits(ids, [len(ids) - 1])
            found = torch.log_softmax(torch.from_numpy(logits[0, : len(logs)].astype(np.float64)), 0).numpy()
            sums.append(float((np.exp(logs, dtype=np.float64) * (logs - found)).sum()))
    return Damage(np.array(sums), np.ones(len(sums)))


def passages(model: PreTrainedModel, texts: list[list[int]], count: int) -> list[tuple[list[int], NDArray[np.float32]]]:
    """Beginnings of documents of growing length, and what the model expects after each."""
    chosen = [texts[k % len(texts)][: 48 + 16 * (k // len(texts))] for k in range(count)]
    return [(ids, log_probabilities(model, ids)[-1].numpy()) for ids in chosen]


def harden(source: str, to: Path, seed: int) -> None:
    """Write the same function with channels multiplied and divided by random factors, float32."""
    rng = np.random.default_rng(seed)
    weights = {k: v.float() for path in sorted(Path(source).glob("*.safetensors")) for k, v in load_file(path).items()}

    def factors(count: int) -> torch.Tensor:
        found = np.exp(rng.standard_normal(count))
        found[rng.random(count) < 0.01] *= 50
        return torch.from_numpy(found.astype(np.float32))

    def move(norm: str, readers: Sequence[str]) -> None:
        scale = factors(len(weights[norm]))
        weights[norm] = weights[norm] * scale
        for name in readers:
            weights[name] = weights[name] / scale

    for k in range(AutoConfig.from_pretrained(source).num_hidden_layers):
        block = f"model.layers.{k}."
        move(block + "input_layernorm.weight", [f"{block}self_attn.{x}_proj.weight" for x in "qkv"])
        move(block + "post_attention_layernorm.weight", [f"{block}mlp.{x}_proj.weight" for x in ("gate", "up")])
        scale = factors(len(weights[block + "mlp.up_proj.weight"]))
        weights[block + "mlp.up_proj.weight"] *= scale[:, None]
        weights[block + "mlp.down_proj.weight"] /= scale
    if "lm_head.weight" in weights:
        move("model.norm.weight", ["lm_head.weight"])
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("*.safetensors*", ".*"))
    to.chmod(0o755)
    save_file({name: value.contiguous() for name, value in weights.items()}, to / "model.safetensors", {"format": "pt"})
    config = json.loads((Path(source) / "config.json").read_text())
    (to / "config.json").unlink()
    (to / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32", "dtype": "float32"}))


def compare(case: Case, options: argparse.Namespace) -> Iterator[tuple[str, Damage, Damage]]:
    """Measure all recipes of a case and print them; what was measured, with feedback and with the importance matrix."""
    reference = opened(case.source)
    texts = {
        name: documents(case.source, path, options) for name, _, path in (one.partition("=") for one in options.text)
    }
    for recipe in options.recipes.split(","):
        made = make(case, recipe, options)
        models = {}
        for name, one in made.items():
            models[name] = opened(case.source)
            models[name].load_state_dict(
                dict(parameters(one.file, models[name])), strict=not models[name].config.tie_word_embeddings
            )
        found = {text: damages(reference, models, ids) for text, ids in texts.items()}
        del models
        label = f"{case.label}{recipe}"
        report(label, made, found)
        for text, damage in found.items():
            yield f"{label}, {text}", damage["feedback"], damage["imatrix"]
        if options.engine:
            points = {text: passages(reference, ids, options.engine) for text, ids in texts.items()}
            threads = torch.get_num_threads()
            ran = {t: {n: in_engine(m.file, points[t], threads) for n, m in made.items()} for t in points}
            report(f"{label}, llama.cpp", made, ran)


def needs_importance(recipe: str) -> bool:
    """Whether the recipe names a type that is useless without importance."""
    return recipe.startswith(("iq1", "iq2", "iq3_xxs"))


def report(label: str, made: dict[str, Made], found: dict[str, dict[str, Damage]]) -> None:
    for name, one in made.items():
        line = f"{label:28} {name:9} {one.file.stat().st_size:12,} {one.took.seconds:7.1f} {one.took.peak / 1e6:8,.0f}"
        for by_name in found.values():
            value, low, high = ratio(by_name[name], by_name["imatrix"])
            line += f"  {by_name[name].mean:.6f} {value:6.3f} ({low:.3f} to {high:.3f})"
        print(line, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--recipes", default="q4_k_m,q3_k_m,q2_k")
    parser.add_argument("--hardened", action="store_true")
    parser.add_argument("--engine", type=int, default=0, metavar="N")
    parser.add_argument("--samples", default="128", metavar="N,...")
    parser.add_argument("--seeds", default="0", metavar="N,...")
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--convert", nargs="*", metavar="ARGUMENT")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    names = [one.partition("=")[0] for one in options.text]
    head = "".join(f"  KL {name}, ratio to imatrix, 95 %".ljust(36) for name in names)
    print(f"{'':28} {'':9} {'bytes':>12} {'wall s':>7} {'peak MB':>8}{head}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        judge([one for case in cases(options, options.keep or Path(temporary)) for one in compare(case, options)])


def cases(options: argparse.Namespace, work: Path) -> Iterator[Case]:
    """Every checkpoint with every number of windows and every order of the text."""
    work.mkdir(parents=True, exist_ok=True)
    sources = {"": options.model}
    if options.hardened:
        sources["hardened "] = str(work / "source")
        harden(options.model, work / "source", 0)
    samples, seeds = ([int(one) for one in given.split(",")] for given in (options.samples, options.seeds))
    for (kind, source), count, seed in product(sources.items(), samples, seeds):
        label = kind + (f"{count} windows " if len(samples) > 1 else "") + (f"order {seed} " if len(seeds) > 1 else "")
        folder = work / f"{kind.strip() or 'as-it-is'}-{count}-{seed}"
        folder.mkdir(exist_ok=True)
        yield Case(label, source, shuffled(options.calibration, folder, seed), count, folder)


def shuffled(calibration: str, folder: Path, seed: int) -> str:
    """The JSON Lines with their documents in the order of a seed, 0 for their own."""
    if not seed:
        return calibration
    lines = Path(calibration).read_text(encoding="utf-8").splitlines()
    order = np.random.default_rng(seed).permutation(len(lines))
    (folder / "calibration.jsonl").write_text("".join(lines[k] + "\n" for k in order), encoding="utf-8")
    return str(folder / "calibration.jsonl")


def judge(measured: list[tuple[str, Damage, Damage]]) -> None:
    """Say of how many cases the file with feedback did more damage than the one with an importance matrix."""
    worse, beyond = [], []
    for label, feedback, imatrix in measured:
        difference = feedback.sums - imatrix.sums
        if difference.sum() > 0:
            worse.append(label)
            # of a ratio of sums over documents, both of the same tokens
            apart = difference - difference.sum() / feedback.tokens.sum() * feedback.tokens
            if difference.sum() > np.sqrt(np.square(apart).sum() * len(apart) / (len(apart) - 1)):
                beyond.append(label)
    ratios = [feedback.mean / imatrix.mean for _, feedback, imatrix in measured]
    span = f"{min(ratios):.3f} to {max(ratios):.3f}, median {np.median(ratios):.3f}"
    print(f"{len(measured)} cases: feedback / imatrix {span}")
    print(f"more damage with feedback: {len(worse)}, beyond a standard error: {len(beyond)}")
    for label in beyond:
        print(f"  {label}")


if __name__ == "__main__":
    main()
